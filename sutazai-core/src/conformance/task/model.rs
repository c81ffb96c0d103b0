//! Any history of writes and claims reads as it does from the store in memory.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use fastrand::Rng;

use super::{Life, at, entries, eventually, fresh_id, node, request, wake::signal};
use crate::{
    clock::Timestamp,
    engine::{self, Command, QueueRule, TenantRule},
    error::Result,
    memory::MemoryTaskStore,
    payload::Payload,
    store::{Child, Claim, Delivery, JournalCopy, KEY_LIFE, POST_LIFE, Posted, TaskQuery, TaskStore, TaskWrite},
    task::{
        DEFAULT_TENANT, IdempotencyKey, NodeId, Priority, Progress, RetryPolicy, Revision, Summary, Task, TaskError,
        TaskId, TaskState, WaitReason,
    },
};

const STEPS: usize = 250;
const AGENTS: [&str; 3] = ["echo", "sleep", "fail"];
const NODES: [&str; 2] = ["node-1", "node-2"];
const ALL: usize = 10_000;

/// Random batches, claims, purges and reads give the same answers as the reference, and what the events tell of each task
/// is what its image says; a failure names its seed.
pub async fn any_history_reads_as_in_memory(store: &dyn TaskStore) -> Result<()> {
    history(store, fastrand::u64(..)).await
}

/// The history of one seed, for a failure that is to be looked at again.
pub async fn history(store: &dyn TaskStore, seed: u64) -> Result<()> {
    let reference = MemoryTaskStore::new();
    let mut story = Story { random: Rng::with_seed(seed), now: 0, taken: Vec::new(), ids: BTreeSet::new() };
    for step in 0..STEPS {
        story.now += story.random.i64(0..40);
        let place = format!("seed {seed}, step {step}");
        match story.random.u8(..16) {
            0..10 => {
                // The reference takes the members one by one, and each is made from what it then says.
                let size = if story.random.u8(..20) == 0 { 80 } else { story.random.usize(..8) };
                let (mut batch, mut expected) = (Vec::new(), Vec::new());
                for _ in 0..size {
                    let write = story.write(&reference).await?;
                    expected.extend(reference.write(std::slice::from_ref(&write)).await?);
                    batch.push(write);
                }
                assert_eq!(store.write(&batch).await?, expected, "{place}: {batch:?}");
            }
            10..14 => {
                let claim = story.claim();
                assert_eq!(store.claim(&claim).await?, reference.claim(&claim).await?, "{place}: {claim:?}");
            }
            14 => {
                story.post(store, &reference, &place).await?;
            }
            _ => {
                let ids: Vec<_> = (0..2).map(|_| story.some_id()).collect();
                // Before and after keys and deliveries have had their day.
                let later = [Duration::ZERO, KEY_LIFE, POST_LIFE][story.random.usize(..3)];
                let now = story.now().plus(later);
                assert_eq!(store.purge(&ids, now).await?, reference.purge(&ids, now).await?, "{place}: {ids:?}");
            }
        }
        story.compare(store, &reference, &place).await?;
    }
    story.at_the_end(store, &reference, &format!("seed {seed}, at the end")).await
}

/// What is in no order, comparable.
fn set<T: fmt::Debug>(items: Vec<T>) -> BTreeSet<String> {
    items.iter().map(|item| format!("{item:?}")).collect()
}

struct Story {
    random: Rng,
    /// Deliveries that were taken, by whom does not matter.
    taken: Vec<Delivery>,
    now: i64,
    ids: BTreeSet<TaskId>,
}

impl Story {
    fn now(&self) -> Timestamp {
        at(self.now)
    }

    fn some_id(&mut self) -> TaskId {
        let place = self.random.usize(..self.ids.len().max(1));
        self.ids.iter().nth(place).copied().unwrap_or_else(fresh_id)
    }

