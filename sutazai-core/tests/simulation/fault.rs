//! What goes wrong, and when: drawn by the seed.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use fastrand::Rng;
use sutazai_core::{Error, ErrorKind};
use tokio::time::Instant;

use crate::{program::ms, world::World};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process ends at once, and another one of its name starts later.
    Crash,
    /// A process ends in its next call of the store, which takes effect or does not.
    CrashInCall { took_effect: bool },
    /// A process ends in its next effect, before the world has seen that or when it is done.
    CrashInEffect { done: bool },
    /// A process is shut down and started again.
    Restart,
    /// A process stands still.
    Freeze { ms: u64 },
    /// A process does not reach the store.
    Partition { ms: u64 },
    /// Nobody reaches the store.
    Outage { ms: u64 },
    /// The next call of a process fails, before it takes effect or after.
    Fail { took_effect: bool },
    /// The next call of a process takes long.
    Slow { ms: u64 },
    /// A wall clock is set.
    Jump { ms: i64 },
    /// Wake-ups from other processes do not arrive.
    Deaf { ms: u64 },
}

impl Fault {
    fn draw(rng: &mut Rng, lease: Duration) -> Self {
        let lease = u64::try_from(lease.as_millis()).unwrap();
        let took_effect = rng.bool();
        match rng.u32(0..100) {
            0..10 => Self::Crash,
            10..16 => Self::CrashInEffect { done: took_effect },
            16..28 => Self::CrashInCall { took_effect },
            28..34 => Self::Restart,
            34..44 => Self::Freeze { ms: rng.u64(lease / 2..lease * 3) },
            44..52 => Self::Partition { ms: rng.u64(20..lease * 2) },
            52..56 => Self::Outage { ms: rng.u64(20..lease * 2) },
            56..80 => Self::Fail { took_effect },
            80..86 => Self::Slow { ms: rng.u64(10..lease * 2) },
            86..93 => Self::Jump { ms: rng.i64(-5_000..=5_000) },
            _ => Self::Deaf { ms: rng.u64(100..3_000) },
        }
    }
}

/// A pause on the way to the store or back.
#[derive(Clone, Copy, Debug, Default)]
pub enum Delay {
    #[default]
    None,
    /// Others get their turn.
    Turn,
    For(Duration),
}

impl Delay {
    /// As a call of a healthy store takes it.
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.u32(0..16) {
            0..9 => Self::None,
            9..13 => Self::Turn,
            13..15 => Self::For(ms(rng.u64(1..4))),
            _ => Self::For(ms(rng.u64(4..40))),
        }
    }

    pub async fn pass(self) {
        match self {
            Self::None => {}
            Self::Turn => tokio::task::yield_now().await,
            Self::For(time) => tokio::time::sleep(time).await,
        }
    }
}

/// What becomes of a call of the store.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub before: Delay,
    pub after: Delay,
    pub took_effect: bool,
    /// Its answer gets lost.
    pub lost: bool,
    /// The caller's process ends with it.
    pub dies: bool,
}

/// What a store that does not answer says.
pub fn error() -> Error {
    Error::new(ErrorKind::Unavailable, "injected").with_code("store_unavailable")
}

/// The faults under way.
#[derive(Default)]
pub struct Faults {
    /// For the next calls of each node.
    armed: Vec<VecDeque<Fault>>,
    /// Nodes that die in an effect, and whether that is done then.
    in_effect: Vec<Option<bool>>,
    /// Until when each node is cut off.
    cut_off: Vec<Option<Instant>>,
    deaf_until: Option<Instant>,
    /// How many have come to pass.
    pub count: u32,
}

impl Faults {
    pub fn new(nodes: usize) -> Self {
        Self {
            armed: vec![VecDeque::new(); nodes],
            in_effect: vec![None; nodes],
            cut_off: vec![None; nodes],
            ..Self::default()
        }
    }

    /// Nothing goes wrong any more.
    pub fn end(&mut self) {
        *self = Self { count: self.count, ..Self::new(self.armed.len()) };
    }

