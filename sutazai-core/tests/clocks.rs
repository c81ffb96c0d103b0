//! Wall clocks that are set while tasks run and wait, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sutazai_core::{
    clock::{Clock, Timestamp},
    engine::OrchestratorBuilder,
    memory::MemoryTaskStore,
    prelude::*,
};
use tokio::time::{Instant, sleep};

use kit::Virtual;

const LEASE: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3_600);

/// A wall clock that somebody sets; what it says of time that has passed is left alone.
struct Settable {
    steady: Arc<Virtual>,
    ahead_ms: AtomicI64,
}

impl Settable {
    fn new() -> Arc<Self> {
        Arc::new(Self { steady: Virtual::new(), ahead_ms: AtomicI64::new(0) })
    }

    fn set_ahead(&self, hours: i64) {
        self.ahead_ms.fetch_add(hours * 3_600_000, Ordering::SeqCst);
    }
}

impl Clock for Settable {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.steady.now().as_millis() + self.ahead_ms.load(Ordering::SeqCst))
    }

    fn random(&self) -> u64 {
        self.steady.random()
    }

    fn elapsed(&self) -> Duration {
        self.steady.elapsed()
    }
}

/// `hold` keeps busy for so many seconds, `nap` waits for as many.
fn engine(clock: &Arc<impl Clock>) -> OrchestratorBuilder {
    let hold = agent_fn("hold", |_context, seconds: u64| async move {
        sleep(Duration::from_secs(seconds)).await;
        Ok(seconds)
    });
    let nap = agent_fn("nap", |context: Context, seconds: u64| async move {
        context.sleep(Duration::from_secs(seconds)).await;
        Ok(seconds)
    });
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Orchestrator::builder().agent(hold).agent(nap).clock(clock).lease(LEASE)
}

#[tokio::test(start_paused = true)]
async fn what_is_executed_stays_where_it_is_whatever_the_wall_clocks_say() {
    let store = Arc::new(MemoryTaskStore::with_clock(Virtual::new()).shared());
    let clock = Settable::new();
    let set = engine(&clock).node("set").shared_store(store.clone()).start().await.unwrap();
    let other = engine(&Virtual::new()).node("other").shared_store(store.clone()).start().await.unwrap();
    let held = [set.submit("hold", &60).await.unwrap(), other.submit("hold", &60).await.unwrap()];
    for hours in [1, -2, 48, -100] {
        sleep(2 * LEASE).await;
        clock.set_ahead(hours);
    }
    for task in held {
        let ended = task.result().await.unwrap();
        assert_eq!((ended.state, ended.attempt, ended.recoveries), (TaskState::Completed, 1, 0), "{ended:?}");
    }
    assert!(set.nodes().await.unwrap().iter().all(|node| !node.dead));
}

#[tokio::test(start_paused = true)]
async fn a_timer_goes_by_the_wall_clock() {
    let clock = Settable::new();
    let engine = engine(&clock).start().await.unwrap();
    let began = Instant::now();
    let skipped = engine.submit("nap", &1_800).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    clock.set_ahead(1);
    assert_eq!(skipped.output::<u64>().await.unwrap(), 1_800);
    assert!(began.elapsed() < Duration::from_secs(20), "it was due when the clock was set: {:?}", began.elapsed());

    let began = Instant::now();
    let late = engine.submit("nap", &20).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    clock.set_ahead(-1);
    assert_eq!(late.output::<u64>().await.unwrap(), 20);
    let took = began.elapsed();
    assert!((HOUR..HOUR + Duration::from_secs(40)).contains(&took), "it comes later by as much: {took:?}");
}