    async fn write(&mut self, reference: &MemoryTaskStore) -> Result<TaskWrite> {
        let id = self.some_id();
        let Some(task) = reference.load(&[id]).await?.pop().flatten() else { return self.insert(None) };
        let length = reference.journal(id, task.journal.era, 0, ALL).await?.len() as u64;
        // Where the journal ends, or an index that is taken.
        let from = if self.random.u8(..8) == 0 { length.saturating_sub(1) } else { length };
        let some = entries(from..from + self.random.u64(..3));
        match self.random.u8(..20) {
            0..9 => match self.update(&task) {
                Some(mut step) => {
                    let key = (self.random.u8(..8) == 0).then(|| self.key(DEFAULT_TENANT));
                    let Revision { epoch, seq } = task.revision;
                    let expected = match self.random.u8(..10) {
                        0 => Revision { epoch: epoch + 1, seq },
                        1 => Revision { epoch, seq: seq.saturating_sub(1) },
                        _ => task.revision,
                    };
                    // What it has not seen yet.
                    step.task.wakes -= u64::from(step.task.wakes > 0 && self.random.u8(..3) == 0);
                    let entries =
                        if step.task.journal.era == task.journal.era && self.random.bool() { some } else { Vec::new() };
                    Ok(TaskWrite::Update { task: Arc::new(step.task), expected, events: step.events, entries, key })
                }
                None => self.insert(None),
            },
            9..12 => {
                let epoch = task.revision.epoch + u64::from(self.random.u8(..6) == 0);
                let mut children = Vec::new();
                for _ in 0..self.random.u8(..3) {
                    if let TaskWrite::Insert { task, events, .. } = self.insert(Some(id))? {
                        children.push(Child { task, events });
                    }
                }
                Ok(TaskWrite::Append { task: id, epoch, era: task.journal.era, entries: some, children })
            }
            12..15 => {
                let key = (self.random.u8(..3) == 0).then(|| self.key(DEFAULT_TENANT));
                let name = ["go", "stop"][self.random.usize(..2)];
                Ok(TaskWrite::Signal { task: id, signal: signal(name, self.now), key })
            }
            15 => {
                let TaskWrite::Insert { task: fork, events, key, .. } = self.insert(None)? else {
                    return self.insert(None);
                };
                let before = self.random.u64(..=length);
                let journal = Some(JournalCopy { from: id, era: task.journal.era, before });
                Ok(TaskWrite::Insert { task: fork, events, key, journal })
            }
            _ => self.insert(None),
        }
    }

    fn key(&mut self, tenant: &str) -> IdempotencyKey {
        let key = self.random.u8(..12).to_string().into();
        IdempotencyKey { tenant: tenant.into(), key, fingerprint: [self.random.u8(..2); 32] }
    }

    fn insert(&mut self, parent: Option<TaskId>) -> Result<TaskWrite> {
        let random = &mut self.random;
        let mut asked = request().priority(Priority::new(random.u8(..=9)).unwrap_or_default()).retry(RetryPolicy {
            max_attempts: random.u32(1..4),
            initial_ms: 50,
            max_ms: 100,
        });
        asked.tenant = if random.bool() { DEFAULT_TENANT } else { "acme" }.into();
        asked.input = Payload::of(&random.u64(..))?;
        asked.deadline = (random.u8(..4) == 0).then(|| at(self.now + random.i64(-10..500)));
        asked.webhook = (random.u8(..4) == 0).then(|| "http://127.0.0.1:9/".into());
        for label in ["a", "b"] {
            if random.u8(..4) == 0 {
                asked = asked.label(label, random.u8(..3).to_string());
            }
        }
        let agent = AGENTS[random.usize(..AGENTS.len())];
        asked.parent_id = parent.or_else(|| (self.random.u8(..5) == 0).then(|| self.some_id()));
        let tenant = Arc::clone(&asked.tenant);
        let mut life = Life::of_agent(agent, asked);
        if self.random.u8(..4) == 0 {
            life.key = Some(self.key(&tenant));
        }
        if self.random.u8(..15) == 0 {
            let twin = self.some_id();
            (life.key, life.step.task.id) = (None, twin);
            life.step.events.iter_mut().for_each(|event| event.task_id = twin);
        }
        for _ in 0..self.random.u8(..4) {
            let command = self.command();
            let _ = life.step.apply(command, self.now()); // a refused command changes nothing
        }
        self.ids.insert(life.id());
        Ok(life.write())
    }

    /// What up to three commands make of a task; `None` if all are refused.
    fn update(&mut self, before: &Task) -> Option<engine::Transition> {
        let mut step = engine::Transition { task: before.clone(), events: Vec::new() };
        for _ in 0..self.random.u8(1..4) {
            let command = self.command();
            let _ = step.apply(command, self.now());
        }
        (!step.events.is_empty()).then_some(step)
    }

