//! What all parts of one simulation share.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use fastrand::Rng;
use sutazai_core::{
    Orchestrator, Result,
    clock::Timestamp,
    memory::MemoryTaskStore,
    store::{Claim, Granted, TaskStore, TaskWrite, WakeUp, WriteOutcome},
    task::{Task, TaskId, TaskState},
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    bug::{Bug, Buggy},
    check::{Checker, now},
    fault::{Delay, Fate, Faults},
    life::{Life, Machine, StoreClock},
    program::{Author, Program, ms},
};

/// Lines of a trace that are kept.
const LINES: usize = 50_000;

/// An engine and the life it belongs to.
pub type Up = (Orchestrator, Arc<Life>);

/// One simulation.
pub struct World {
    pub bug: Option<Bug>,
    pub began: Instant,
    pub memory: MemoryTaskStore,
    pub programs: Arc<Vec<Program>>,
    pub lease: Duration,
    /// Batches that each node stores at once.
    pub parallel_writes: usize,
    /// Tasks that each node runs at once.
    pub most: Vec<usize>,
    pub machines: Vec<Arc<Machine>>,
    pub restarts: Vec<Notify>,
    up: Mutex<Vec<Option<Up>>>,
    watchers: Mutex<Vec<(Arc<Life>, WakeUp)>>,
    rng: Mutex<Rng>,
    faults: Mutex<Faults>,
    checker: Mutex<Checker>,
    buggy: Mutex<Buggy>,
    trace: Mutex<Trace>,
    /// Something was committed, or a rule broken.
    pub news: Notify,
}

/// What happened, as a number that two runs can be compared by, and as lines where somebody reads them.
struct Trace {
    hash: u64,
    lines: Option<VecDeque<String>>,
}

impl World {
    pub fn new(mut rng: Rng, bug: Option<Bug>, traced: bool) -> Self {
        let began = Instant::now();
        let nodes = rng.usize(3..=4);
        let programs = Arc::new(Author::write(&mut rng));
        Self {
            bug,
            began,
            memory: MemoryTaskStore::with_clock(Arc::new(StoreClock(began))).shared(),
            lease: ms(rng.u64(600..2_000)),
            parallel_writes: rng.usize(1..=3),
            most: (0..nodes).map(|_| rng.usize(2..=8)).collect(),
            machines: (0..nodes).map(|_| Arc::new(Machine::new(began, rng.fork()))).collect(),
            restarts: (0..nodes).map(|_| Notify::new()).collect(),
            up: Mutex::new((0..nodes).map(|_| None).collect()),
            watchers: Mutex::default(),
            faults: Mutex::new(Faults::new(nodes)),
            checker: Mutex::new(Checker::new(Arc::clone(&programs))),
            programs,
            buggy: Mutex::default(),
            trace: Mutex::new(Trace { hash: 0, lines: traced.then(VecDeque::new) }),
            news: Notify::new(),
            rng: Mutex::new(rng),
        }
    }

