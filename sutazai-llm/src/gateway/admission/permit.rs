//! The right to ask a model now.

use std::{fmt, sync::Arc};

use super::{desk::Shared, policy::Moment};

/// The right to ask a model now. Comes back when it is dropped.
pub struct Permit {
    shared: Option<Arc<Shared>>,
    pub(super) model: usize,
    pub(super) tenant: Arc<str>,
    pub(super) began: Moment,
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, model: usize, tenant: Arc<str>, began: Moment) -> Self {
        Self { shared: Some(shared), model, tenant, began }
    }

    /// Gives it back after an answer that ended as it should.
    pub fn answered(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.release(&self, true);
        }
    }

    /// Gives it back at once though there was no answer: the model is known to be at nothing more.
    pub fn failed(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.release(&self, false);
        }
    }

    /// It was never used, and is not to be given back.
    pub(super) fn forget(mut self) {
        self.shared = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        let settle = shared.config.settle;
        let runtime = tokio::runtime::Handle::try_current();
        match runtime.ok().filter(|_| !settle.is_zero()) {
            None => shared.release(self, false),
            Some(runtime) => {
                let late =
                    Self { shared: None, model: self.model, tenant: Arc::clone(&self.tenant), began: self.began };
                runtime.spawn(async move {
                    tokio::time::sleep(settle).await;
                    shared.release(&late, false);
                });
            }
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("model", &self.model).finish_non_exhaustive()
    }
}
