//! A model that its callers want out of memory: it leaves once nothing of it runs.

use std::{mem, sync::Arc};

use sutazai_core::Result;
use tokio::{runtime::Handle, time::timeout};

use super::{Residence, Shared, full, silent};

/// A model on its way out of memory. Unless it has [gone](Self::by), it is where it was when this is dropped.
pub(in crate::gateway::admission) struct Leaving {
    shared: Arc<Shared>,
    place: usize,
    was: Residence,
    is_gone: bool,
}

impl Shared {
    /// Waits until nothing of the model at `place` runs, for as long as a request would wait for its turn. Until then others go on as if nobody waited; then
    /// nothing new of it begins, until what this gives is dropped.
    pub(in crate::gateway::admission) async fn leave(self: &Arc<Self>, place: usize) -> Result<Leaving> {
        let _ = self.runtime.set(Handle::current());
        let patience = self.config.queue_timeout;
        let busy = |_| Err(full(format!("the model was busy for {} s; try again later", patience.as_secs())));
        timeout(patience, self.idle(place)).await.map_or_else(busy, Ok)
    }

    async fn idle(self: &Arc<Self>, place: usize) -> Leaving {
        let changed = Arc::clone(&self.desk().models[place].changed);
        loop {
            // Made before anything is looked at: whatever changes after that is noticed.
            let change = changed.notified();
            if let Some(leaving) = self.leads_out(place) {
                return leaving;
            }
            change.await;
        }
    }

    /// Leads the model at `place` out, unless something of it runs or it is just coming or going.
    fn leads_out(self: &Arc<Self>, place: usize) -> Option<Leaving> {
        let mut desk = self.desk();
        let view = &mut desk.views[place];
        if view.running > 0 || !matches!(view.residence, Residence::Out | Residence::In(_)) {
            return None;
        }
        let was = mem::replace(&mut view.residence, Residence::Leaving);
        Some(Leaving { shared: Arc::clone(self), place, was, is_gone: false })
    }
}

impl Leaving {
    /// Has the model go by `unload`, in bounded time. After an error it is taken to be where it was.
    pub(in crate::gateway::admission) async fn by(mut self, unload: impl Future<Output = Result<()>>) -> Result<()> {
        let silence = self.shared.config.silence;
        let unloaded = timeout(silence, unload).await.unwrap_or_else(|_| Err(silent(silence)));
        self.is_gone = unloaded.is_ok();
        unloaded
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut guard = self.shared.desk();
        let desk = &mut *guard;
        let (model, view) = (&mut desk.models[self.place], &mut desk.views[self.place]);
        view.residence = if self.is_gone { Residence::Out } else { self.was };
        model.is_here &= !self.is_gone;
        if self.is_gone && matches!(self.was, Residence::In(_)) {
            self.shared.observer.unloaded(model.resident.info());
        }
        let changed = Arc::clone(&model.changed);
        self.shared.drive(guard);
        changed.notify_waiters();
    }
}