    pub fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap())
    }

    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap()
    }

    pub fn checker(&self) -> MutexGuard<'_, Checker> {
        self.checker.lock().unwrap()
    }

    /// The time as the store has it.
    pub fn time(&self) -> Timestamp {
        use sutazai_core::clock::Clock;
        StoreClock(self.began).now()
    }

    /// Notes that something happened: what, to whom, and for readers.
    pub fn note(&self, what: u64, whom: u64, line: impl FnOnce() -> String) {
        let at = u64::try_from(self.began.elapsed().as_millis()).unwrap();
        let mut trace = self.trace.lock().unwrap();
        for part in [at, what, whom] {
            trace.hash = (trace.hash.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if let Some(lines) = &mut trace.lines {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(format!("{at:>7} ms  {}", line()));
        }
    }

    pub fn trace(&self) -> (u64, Vec<String>) {
        let trace = self.trace.lock().unwrap();
        (trace.hash, trace.lines.iter().flatten().cloned().collect())
    }

    // ---- nodes ----

    /// A node runs from now on, or no more.
    pub fn set_up(&self, node: usize, engine: Option<Up>) {
        self.up.lock().unwrap()[node] = engine;
    }

    /// Lets go of all that would keep itself: engines hold the store, and that holds them.
    pub fn let_go(&self) {
        self.up.lock().unwrap().fill_with(|| None);
        self.watchers.lock().unwrap().clear();
    }

    pub fn life(&self, node: usize) -> Option<Arc<Life>> {
        self.up.lock().unwrap()[node].as_ref().map(|(_, life)| Arc::clone(life))
    }

    /// Every node that is up.
    pub fn up(&self) -> Vec<Up> {
        self.up.lock().unwrap().iter().flatten().cloned().collect()
    }

    /// The process of a life ends here.
    pub fn crash(&self, life: &Life) {
        self.note(2, life.node as u64, || format!("node {} dies", life.node));
        life.die();
    }

    /// Asks any node that is up; none if there is none, or it ended before it answered.
    pub async fn ask<T, Fut>(&self, question: impl FnOnce(Orchestrator) -> Fut) -> Option<Result<T>>
    where
        Fut: Future<Output = Result<T>>,
    {
        let (engine, life) = {
            let up = self.up.lock().unwrap();
            let up: Vec<_> = up.iter().flatten().collect();
            let chosen = up.get(self.draw(|rng| rng.usize(0..up.len().max(1))))?;
            (chosen.0.clone(), Arc::clone(&chosen.1))
        };
        tokio::time::timeout(ms(20_000), life.answer(question(engine))).await.ok().flatten()
    }

    /// Asks one node after another until `settled` makes something of an answer.
    pub async fn insist<T, R, Fut>(
        &self,
        question: impl Fn(Orchestrator) -> Fut,
        settled: impl Fn(Result<T>) -> Option<R>,
    ) -> R
    where
        Fut: Future<Output = Result<T>>,
    {
        loop {
            if let Some(result) = self.ask(&question).await.and_then(&settled) {
                return result;
            }
            tokio::time::sleep(ms(self.draw(|rng| rng.u64(10..400)))).await;
        }
    }

    // ---- the store ----

    pub fn fate(&self, life: &Life, call: &'static str) -> Fate {
        let changes = matches!(call, "write" | "claim" | "join" | "put_schedule" | "drop_schedule" | "remember");
        let fate = self.faults().fate(&mut self.rng.lock().unwrap(), life.node, changes);
        let code = u64::from(fate.took_effect) | u64::from(fate.lost) << 1 | u64::from(fate.dies) << 2;
        self.note(16 + code, life.node as u64, || {
            let ends = match (fate.took_effect, fate.lost, fate.dies) {
                (true, false, false) => "",
                (true, true, _) => ", and the answer is lost",
                (false, _, false) => ", in vain",
                (true, _, true) => ", and dies after it",
                (false, _, true) => ", and dies before it",
            };
            format!("node {} calls {call}{ends}", life.node)
        });
        fate
    }

    pub fn write(&self, life: &Life, batch: &[TaskWrite]) -> Result<Vec<WriteOutcome>> {
        let (written, outcomes) = match self.bug {
            Some(bug) => self.buggy.lock().unwrap().write(bug, &self.memory, batch),
            None => (Vec::new(), now(self.memory.write(batch))),
        };
        let batch = if self.bug.is_some() { &written } else { batch };
        self.checker().committed(&self.memory, batch, &outcomes);
        for (write, outcome) in batch.iter().zip(&outcomes) {
            let code = match outcome {
                WriteOutcome::Applied => 0,
                WriteOutcome::Replayed(_) => 1,
                WriteOutcome::KeyConflict => 2,
                WriteOutcome::Stale => 3,
            };
            self.note(32 + code, life.node as u64, || described(life.node, write, outcome));
        }
        self.news.notify_one();
        let runnable =
            |(write, outcome): (&TaskWrite, &WriteOutcome)| *outcome == WriteOutcome::Applied && makes_runnable(write);
        if batch.iter().zip(&outcomes).any(runnable) {
            self.wake_others(life);
        }
        Ok(outcomes)
    }

    pub fn claim(&self, life: &Life, claim: &Claim) -> Result<Granted> {
        let granted = now(self.memory.claim(claim));
        self.checker().granted(&self.memory, &granted);
        for task in &granted.tasks {
            self.note(48, life.node as u64, || {
                format!("node {} is granted {} at {:?}", life.node, short(task.id), task.revision)
            });
        }
        Ok(granted)
    }

    /// Tells other processes that something is to be done.
    fn wake_others(&self, by: &Life) {
        if self.faults().is_deaf() {
            return;
        }
        let mut watchers = self.watchers.lock().unwrap();
        watchers.retain(|(life, _)| !life.is_dead());
        for (life, runnable) in watchers.iter() {
            // Notifications may get lost at any time.
            if life.node != by.node && self.draw(|rng| rng.u32(0..8)) > 0 {
                runnable();
            }
        }
    }

    pub fn watch(&self, life: &Arc<Life>, runnable: WakeUp) {
        self.watchers.lock().unwrap().push((Arc::clone(life), runnable));
    }

    // ---- effects ----

    /// An effect begins; it goes on until the guard goes.
    pub fn effect(
        self: &Arc<Self>,
        life: &Arc<Life>,
        task: &Task,
        name: u32,
        occurrence: u32,
        key: Option<String>,
        frozen: bool,
    ) -> Busy {
        self.note(64, u64::from(name), || {
            format!(
                "node {} does s{name}/{occurrence} of {} at epoch {}",
                life.node,
                short(task.id),
                task.revision.epoch
            )
        });
        let of = (life.node, life.number);
        self.checker().effect(of, task, (name, occurrence), key, frozen, self.most[life.node]);
        Busy { world: Arc::clone(self), life: of, task: task.id }
    }

    /// Dies if it is to die in an effect: before the world has seen it, or when it is `done`.
    pub async fn dies_in_effect(&self, life: &Life, done: bool) {
        if self.faults().dies_in_effect(life.node, done) {
            self.crash(life);
            life.goes_on().await;
        }
    }

    /// The least that an effect takes.
    pub async fn breathe(&self) {
        self.draw(Delay::draw).pass().await;
    }
}

/// Whether a write leaves something behind that any process may go on with.
fn makes_runnable(write: &TaskWrite) -> bool {
    match write {
        TaskWrite::Insert { task, .. } => task.state == TaskState::Created,
        // An end wakes the parent.
        TaskWrite::Update { task, .. } => match task.state {
            TaskState::Created | TaskState::Waiting => true,
            state => state.is_terminal() && task.parent_id.is_some(),
        },
        TaskWrite::Append { children, .. } => !children.is_empty(),
        TaskWrite::Signal { .. } => true,
    }
}

/// An effect under way.
pub struct Busy {
    world: Arc<World>,
    life: (usize, u32),
    task: TaskId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.world.checker().effect_over(self.life, self.task);
    }
}

