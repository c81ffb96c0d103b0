//! Settings that cannot be used.

use crate::process::Failure;

/// What is wrong with the settings, all of it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    faults: Vec<String>,
    hint: &'static str,
}

impl Refused {
    pub(super) fn new(faults: Vec<String>) -> Self {
        Self { faults, hint: "`sutazai-server serve --help` lists every setting with its default" }
    }

    pub(super) fn one(fault: impl Into<String>, hint: &'static str) -> Self {
        Self { faults: vec![fault.into()], hint }
    }

    /// One sentence for each.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::usage(refused.faults.join("; ")).hint(refused.hint)
    }
}
