//! Tells those who wait for a task what became of it, in this process and after the commit.

use std::{
    collections::BTreeMap,
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
    waiting: Mutex<BTreeMap<TaskId, watch::Sender<Option<Arc<Task>>>>>,
    count: AtomicUsize,
}

impl Hub {
    /// From now on sees every image of the task that is published.
    pub(crate) fn subscribe(self: &Arc<Self>, id: TaskId) -> Subscription {
        let mut waiting = self.lock();
        let sender = waiting.entry(id).or_insert_with(|| watch::channel(None).0);
        let images = sender.subscribe();
        self.count.store(waiting.len(), Ordering::SeqCst);
        Subscription { id, images: Some(images), hub: Arc::clone(self) }
    }

    pub(crate) fn publish(&self, task: &Arc<Task>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(sender) = self.lock().get(&task.id) {
            // Two writers of one task may publish in either order; an older image must not hide an end.
            sender.send_if_modified(|image| {
                let newer = image.as_ref().is_none_or(|known| known.revision.seq < task.revision.seq);
                if newer {
                    *image = Some(Arc::clone(task));
                }
                newer
            });
        }
    }

    /// The tasks that somebody waits for.
    pub(crate) fn waited_for(&self) -> Vec<TaskId> {
        if self.count.load(Ordering::SeqCst) == 0 { Vec::new() } else { self.lock().keys().copied().collect() }
    }

    /// Nothing more will be published: everybody who waits is woken.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.clear();
        self.count.store(0, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, watch::Sender<Option<Arc<Task>>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's interest in a task; ends when dropped.
pub(crate) struct Subscription {
    id: TaskId,
    /// There until this is dropped.
    images: Option<watch::Receiver<Option<Arc<Task>>>>,
    hub: Arc<Hub>,
}

impl Subscription {
    /// The image in which the task has ended, once it is published; `None` if the hub closes before.
    pub(crate) async fn ended(&mut self) -> Option<Arc<Task>> {
        let ended = |image: &Option<Arc<Task>>| image.as_ref().is_some_and(|task| task.state.is_terminal());
        self.images.as_mut()?.wait_for(ended).await.ok().and_then(|image| image.clone())
    }

    /// Returns when an image is published that this subscription has not seen, or when the hub closes.
    pub(crate) async fn changed(&mut self) {
        if let Some(images) = &mut self.images {
            let _ = images.changed().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        // Under the lock: of two that go at once the second must see that it is the last.
        self.images = None;
        if waiting.get(&self.id).is_some_and(|sender| sender.receiver_count() == 0) {
            waiting.remove(&self.id);
            self.hub.count.store(waiting.len(), Ordering::SeqCst);
        }
    }
}
