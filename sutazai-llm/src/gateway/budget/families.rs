//! Which task a task belongs to, in the end: children spend what their family's root may spend.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sutazai_core::{Result, store::TaskStore, task::TaskId};

/// Tasks whose root is remembered; beyond them all are forgotten, and looked up again when they ask.
const REMEMBERED: usize = 10_000;

/// The families of tasks, as far as they have asked.
pub(super) struct Families {
    /// Where tasks are looked up; without it a family goes no further than from a child to its parent.
    tasks: Option<Arc<dyn TaskStore>>,
    roots: Mutex<HashMap<TaskId, TaskId>>,
}

impl Families {
    pub(super) fn new(tasks: Option<Arc<dyn TaskStore>>) -> Self {
        Self { tasks, roots: Mutex::default() }
    }

    /// The task that nobody called for, from which `task` descends. One ancestor after the other is looked up, until one is known; where one is not
    /// stored any more, the family ends with it.
    pub(super) async fn root(&self, task: TaskId, parent: Option<TaskId>) -> Result<TaskId> {
        let Some(parent) = parent else { return Ok(task) };
        let mut family = vec![task];
        let mut at = parent;
        if let Some(root) = self.known(task) {
            return Ok(root);
        }
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
        let Some(tasks) = &self.tasks else { return Ok(None) };
        Ok(tasks.load(&[task]).await?.pop().flatten().and_then(|task| task.parent_id))
    }

    fn known(&self, task: TaskId) -> Option<TaskId> {
        self.roots().get(&task).copied()
    }

    fn roots(&self) -> MutexGuard<'_, HashMap<TaskId, TaskId>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        Payload, clock::Timestamp, engine, memory::MemoryTaskStore, store::TaskWrite, task::TaskRequest,
    };

    use super::*;

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
        assert_eq!(families.root(id(1), None).await.unwrap(), id(1));
        assert_eq!(families.root(id(9), Some(id(3))).await.unwrap(), id(1));
        assert_eq!(families.root(id(8), Some(id(5))).await.unwrap(), id(4), "4 is not stored any more");
        store.close().await.unwrap();
        assert_eq!(families.root(id(3), Some(id(2))).await.unwrap(), id(1), "it was on the way before");
        assert!(families.root(id(7), Some(id(6))).await.is_err());
        let alone = Families::new(None);
        assert_eq!(alone.root(id(3), Some(id(2))).await.unwrap(), id(2));
    }
}