/// The part of an id that tells tasks of one simulation apart.
pub fn short(id: TaskId) -> String {
    let text = id.to_string();
    text[text.len() - 8..].to_owned()
}

fn described(node: usize, write: &TaskWrite, outcome: &WriteOutcome) -> String {
    let what = match write {
        TaskWrite::Insert { task, .. } => format!("inserts {} with input {}", task.state, task.input.as_str()),
        TaskWrite::Update { task, expected, events, .. } => {
            let input =
                if write.changes_input() { format!(" with input {}", task.input.as_str()) } else { String::new() };
            let events: Vec<_> = events.iter().map(|event| event.kind.name()).collect();
            format!("updates from {expected:?} to {}: {}{input}", task.state, events.join(", "))
        }
        TaskWrite::Append { epoch, entries, .. } => {
            let entry = |entry: &sutazai_core::task::Entry| {
                format!("{} {}/{} {}", entry.index, entry.id.name, entry.id.occurrence, entry.outcome.stage())
            };
            format!("appends at epoch {epoch}: {}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        TaskWrite::Signal { signal, .. } => format!("signals {}", signal.name),
    };
    let outcome = match outcome {
        WriteOutcome::Applied => "",
        WriteOutcome::Replayed(_) => " (replayed)",
        WriteOutcome::KeyConflict => " (key conflict)",
        WriteOutcome::Stale => " (stale)",
    };
    format!("node {node}, {} {what}{outcome}", short(write.id()))
}
