//! One change at a time under each idempotency key of this process.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sutazai_core::{Error, ErrorKind, Result, task::IdempotencyKey};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// A key within its scope.
type Name = (Arc<str>, Arc<str>);
type Lock = Arc<tokio::sync::Mutex<()>>;

/// The keys under which somebody acts right now, or waits to.
#[derive(Default)]
pub(super) struct Keys {
    busy: Mutex<HashMap<Name, Lock>>,
    turns: TaskTracker,
}

impl Keys {
    /// Returns when nobody else acts under this key; `shutting_down` once [`Keys::close`] was called.
    pub(super) async fn turn(&self, key: &IdempotencyKey) -> Result<Turn<'_>> {
        let counted = self.turns.token(); // before the look: whoever closes waits for this one, or it sees the end
        if self.turns.is_closed() {
            return Err(Error::new(ErrorKind::Unavailable, "the server is shutting down").with_code("shutting_down"));
        }
        let name = (Arc::clone(&key.tenant), Arc::clone(&key.key));
        let lock = Arc::clone(self.busy().entry(name.clone()).or_default());
        let mut turn = Turn { keys: self, name, lock: Some(Arc::clone(&lock)), held: None, _counted: counted };
        turn.held = Some(lock.lock_owned().await);
        Ok(turn)
    }

    /// Gives nobody a turn any more, and returns when all are over.
    pub(super) async fn close(&self) {
        self.turns.close();
        self.turns.wait().await;
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<Name, Lock>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives nobody else acts under its key.
pub(super) struct Turn<'a> {
    keys: &'a Keys,
    name: Name,
    lock: Option<Lock>,
    held: Option<OwnedMutexGuard<()>>,
    _counted: TaskTrackerToken,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut busy = self.keys.busy();
        self.lock = None; // under the lock of the map, in which alone others take one
        if busy.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            busy.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use sutazai_core::Payload;

    use super::*;

    fn key(name: &str) -> IdempotencyKey {
        IdempotencyKey::new("default", name, "POST", &Payload::null()).unwrap()
    }

    /// Whether `future` is done at its first look.
    async fn at_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    #[tokio::test]
    async fn a_key_is_one_persons_at_a_time_and_forgotten_after() {
        let keys = Keys::default();
        let first = keys.turn(&key("a")).await.unwrap();
        let other = keys.turn(&key("b")).await.unwrap();
        let (again, gone) = (key("a"), key("a"));
        let mut second = pin!(keys.turn(&again));
        assert!(at_once(&mut second).await.is_none());
        {
            let mut left = Box::pin(keys.turn(&gone));
            assert!(at_once(&mut left).await.is_none());
        }
        drop((first, other));
        drop(second.await.unwrap());
        assert!(keys.busy().is_empty());
    }

    #[tokio::test]
    async fn who_closes_waits_for_the_turns_and_gives_no_more() {
        let keys = Keys::default();
        let turn = keys.turn(&key("a")).await.unwrap();
        let mut closed = pin!(keys.close());
        assert!(at_once(&mut closed).await.is_none());
        assert_eq!(keys.turn(&key("b")).await.err().unwrap().code(), "shutting_down");
        assert!(at_once(&mut closed).await.is_none());
        drop(turn);
        closed.await;
    }
}
