//! Any history of writes and claims reads as it does from the store in memory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;

use super::{Life, at, fresh_id, node, request};
use crate::{
    clock::Timestamp,
    engine::{self, Command},
    error::Result,
    memory::MemoryTaskStore,
    payload::Payload,
    store::{Claim, TaskQuery, TaskStore, TaskWrite},
    task::{
        DEFAULT_TENANT, IdempotencyKey, NodeId, Priority, Progress, RetryPolicy, Revision, Task, TaskError, TaskId,
        TaskState,
    },
};

const STEPS: usize = 250;
const AGENTS: [&str; 3] = ["echo", "sleep", "fail"];
const NODES: [&str; 2] = ["node-1", "node-2"];

/// Random batches, claims and reads give the same answers as the reference; a failure names its seed.
pub async fn any_history_reads_as_in_memory(store: &dyn TaskStore) -> Result<()> {
    let seed = fastrand::u64(..);
    history(store, seed).await
}

/// The history of one seed, for a failure that is to be looked at again.
pub async fn history(store: &dyn TaskStore, seed: u64) -> Result<()> {
    let reference = MemoryTaskStore::new();
    let mut story = Story { random: Rng::with_seed(seed), now: 0, ids: Vec::new() };
    for step in 0..STEPS {
        story.now += story.random.i64(0..40);
        let place = format!("seed {seed}, step {step}");
        if story.random.u8(..4) < 3 {
            let batch = story.batch(&reference).await?;
            assert_eq!(store.write(&batch).await?, reference.write(&batch).await?, "{place}: {batch:?}");
        } else {
            let claim = story.claim();
            assert_eq!(store.claim(&claim).await?, reference.claim(&claim).await?, "{place}: {claim:?}");
        }
        story.compare(store, &reference, &place).await?;
    }
    let all = &story.ids;
    assert_eq!(store.load(all).await?, reference.load(all).await?, "seed {seed}, at the end");
    for id in all {
        let (found, expected) = (store.events(*id, 0, 1_000).await?, reference.events(*id, 0, 1_000).await?);
        assert_eq!(found, expected, "seed {seed}, at the end");
    }
    Ok(())
}

struct Story {
    random: Rng,
    now: i64,
    ids: Vec<TaskId>,
}

impl Story {
    fn now(&self) -> Timestamp {
        at(self.now)
    }

    fn some_id(&mut self) -> TaskId {
        self.random.choice(&self.ids).copied().unwrap_or_else(fresh_id)
    }

    async fn batch(&mut self, reference: &MemoryTaskStore) -> Result<Vec<TaskWrite>> {
        let size = if self.random.u8(..20) == 0 { 80 } else { self.random.usize(..8) };
        let earlier = self.ids.clone();
        let mut batch: Vec<TaskWrite> = Vec::with_capacity(size);
        // The images that the writes of this batch lead to, so that it may write a task again. What never changes must not be made to.
        let mut images: HashMap<TaskId, Task> = HashMap::new();
        for _ in 0..size {
            let id = self.some_id();
            let image = match images.get(&id) {
                Some(image) => Some(image.clone()),
                None => reference.load(&[id]).await?.pop().flatten(),
            };
            let write = match image {
                Some(task) if self.random.u8(..10) < 6 => self.update(&task),
                _ => self.insert(&earlier),
            };
            let task = write.task();
            match &write {
                TaskWrite::Insert { .. } if reference.load(&[task.id]).await?.pop().flatten().is_none() => {
                    images.entry(task.id).or_insert_with(|| Task::clone(task));
                }
                TaskWrite::Insert { .. } => {}
                TaskWrite::Update { .. } => drop(images.insert(task.id, Task::clone(task))),
            }
            self.ids.push(task.id);
            batch.push(write);
        }
        self.ids.sort_unstable();
        self.ids.dedup();
        Ok(batch)
    }

    fn insert(&mut self, earlier: &[TaskId]) -> TaskWrite {
        let random = &mut self.random;
        let mut asked = request().priority(Priority::new(random.u8(..=9)).unwrap_or_default()).retry(RetryPolicy {
            max_attempts: random.u32(1..4),
            initial_ms: 50,
            max_ms: 100,
        });
        asked.tenant = if random.bool() { DEFAULT_TENANT } else { "acme" }.into();
        asked.input = Payload::of(&random.u64(..)).unwrap_or_else(|_| Payload::null());
        asked.deadline = (random.u8(..4) == 0).then(|| at(self.now + random.i64(-10..500)));
        for label in ["a", "b"] {
            if random.u8(..4) == 0 {
                asked = asked.label(label, random.u8(..3).to_string());
            }
        }
        let key = (random.u8(..4) == 0).then(|| IdempotencyKey {
            tenant: Arc::clone(&asked.tenant),
            key: random.u8(..12).to_string().into(),
            fingerprint: [random.u8(..2); 32],
        });
        let agent = AGENTS[random.usize(..AGENTS.len())];
        if !self.ids.is_empty() && self.random.u8(..5) == 0 {
            asked.parent_id = Some(self.some_id());
        }
        let mut life = Life::of_agent(agent, asked);
        life.key = key;
        if let Some(twin) = self.random.choice(earlier).copied().filter(|_| self.random.u8(..15) == 0) {
            life.key = None;
            life.step.task.id = twin;
            life.step.events.iter_mut().for_each(|event| event.task_id = twin);
        }
        for _ in 0..self.random.u8(..4) {
            let command = self.command();
            let _ = life.step.apply(command, self.now());
        }
        life.write()
    }

