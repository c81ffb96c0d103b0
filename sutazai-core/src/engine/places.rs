//! Places under limits: so many tasks of an agent or a tenant run at once, and the end of one makes room for the next.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// How soon a process looks again for places that others make free, which tell it nothing of it.
pub(crate) const OTHERS_PLACES: Duration = Duration::from_millis(500);

/// Whether somebody waits for a place, and how many were given back.
#[derive(Default)]
pub(crate) struct Places {
    freed: AtomicU64,
    waited_for: AtomicBool,
}

impl Places {
    /// A task does not run any more; whether the dispatcher should look.
    pub(crate) fn free(&self) -> bool {
        self.freed.fetch_add(1, Ordering::SeqCst);
        self.waited_for.load(Ordering::SeqCst) && self.waited_for.swap(false, Ordering::SeqCst)
    }

    /// How many were given back so far: to be asked before a claim.
    pub(crate) fn freed(&self) -> u64 {
        self.freed.load(Ordering::SeqCst)
    }

    /// A claim found none, `freed` being what was given back before it. From now on the next one that is given back wakes the dispatcher; false if one was
    /// given back meanwhile, which the claim may not have seen.
    pub(crate) fn wait(&self, freed: u64) -> bool {
        self.waited_for.store(true, Ordering::SeqCst);
        self.freed() == freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_place_is_given_back_unnoticed() {
        let places = Places::default();
        assert!(!places.free(), "nobody waits");
        let seen = places.freed();
        assert!(places.wait(seen));
        assert!(places.free());
        assert!(!places.free(), "the dispatcher looks already");
        assert!(!places.wait(seen), "two were given back since");
    }
}
