//! One node's way to the simulated store: every call takes its time, may fail before and after it took effect, and is the last one of a process that dies.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Payload, Result,
    clock::Timestamp,
    store::{
        Claim, Delivery, Ended, Granted, Held, KeptAnswer, NodeRecord, Page, Posted, QueueDepths, Recalled,
        ScheduleRecord, StoreInfo, TaskQuery, TaskStore, TaskWrite, WakeUp, WriteOutcome,
    },
    task::{Entry, Event, IdempotencyKey, NodeId, NumberedEvent, Signal, Task, TaskId, TaskState},
};

use crate::{fault::Fate, life::Life, world::World};

/// The store as one life of a node reaches it.
pub struct SimStore {
    pub world: Arc<World>,
    pub life: Arc<Life>,
}

impl SimStore {
    /// Makes a call on its way to the store and back.
    async fn call<T>(&self, what: &'static str, act: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.life.goes_on().await;
        let Fate { before, after, lost, dies, took_effect } = self.world.fate(&self.life, what);
        before.pass().await;
        self.life.goes_on().await;
        if !took_effect {
            if dies {
                self.world.crash(&self.life);
                self.life.goes_on().await;
            }
            return Err(crate::fault::error());
        }
        let answer = act.await;
        if dies {
            self.world.crash(&self.life);
        }
        after.pass().await;
        self.life.goes_on().await;
        if lost { Err(crate::fault::error()) } else { answer }
    }
}

#[async_trait]
impl TaskStore for SimStore {
    fn info(&self) -> StoreInfo {
        StoreInfo { parallel_writes: self.world.parallel_writes, ..self.world.memory.info() }
    }

    async fn write(&self, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        self.call("write", async { self.world.write(&self.life, batch) }).await
    }

    async fn claim(&self, claim: &Claim) -> Result<Granted> {
        self.call("claim", async { self.world.claim(&self.life, claim) }).await
    }

    async fn load(&self, ids: &[TaskId]) -> Result<Vec<Option<Task>>> {
        self.call("load", self.world.memory.load(ids)).await
    }

    async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        self.call("list", self.world.memory.list(query)).await
    }

    async fn held_by(&self, node: &NodeId, limit: usize) -> Result<Vec<Held>> {
        self.call("held_by", self.world.memory.held_by(node, limit)).await
    }

    async fn ended_parents(&self, limit: usize) -> Result<Vec<TaskId>> {
        self.call("ended_parents", self.world.memory.ended_parents(limit)).await
    }

    async fn overdue(&self, now: Timestamp, limit: usize) -> Result<Vec<Task>> {
        self.call("overdue", self.world.memory.overdue(now, limit)).await
    }

    async fn next_due(&self, after: Timestamp) -> Result<Option<Timestamp>> {
        self.call("next_due", self.world.memory.next_due(after)).await
    }

    async fn queue_depths(&self) -> Result<QueueDepths> {
        self.call("queue_depths", self.world.memory.queue_depths()).await
    }

    async fn queued(&self) -> Result<u64> {
        self.call("queued", self.world.memory.queued()).await
    }

    async fn events(&self, task: TaskId, after: u64, limit: usize) -> Result<Vec<Event>> {
        self.call("events", self.world.memory.events(task, after, limit)).await
    }

    async fn feed(&self, after: u64, limit: usize) -> Result<Vec<NumberedEvent>> {
        self.call("feed", self.world.memory.feed(after, limit)).await
    }

    async fn journal(&self, task: TaskId, era: u32, from: u64, limit: usize) -> Result<Vec<Entry>> {
        self.call("journal", self.world.memory.journal(task, era, from, limit)).await
    }

    async fn signals(&self, task: TaskId, name: &str, from: u64, limit: usize) -> Result<Vec<Signal>> {
        self.call("signals", self.world.memory.signals(task, name, from, limit)).await
    }

    async fn join(&self, node: &NodeRecord, lease: Duration) -> Result<()> {
        self.call("join", self.world.memory.join(node, lease)).await
    }

    async fn renew(&self, node: &NodeId, running: u64, lease: Duration) -> Result<bool> {
        self.call("renew", self.world.memory.renew(node, running, lease)).await
    }

    async fn lapsed(&self) -> Result<Vec<NodeId>> {
        self.call("lapsed", self.world.memory.lapsed()).await
    }

    async fn part(&self, node: &NodeId) -> Result<()> {
        self.call("part", self.world.memory.part(node)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>> {
        self.call("nodes", self.world.memory.nodes()).await
    }

    fn watch(&self, runnable: WakeUp) {
        self.world.watch(&self.life, runnable);
    }

    async fn put_schedule(
        &self,
        record: &ScheduleRecord,
        expected: Option<u64>,
        answer: Option<&KeptAnswer>,
    ) -> Result<bool> {
        self.call("put_schedule", self.world.memory.put_schedule(record, expected, answer)).await
    }

    async fn schedule(&self, name: &str) -> Result<Option<ScheduleRecord>> {
        self.call("schedule", self.world.memory.schedule(name)).await
    }

    async fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Page<ScheduleRecord>> {
        self.call("schedules", self.world.memory.schedules(after, limit)).await
    }

    async fn due_schedules(&self, now: Timestamp, limit: usize) -> Result<Vec<ScheduleRecord>> {
        self.call("due_schedules", self.world.memory.due_schedules(now, limit)).await
    }

    async fn drop_schedule(&self, name: &str) -> Result<bool> {
        self.call("drop_schedule", self.world.memory.drop_schedule(name)).await
    }

    async fn deliveries(&self, now: Timestamp, limit: usize, hold: Duration) -> Result<Vec<Delivery>> {
        self.call("deliveries", self.world.memory.deliveries(now, limit, hold)).await
    }

    async fn posted(&self, taken: &Delivery, what: &Posted, now: Timestamp) -> Result<bool> {
        self.call("posted", self.world.memory.posted(taken, what, now)).await
    }

    async fn revive(&self, task: TaskId, skip: bool, now: Timestamp) -> Result<bool> {
        self.call("revive", self.world.memory.revive(task, skip, now)).await
    }

    async fn undelivered(&self, before: Option<TaskId>, limit: usize) -> Result<Page<Delivery>> {
        self.call("undelivered", self.world.memory.undelivered(before, limit)).await
    }

    async fn recall(&self, key: &IdempotencyKey) -> Result<Recalled> {
        self.call("recall", self.world.memory.recall(key)).await
    }

    async fn remember(&self, key: &IdempotencyKey, answer: &Payload, now: Timestamp) -> Result<()> {
        self.call("remember", self.world.memory.remember(key, answer, now)).await
    }

    async fn ended(&self, after: Option<TaskId>, created_before: Timestamp, limit: usize) -> Result<Vec<Ended>> {
        self.call("ended", self.world.memory.ended(after, created_before, limit)).await
    }

    async fn nth_newest(&self, state: TaskState, n: u64) -> Result<Option<TaskId>> {
        self.call("nth_newest", self.world.memory.nth_newest(state, n)).await
    }

    async fn purge(&self, tasks: &[TaskId], now: Timestamp) -> Result<u64> {
        self.call("purge", self.world.memory.purge(tasks, now)).await
    }

    async fn ping(&self) -> Result<()> {
        self.call("ping", self.world.memory.ping()).await
    }

    /// The others go on with it.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
