//! A node's lives and its clock: how a process dies, freezes, and sees the time.

use std::{
    future::Future,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use sutazai_core::clock::{Clock, Timestamp};
use tokio::{sync::Notify, time::Instant};

/// When every simulation begins, in milliseconds since 1970.
const BEGINNING: i64 = 1_796_083_200_000;

/// The store's clock: virtual time as it is.
pub struct StoreClock(pub Instant);

impl Clock for StoreClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(BEGINNING + i64::try_from(self.elapsed().as_millis()).unwrap())
    }

    fn random(&self) -> u64 {
        0
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A node's machine, the same over its lives: it is up to some seconds wrong, jumps, and stands still while the process is frozen.
pub struct Machine {
    began: Instant,
    /// How long it had been on when the simulation began.
    uptime: Duration,
    offset: AtomicI64,
    frozen: Mutex<Option<(Instant, Instant)>>,
    rng: Mutex<Rng>,
}

impl Machine {
    pub fn new(began: Instant, mut rng: Rng) -> Self {
        let uptime = Duration::from_millis(rng.u64(1_000..100_000_000));
        let offset = AtomicI64::new(rng.i64(-2_000..=2_000));
        Self { began, uptime, offset, frozen: Mutex::default(), rng: Mutex::new(rng) }
    }

    /// Sets the wall clock forward or back.
    pub fn jump(&self, millis: i64) {
        self.offset.fetch_add(millis, Ordering::SeqCst);
    }

    /// The wall clock is right from now on.
    pub fn mend(&self) {
        self.offset.store(0, Ordering::SeqCst);
    }

    /// From now until `until` no instruction runs.
    pub fn freeze(&self, until: Instant) {
        *self.frozen.lock().unwrap() = Some((Instant::now(), until));
    }

    pub fn thaw(&self) {
        *self.frozen.lock().unwrap() = None;
    }

    /// When it thaws, if it is frozen.
    fn frozen_until(&self) -> Option<Instant> {
        let frozen = *self.frozen.lock().unwrap();
        frozen.map(|(_, until)| until).filter(|until| Instant::now() < *until)
    }

    /// The moment as code of this machine can see it: none passes while it is frozen.
    fn moment(&self) -> Instant {
        let now = Instant::now();
        match *self.frozen.lock().unwrap() {
            Some((from, until)) if now < until => from,
            _ => now,
        }
    }
}

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        let since = i64::try_from((self.moment() - self.began).as_millis()).unwrap();
        Timestamp::from_millis(BEGINNING + since + self.offset.load(Ordering::SeqCst))
    }

    fn random(&self) -> u64 {
        self.rng.lock().unwrap().u64(..)
    }

    fn elapsed(&self) -> Duration {
        self.uptime + (self.moment() - self.began)
    }
}

/// One life of a node's process, from its start to its crash or shutdown.
pub struct Life {
    pub node: usize,
    pub number: u32,
    pub machine: std::sync::Arc<Machine>,
    dead: AtomicBool,
    over: Notify,
}

impl Life {
    pub fn new(node: usize, number: u32, machine: std::sync::Arc<Machine>) -> Self {
        Self { node, number, machine, dead: AtomicBool::new(false), over: Notify::new() }
    }

    /// Nothing of it happens any more.
    pub fn die(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.over.notify_waiters();
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Returns when it has died.
    pub async fn died(&self) {
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            over.as_mut().enable();
            if self.is_dead() {
                return;
            }
            over.await;
        }
    }

    /// Where code of this life goes on: at once, after a thaw, or never. Whether it was frozen here.
    pub async fn goes_on(&self) -> bool {
        let mut frozen = false;
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            match self.machine.frozen_until() {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return frozen,
            }
            frozen = true;
        }
    }

    /// What somebody outside is answered, unless this life ends before.
    pub async fn answer<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died() => None,
            answer = asked => Some(answer),
        }
    }
}
