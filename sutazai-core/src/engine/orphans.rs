//! Children end with their parent, also when whoever ended the parent went away before it came to them.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    inner::Inner,
    transition::{Command, apply},
};
use crate::{
    error::{ErrorKind, Result},
    store::{TaskQuery, TaskWrite, WriteOutcome},
    task::{Task, TaskId},
};

/// Tasks ended in one commit.
const BATCH: usize = 200;

/// How often children of ended tasks are looked for at most and at least.
const EVERY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];

/// How much longer than a look the pause after it is.
const SHARE: u32 = 100;

/// Looks for tasks that should have ended with their parent, now and then and when one may have come about, until aborted.
pub(crate) async fn end_orphans(engine: Arc<Inner>) {
    loop {
        let began = Instant::now();
        if let Err(error) = engine.cancel_orphans().await {
            tracing::warn!(error = %error.report(), "children of ended tasks cannot be cancelled");
        }
        let pause = (began.elapsed() * SHARE).clamp(EVERY[0], EVERY[1]);
        tokio::select! {
            biased;
            () = engine.bereaved.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl Inner {
    async fn cancel_orphans(&self) -> Result<()> {
        loop {
            let parents = self.store.ended_parents(BATCH).await?;
            for parent in &parents {
                self.cancel_children(*parent).await?;
            }
            if parents.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Cancels the tasks that `parent` called for and that have not ended, and theirs.
    pub(crate) async fn cancel_children(&self, parent: TaskId) -> Result<()> {
        let mut parents = vec![parent];
        while let Some(parent) = parents.pop() {
            let mut query = TaskQuery { parent: Some(parent), live: true, limit: BATCH, ..TaskQuery::default() };
            loop {
                let page = self.store.list(&query).await?;
                query.before = page.items.last().map(|child| child.id);
                let children: Vec<Task> = page.items.into_iter().filter(|child| !child.detached).collect();
                // Looked at after its children: one that was requeued meanwhile has called those that live anew.
                if !children.is_empty() && !self.has_ended(parent).await? {
                    break;
                }
                self.cancel_all(&children).await?;
                parents.extend(children.iter().map(|child| child.id));
                if !page.more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether a task has ended, or is not there any more.
    pub(crate) async fn has_ended(&self, id: TaskId) -> Result<bool> {
        match self.load(id).await {
            Ok(task) => Ok(task.state.is_terminal()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Cancels tasks in one commit, as far as they stay as they are; those that move meanwhile one by one.
    async fn cancel_all(&self, tasks: &[Task]) -> Result<()> {
        let now = self.clock.now();
        let cancelled = |before| Some((before, apply(before, Command::Cancel, now).ok()?));
        let (mut steps, mut writes) = (Vec::new(), Vec::new());
        for (before, step) in tasks.iter().filter_map(cancelled) {
            let (task, expected) = (Arc::new(step.task), before.revision);
            steps.push((before, Arc::clone(&task)));
            writes.push(TaskWrite::Update { task, expected, events: step.events, entries: Vec::new(), key: None });
        }
        if writes.is_empty() {
            return Ok(());
        }
        for ((before, task), outcome) in steps.into_iter().zip(self.writer.send(writes).await.outcomes().await) {
            match outcome? {
                WriteOutcome::Applied => self.changed(before, &task),
                // One that has ended by itself is as good as cancelled.
                _ => drop(self.change(before.id, Command::Cancel).await?),
            }
        }
        Ok(())
    }
}