    fn update(&mut self, before: &Task) -> TaskWrite {
        let mut step = engine::Transition { task: before.clone(), events: Vec::new() };
        for _ in 0..self.random.u8(1..4) {
            let command = self.command();
            let _ = step.apply(command, self.now());
        }
        let Revision { epoch, seq } = before.revision;
        let expected = match self.random.u8(..10) {
            0 => Revision { epoch: epoch + 1, seq },
            1 => Revision { epoch, seq: seq.saturating_sub(1) },
            _ => before.revision,
        };
        TaskWrite::Update { task: Arc::new(step.task), expected, events: step.events }
    }

    fn command(&mut self) -> Command {
        let random = &mut self.random;
        match random.u8(..9) {
            0 | 1 => Command::Claim { node: NodeId::new(NODES[random.usize(..NODES.len())]) },
            2 => Command::Report(Progress { fraction: Some(random.f64()), message: "on".into() }),
            3 => Command::Complete { output: Payload::null() },
            4 => Command::Fail {
                error: TaskError::new("e", "m"),
                retry: random.bool().then_some(Duration::ZERO),
                random: random.u64(..),
            },
            5 => Command::Cancel,
            6 => Command::Expire,
            7 => Command::Recover,
            _ => Command::Release,
        }
    }

    fn claim(&mut self) -> Claim {
        let node = NodeId::new(NODES[self.random.usize(..NODES.len())]);
        let agents = AGENTS.iter().filter(|_| self.random.u8(..3) > 0).map(|agent| Arc::from(*agent)).collect();
        Claim { node, agents, now: self.now(), limit: self.random.usize(..6) }
    }

    async fn compare(&mut self, store: &dyn TaskStore, reference: &MemoryTaskStore, place: &str) -> Result<()> {
        let set = |tasks: Vec<Task>| -> BTreeSet<String> { tasks.iter().map(|task| format!("{task:?}")).collect() };
        match self.random.u8(..6) {
            0 => {
                let random = &mut self.random;
                let mut maybe = |text: &str| random.bool().then(|| text.to_owned());
                let (agent, tenant) = (maybe("echo"), maybe("acme"));
                let label = maybe("a").map(|key| (key, "1".to_owned()));
                let state = random.choice(&TaskState::ALL).copied().filter(|_| self.random.bool());
                let before = Some(self.some_id()).filter(|_| self.random.bool());
                let parent = Some(self.some_id()).filter(|_| self.random.u8(..4) == 0);
                let query = TaskQuery { state, agent, tenant, label, parent, before, limit: self.random.usize(..9) };
                assert_eq!(store.list(&query).await?, reference.list(&query).await?, "{place}: {query:?}");
            }
            1 => {
                let (id, after, limit) = (self.some_id(), self.random.u64(..5), self.random.usize(..5));
                let (found, expected) =
                    (store.events(id, after, limit).await?, reference.events(id, after, limit).await?);
                assert_eq!(found, expected, "{place}");
            }
            2 => {
                let (found, expected) =
                    (store.held_by(&node(), 10_000).await?, reference.held_by(&node(), 10_000).await?);
                assert_eq!(set(found), set(expected), "{place}");
            }
            3 => {
                let (found, expected) =
                    (store.overdue(self.now(), 10_000).await?, reference.overdue(self.now(), 10_000).await?);
                assert_eq!(set(found), set(expected), "{place}");
            }
            4 => {
                let after = at(self.now + self.random.i64(-200..200));
                assert_eq!(store.next_due(after).await?, reference.next_due(after).await?, "{place}");
            }
            _ => {
                let (mut found, mut expected) = (store.queue_depths().await?, reference.queue_depths().await?);
                found.retain(|_, depth| *depth > 0);
                expected.retain(|_, depth| *depth > 0);
                assert_eq!(found, expected, "{place}");
            }
        }
        Ok(())
    }
}