    fn command(&mut self) -> Command {
        let random = &mut self.random;
        let error = TaskError::new("e", "m");
        let soon = at(self.now + random.i64(0..300));
        let other = random.bool().then(|| Payload::of(&random.u64(..)).unwrap_or_else(|_| Payload::null()));
        match random.u8(..16) {
            0 | 1 => Command::Claim { node: NodeId::new(NODES[random.usize(..NODES.len())]) },
            2 => Command::Report(Progress { fraction: Some(random.f64()), message: "on".into() }),
            3 => Command::Complete { output: Payload::null() },
            4 => Command::Fail { error, retry: random.bool().then_some(Duration::ZERO), random: random.u64(..) },
            5 => Command::Cancel,
            6 => Command::Expire,
            7 => Command::Recover { journal: random.u64(..5) },
            8 | 9 => Command::Suspend { reason: WaitReason::Signal, until: random.bool().then_some(soon) },
            10 => Command::Halt { reason: WaitReason::EffectUnknown, error },
            11 => random.choice([Command::Resume, Command::Abandon { error }]).unwrap_or(Command::Resume),
            12 => Command::Continue { input: other.unwrap_or_else(Payload::null) },
            13 => Command::Requeue { input: other, deadline: random.bool().then_some(soon) },
            14 => Command::Discard,
            _ => Command::Release,
        }
    }

    fn claim(&mut self) -> Claim {
        let node = NodeId::new(NODES[self.random.usize(..NODES.len())]);
        let mut policy = super::policy([]);
        for agent in AGENTS {
            if self.random.u8(..3) == 0 {
                continue;
            }
            let concurrency = (self.random.u8(..6) == 0).then(|| self.random.u32(..12));
            let rate = (self.random.u8(..6) == 0).then(|| self.random.u32(..3_000));
            let rule = QueueRule { agent: agent.into(), concurrency, rate };
            policy.queues.insert(format!("{agent}@1").into(), rule);
        }
        let (weight, concurrency) =
            (self.random.f64() * 3.0, (self.random.u8(..6) == 0).then(|| self.random.u32(..12)));
        policy.tenants.insert("acme".into(), TenantRule { weight, concurrency });
        Claim { node, policy, now: self.now(), limit: self.random.usize(..6) }
    }

    /// Revives a delivery, or notes something about one that was taken now or long ago.
    async fn post(&mut self, store: &dyn TaskStore, reference: &MemoryTaskStore, place: &str) -> Result<()> {
        let (id, now, skip) = (self.some_id(), self.now(), self.random.bool());
        if self.random.u8(..3) == 0 {
            assert_eq!(store.revive(id, skip, now).await?, reference.revive(id, skip, now).await?, "{place}");
            return Ok(());
        }
        let hold = Duration::from_millis(self.random.u64(..100));
        let expected = reference.deliveries(now, ALL, hold).await?;
        assert_eq!(set(store.deliveries(now, ALL, hold).await?), set(expected.clone()), "{place}");
        self.taken.extend(expected);
        let Some(taken) = self.random.choice(&self.taken).cloned() else { return Ok(()) };
        let (posted, failures) = (taken.posted + self.random.u64(..3), self.random.u32(..3));
        let what = match self.random.u8(..4) {
            0 => Posted::Later { posted, failures, due_at: at(self.now + self.random.i64(0..100)) },
            1 => Posted::GivenUp { posted, failures, why: "gone".to_owned() },
            _ => Posted::UpTo(posted),
        };
        let expected = reference.posted(&taken, &what, now).await?;
        assert_eq!(store.posted(&taken, &what, now).await?, expected, "{place}: {taken:?}: {what:?}");
        Ok(())
    }

