//! Two whole gateways on one Ollama over the real wire, ten thousand mixed requests, and everything that goes wrong with servers: whoever asks is
//! answered, with a typed error at the least, every place comes back, and then both gateways answer as before.
//!
//! `SUTAZAI_SOAK_SEED=n` draws something else; a failure shows it. The same seed draws the same requests and the same
//! faults, but which of them meet is up to the machine. `SUTAZAI_SOAK_REQUESTS=n` makes it shorter or longer. Nothing here is a measurement: limits of time only keep a
//! hang from lasting.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it finds by panicking"
)]

mod answers;
mod callers;
mod hostile;
mod house;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use self::{
    answers::Fault,
    callers::{Manner, Outcome},
    hostile::Hostile,
    house::{BREAKER, House},
};

/// Requests unless told otherwise.
const REQUESTS: usize = 10_000;
/// What is drawn, unless the environment says otherwise.
const SEED: u64 = 5;
/// Callers at a time.
const CALLERS: usize = 64;
/// Requests between a start of the server and the next time that it is killed.
const LIFE: std::ops::Range<usize> = 200..1_200;
/// Nothing here takes so long; what hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of the requests, by how they were made; and how often the server was killed.
#[derive(Debug, Default)]
struct Tally {
    outcomes: BTreeMap<(Manner, Outcome), usize>,
    kills: usize,
}

impl Tally {
    fn answered(&self, manner: Manner) -> usize {
        self.outcomes.get(&(manner, Outcome::Answered)).copied().unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_is_answered_and_every_place_comes_back() {
    let seed = number("SUTAZAI_SOAK_SEED").unwrap_or(SEED);
    let requests = number("SUTAZAI_SOAK_REQUESTS").map_or(REQUESTS, |number| usize::try_from(number).unwrap());
    println!("SUTAZAI_SOAK_SEED={seed}");
    let began = Instant::now();
    let mut server = Hostile::start(seed).await;
    let url = server.url();
    let houses = Arc::new([House::new("first", &url).await, House::new("second", &url).await]);
    for house in houses.iter() {
        house.answers().await;
    }

    server.rage(true);
    // Many times what it takes.
    let patience = PATIENCE * u32::try_from(5 + requests / 2_000).unwrap();
    let tally = timeout(patience, soak(&mut server, &houses, seed, requests)).await.expect("it does not end");
    server.rage(false);

    for house in houses.iter() {
        house.comes_to_rest().await;
    }
    sleep(BREAKER.max_pause).await;
    for house in houses.iter() {
        house.answers().await;
        house.comes_to_rest().await;
    }
    println!("{requests} requests in {:?}: {tally:#?}", began.elapsed());
    println!("faults: {:#?}", server.faults());
    assert_eq!(tally.outcomes.values().sum::<usize>(), requests);
    if requests >= REQUESTS {
        it_was_a_bad_day(&tally, &server, houses.as_slice());
    }
    server.kill().await;
}

/// All of it, with a server that is killed and started again meanwhile.
async fn soak(server: &mut Hostile, houses: &Arc<[House; 2]>, seed: u64, requests: usize) -> Tally {
    let next = Arc::new(AtomicUsize::new(0));
    let (tell, mut told) = mpsc::channel(CALLERS);
    let mut asking = JoinSet::new();
    for _ in 0..CALLERS {
        let (houses, next, tell) = (Arc::clone(houses), Arc::clone(&next), tell.clone());
        asking.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return;
                }
                let mut random = Rng::with_seed(seed.wrapping_add(number as u64));
                let (manner, outcome) = callers::ask(houses.as_slice(), number, &mut random).await;
                // Whoever was refused does not come back at once.
                let rest = if matches!(outcome, Outcome::Refused(_)) { 20 } else { random.u64(..4) };
                tell.send((manner, outcome)).await.unwrap();
                sleep(Duration::from_millis(rest)).await;
            }
        });
    }
    drop(tell);

    let mut random = Rng::with_seed(!seed);
    let mut tally = Tally::default();
    let mut left = random.usize(LIFE);
    while let Some(seen) = told.recv().await {
        *tally.outcomes.entry(seen).or_default() += 1;
        left -= 1;
        if left == 0 {
            server.kill().await;
            sleep(Duration::from_millis(random.u64(20..80))).await;
            server.start_again().await;
            tally.kills += 1;
            left = random.usize(LIFE);
        }
    }
    while let Some(ended) = asking.join_next().await {
        ended.unwrap();
    }
    tally
}

/// A soak in which little went wrong, or little right, would prove little.
fn it_was_a_bad_day(tally: &Tally, server: &Hostile, houses: &[House]) {
    let faults = server.faults();
    for fault in Fault::ALL {
        assert!(faults.contains_key(&fault), "{fault:?} never happened");
    }
    for manner in Manner::STAYING {
        assert!(tally.answered(manner) > 0, "{manner:?} never had an answer");
    }
    let answered: usize = Manner::STAYING.into_iter().map(|manner| tally.answered(manner)).sum();
    assert!(answered > REQUESTS / 4, "only {answered} were answered");
    assert!(tally.kills > 0);
    for house in houses {
        let watcher = house.watcher();
        println!("{watcher:?}");
        let counts =
            [&watcher.retries, &watcher.fallbacks, &watcher.joins, &watcher.hits, &watcher.loads, &watcher.openings];
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{watcher:?}");
    }
}

/// A number that the environment gives.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}
