//! Which task a task belongs to, in the end: children spend what their family's root may spend.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use sutazai_core::{Error, ErrorKind, Result, store::TaskStore, task::TaskId};
use tokio::time::timeout;

/// Tasks whose root is remembered; beyond them all are forgotten, and looked up again when they ask.
const REMEMBERED: usize = 10_000;

/// Finds out who called for a task.
type LookUp = Box<dyn Fn(TaskId) -> BoxFuture<'static, Result<Option<TaskId>>> + Send + Sync>;

/// The families of tasks, as far as they have asked.
pub(super) struct Families {
    /// Without it a family goes no further than from a child to its parent.
    look_up: Option<LookUp>,
    roots: Mutex<HashMap<TaskId, TaskId>>,
}

impl Families {
    pub(super) fn new(tasks: Option<Arc<dyn TaskStore>>) -> Self {
        Self { look_up: tasks.map(in_store), roots: Mutex::default() }
    }

    /// The task that nobody called for, from which `task` descends, if that is found out within `patience`.
    pub(super) async fn root(&self, task: TaskId, parent: Option<TaskId>, patience: Duration) -> Result<TaskId> {
        let Some(parent) = parent else { return Ok(task) };
        if let Some(root) = self.known(task) {
            return Ok(root);
        }
        let late = || Error::new(ErrorKind::Timeout, "the store does not say in time who called for the task");
        timeout(patience, self.search(task, parent)).await.unwrap_or_else(|_| Err(late()))
    }

    /// One ancestor after the other is looked up, until one is known; where one is not stored any more, the family ends with it.
    async fn search(&self, task: TaskId, parent: TaskId) -> Result<TaskId> {
        let (mut family, mut at) = (vec![task], parent);
        let root = loop {
            if let Some(root) = self.known(at) {
                break root;
            }
            family.push(at);
            match self.parent(at).await? {
                Some(next) => at = next,
                None => break at,
            }
        };
        let mut roots = self.roots();
        if roots.len() >= REMEMBERED {
            roots.clear();
        }
        roots.extend(family.into_iter().map(|member| (member, root)));
        Ok(root)
    }

    async fn parent(&self, task: TaskId) -> Result<Option<TaskId>> {
        match &self.look_up {
            Some(look_up) => look_up(task).await,
            None => Ok(None),
        }
    }

    fn known(&self, task: TaskId) -> Option<TaskId> {
        self.roots().get(&task).copied()
    }

    fn roots(&self) -> MutexGuard<'_, HashMap<TaskId, TaskId>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks tasks up in this store.
fn in_store(tasks: Arc<dyn TaskStore>) -> LookUp {
    Box::new(move |task| {
        let tasks = Arc::clone(&tasks);
        let loading = async move {
            let found = tasks.load(&[task]).await;
            found.map(|mut found| found.pop().flatten().and_then(|task| task.parent_id))
        };
        loading.boxed()
    })
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        Payload, clock::Timestamp, engine, memory::MemoryTaskStore, store::TaskWrite, task::TaskRequest,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn id(n: u8) -> TaskId {
        TaskId::from_bytes([n; 16])
    }

    #[tokio::test]
    async fn a_family_goes_up_to_whom_nobody_called_for() {
        let store = Arc::new(MemoryTaskStore::new());
        for (task, parent) in [(1, None), (2, Some(1)), (3, Some(2)), (5, Some(4))] {
            let mut request = TaskRequest::new("a", Payload::null());
            request.parent_id = parent.map(id);
            let step = engine::create(id(task), "a".into(), "1.0.0".into(), request, Timestamp::from_millis(0));
            let write = TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None };
            store.write(&[write]).await.unwrap();
        }
        let families = Families::new(Some(store.clone()));
        let root = |task, parent: Option<u8>| families.root(id(task), parent.map(id), PATIENCE);
        assert_eq!(root(1, None).await.unwrap(), id(1));
        assert_eq!(root(9, Some(3)).await.unwrap(), id(1));
        assert_eq!(root(8, Some(5)).await.unwrap(), id(4), "4 is not stored any more");
        store.close().await.unwrap();
        assert_eq!(root(3, Some(2)).await.unwrap(), id(1), "it was on the way before");
        assert!(root(7, Some(6)).await.is_err());
        let alone = Families::new(None);
        assert_eq!(alone.root(id(3), Some(id(2)), PATIENCE).await.unwrap(), id(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_waited_for() {
        let silent: LookUp = Box::new(|_| std::future::pending().boxed());
        let families = Families { look_up: Some(silent), roots: Mutex::default() };
        let error = families.root(id(2), Some(id(1)), PATIENCE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(families.root(id(1), None, PATIENCE).await.unwrap(), id(1), "nobody has to be asked");
    }
}
