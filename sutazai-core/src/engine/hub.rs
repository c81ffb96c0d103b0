//! Tells those who wait for a task what became of it, in this process and after the commit.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::task::{Task, TaskId};

/// Latest images of the tasks that somebody waits for; the others cost nothing.
#[derive(Default)]
pub(crate) struct Hub {
    waiting: Mutex<HashMap<TaskId, watch::Sender<Option<Arc<Task>>>>>,
    count: AtomicUsize,
}

impl Hub {
    /// From now on sees every image of the task that is published.
    pub(crate) fn subscribe(self: &Arc<Self>, id: TaskId) -> Subscription {
        let mut waiting = self.lock();
        let sender = waiting.entry(id).or_insert_with(|| watch::channel(None).0);
        let images = sender.subscribe();
        self.count.store(waiting.len(), Ordering::SeqCst);
        Subscription { id, images, hub: Arc::clone(self) }
    }

    pub(crate) fn publish(&self, task: &Arc<Task>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(sender) = self.lock().get(&task.id) {
            sender.send_replace(Some(Arc::clone(task)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, watch::Sender<Option<Arc<Task>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's interest in a task; ends when dropped.
pub(crate) struct Subscription {
    id: TaskId,
    images: watch::Receiver<Option<Arc<Task>>>,
    hub: Arc<Hub>,
}

impl Subscription {
    /// The image in which the task has ended, once it is published.
    pub(crate) async fn ended(&mut self) -> Option<Arc<Task>> {
        let ended = |image: &Option<Arc<Task>>| image.as_ref().is_some_and(|task| task.state.is_terminal());
        self.images.wait_for(ended).await.ok().and_then(|image| image.clone())
    }

    /// Returns when an image is published that this subscription has not seen.
    pub(crate) async fn changed(&mut self) {
        // The sender lives in the hub as long as this subscription does.
        let _ = self.images.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        // This receiver still counts.
        if waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            waiting.remove(&self.id);
            self.hub.count.store(waiting.len(), Ordering::SeqCst);
        }
    }
}
