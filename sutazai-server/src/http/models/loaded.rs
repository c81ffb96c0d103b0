//! Which models are in memory, as far as requests have brought them there.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The models that have answered requests for models in this process, or were loaded by one, and that none has unloaded since. What an agent uses, and what
/// a model does of its own accord, is not seen.
#[derive(Default)]
pub(in crate::http) struct Loaded(Mutex<BTreeSet<String>>);

impl Loaded {
    /// The model called `name` is in memory.
    pub(in crate::http) fn note(&self, name: &str) {
        let mut names = self.names();
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
    }

    /// It is no longer.
    pub(in crate::http) fn forget(&self, name: &str) {
        self.names().remove(name);
    }

    /// Whether it is.
    pub(in crate::http) fn holds(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