    async fn compare(&mut self, store: &dyn TaskStore, reference: &MemoryTaskStore, place: &str) -> Result<()> {
        let (id, from, limit, now) = (self.some_id(), self.random.u64(..5), self.random.usize(..5), self.now());
        match self.random.u8(..9) {
            0 => {
                let random = &mut self.random;
                let mut maybe = |text: &str| random.bool().then(|| text.to_owned());
                let (agent, tenant) = (maybe("echo"), maybe("acme"));
                let label = maybe("a").map(|key| (key, "1".to_owned()));
                let state = random.choice(&TaskState::ALL).copied().filter(|_| self.random.bool());
                let before = Some(self.some_id()).filter(|_| self.random.bool());
                let parent = Some(self.some_id()).filter(|_| self.random.u8(..4) == 0);
                let (dead_letters, live) = (self.random.u8(..4) == 0, self.random.u8(..4) == 0);
                let limit = self.random.usize(..9);
                let query = TaskQuery { state, agent, tenant, label, parent, dead_letters, live, before, limit };
                assert_eq!(store.list(&query).await?, reference.list(&query).await?, "{place}: {query:?}");
            }
            1 => {
                let expected = reference.events(id, from, limit).await?;
                assert_eq!(store.events(id, from, limit).await?, expected, "{place}");
            }
            2 => {
                let expected = reference.ended_parents(ALL).await?;
                assert_eq!(set(store.ended_parents(ALL).await?), set(expected), "{place}");
                let expected = reference.held_by(&node(), ALL).await?;
                assert_eq!(set(store.held_by(&node(), ALL).await?), set(expected), "{place}");
            }
            3 => {
                let expected = reference.overdue(now, ALL).await?;
                assert_eq!(set(store.overdue(now, ALL).await?), set(expected), "{place}");
            }
            4 => {
                let after = at(self.now + self.random.i64(-200..200));
                assert_eq!(store.next_due(after).await?, reference.next_due(after).await?, "{place}");
            }
            5 => {
                let hold = Duration::from_millis(self.random.u64(..100));
                let expected = reference.deliveries(now, ALL, hold).await?;
                assert_eq!(set(store.deliveries(now, ALL, hold).await?), set(expected), "{place}");
                let expected = reference.undelivered(Some(id), limit).await?;
                assert_eq!(store.undelivered(Some(id), limit).await?, expected, "{place}");
            }
            6 => {
                let expected = reference.ended(Some(id), now, limit).await?;
                assert_eq!(store.ended(Some(id), now, limit).await?, expected, "{place}");
                for state in TaskState::ALL {
                    let expected = reference.nth_newest(state, from).await?;
                    assert_eq!(store.nth_newest(state, from).await?, expected, "{place}");
                }
            }
            7 => {
                let mut lapsed = [store.lapsed().await?, reference.lapsed().await?];
                lapsed.iter_mut().for_each(|nodes| nodes.sort_unstable());
                assert_eq!(lapsed[0], lapsed[1], "{place}");
            }
            _ => {
                let (mut found, mut expected) = (store.queue_depths().await?, reference.queue_depths().await?);
                found.retain(|_, depth| *depth > 0);
                expected.retain(|_, depth| *depth > 0);
                assert_eq!(found, expected, "{place}");
                assert_eq!(store.queued().await?, reference.queued().await?, "{place}");
            }
        }
        Ok(())
    }

    async fn at_the_end(&self, store: &dyn TaskStore, reference: &MemoryTaskStore, place: &str) -> Result<()> {
        let ids: Vec<_> = self.ids.iter().copied().collect();
        let tasks = store.load(&ids).await?;
        assert_eq!(tasks, reference.load(&ids).await?, "{place}");
        let mut history = BTreeSet::new();
        for (id, task) in ids.into_iter().zip(tasks) {
            let events = store.events(id, 0, ALL).await?;
            assert_eq!(events, reference.events(id, 0, ALL).await?, "{place}");
            assert_eq!(Summary::of(&events), task.as_ref().map(Summary::from), "{place}: the fold of {id}'s events");
            for era in 0..=task.map_or(0, |task| task.journal.era) {
                let expected = reference.journal(id, era, 0, ALL).await?;
                assert_eq!(store.journal(id, era, 0, ALL).await?, expected, "{place}");
            }
            for name in ["go", "stop"] {
                let expected = reference.signals(id, name, 0, ALL).await?;
                assert_eq!(store.signals(id, name, 0, ALL).await?, expected, "{place}");
            }
            history.extend(events.into_iter().map(|event| (event.task_id, event.seq)));
        }
        // The order among tasks is each store's own.
        let mut shown = Vec::new();
        eventually("every event is shown", async || {
            shown = store.feed(0, usize::MAX >> 1).await?;
            Ok(shown.len() >= history.len())
        })
        .await?;
        assert!(shown.windows(2).all(|pair| pair[0].number < pair[1].number), "{place}");
        let places: BTreeSet<_> = shown.iter().map(|found| (found.event.task_id, found.event.seq)).collect();
        assert_eq!((shown.len(), places == history), (history.len(), true), "{place}: each event once");
        Ok(())
    }
}