    pub fn is_deaf(&self) -> bool {
        self.deaf_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether a node's process ends here.
    pub fn dies_in_effect(&mut self, node: usize, done: bool) -> bool {
        let dies = self.in_effect[node].take_if(|when| *when == done).is_some();
        self.count += u32::from(dies);
        dies
    }

    /// What becomes of the next call of a node.
    pub fn fate(&mut self, rng: &mut Rng, node: usize, changes: bool) -> Fate {
        let (before, after) = (Delay::draw(rng), Delay::draw(rng));
        let mut fate = Fate { before, after, took_effect: true, lost: false, dies: false };
        if let Some(until) = self.cut_off[node].filter(|until| Instant::now() < *until) {
            match rng.u32(0..8) {
                0 => (fate.lost, fate.after) = (true, Delay::For(ms(rng.u64(1..200)))),
                1 => fate.before = Delay::For(until - Instant::now()),
                _ => fate.took_effect = false,
            }
            return fate;
        }
        // What is to happen after an effect waits for a call that has one.
        let armed = self.armed[node].front().copied();
        let fits = match armed {
            Some(Fault::Fail { took_effect } | Fault::CrashInCall { took_effect }) => changes || !took_effect,
            Some(_) => true,
            None => false,
        };
        if !fits {
            return fate;
        }
        self.armed[node].pop_front();
        self.count += 1;
        match armed {
            Some(Fault::CrashInCall { took_effect }) => (fate.dies, fate.took_effect) = (true, took_effect),
            Some(Fault::Fail { took_effect }) => (fate.lost, fate.took_effect) = (true, took_effect),
            Some(Fault::Slow { ms: millis }) => {
                *(if rng.bool() { &mut fate.before } else { &mut fate.after }) = Delay::For(ms(millis));
            }
            _ => {}
        }
        fate
    }
}

/// Faults that a simulation sees at least.
pub const FAULTS: u32 = 20;

/// Makes things go wrong for `span`, and longer if that was not often enough.
pub async fn make_faults(world: Arc<World>, mut rng: Rng, span: Duration) {
    let planned = rng.u32(FAULTS..FAULTS + 8);
    let mut moments: Vec<Duration> = (0..planned).map(|_| span.mul_f64(rng.f64())).collect();
    moments.sort();
    let mut moments = moments.into_iter();
    loop {
        let pause = match moments.next() {
            Some(at) => (world.began + at).saturating_duration_since(Instant::now()),
            None if world.faults().count >= FAULTS => return,
            None => ms(rng.u64(5..200)),
        };
        tokio::time::sleep(pause).await;
        let fault = Fault::draw(&mut rng, world.lease);
        let node = rng.usize(0..world.machines.len());
        begin(&world, fault, node);
    }
}

fn begin(world: &Arc<World>, fault: Fault, node: usize) {
    world.note(1, node as u64, || format!("fault on node {node}: {fault:?}"));
    let now = Instant::now();
    let life = world.life(node);
    let mut faults = world.faults();
    match (fault, &life) {
        (Fault::CrashInCall { .. } | Fault::Fail { .. } | Fault::Slow { .. }, _) => {
            return faults.armed[node].push_back(fault);
        }
        (Fault::CrashInEffect { done }, _) => {
            faults.in_effect[node] = Some(done);
            return;
        }
        (Fault::Partition { ms: millis }, _) => faults.cut_off[node] = Some(now + ms(millis)),
        (Fault::Outage { ms: millis }, _) => faults.cut_off.fill(Some(now + ms(millis))),
        (Fault::Deaf { ms: millis }, _) => faults.deaf_until = Some(now + ms(millis)),
        (Fault::Jump { ms: millis }, _) => world.machines[node].jump(millis),
        (Fault::Freeze { ms: millis }, Some(_)) => world.machines[node].freeze(now + ms(millis)),
        (Fault::Crash | Fault::Restart, Some(_)) => {}
        (_, None) => return, // it is down
    }
    faults.count += 1;
    drop(faults);
    match (fault, life) {
        (Fault::Crash, Some(life)) => world.crash(&life),
        (Fault::Restart, Some(_)) => world.restarts[node].notify_one(),
        _ => {}
    }
}
