//! Random programs of branches, cut short anywhere: whatever their timing, each run sees what the runs before it saw.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use proptest::prelude::*;

use super::*;
use crate::{engine::at_work, store::Child};

#[derive(Clone, Debug)]
enum Op {
    Step,
    Now,
    Join(Vec<Vec<Op>>),
    Race(Vec<Vec<Op>>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let leaf = prop_oneof![4 => Just(Op::Step), 1 => Just(Op::Now)];
    let op = leaf.prop_recursive(3, 24, 3, |inner| {
        let branches = prop::collection::vec(prop::collection::vec(inner, 0..4), 1..4);
        prop_oneof![branches.clone().prop_map(Op::Join), branches.prop_map(Op::Race)]
    });
    prop::collection::vec(op, 1..5)
}

/// What outlives an execution.
#[derive(Default)]
struct World {
    rng: Mutex<fastrand::Rng>,
    stored: Mutex<Vec<Entry>>,
    /// Appends until the process dies.
    left: AtomicU32,
    died: Notify,
    winners: Mutex<BTreeMap<String, usize>>,
    /// Contradictions between runs.
    faults: Mutex<Vec<String>>,
}

impl World {
    async fn pass_time(&self) {
        let turns = self.rng.lock().unwrap().u32(0..6);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn is_stored(&self, id: &EntryId) -> bool {
        self.stored.lock().unwrap().iter().any(|entry| entry.id == *id)
    }

    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Sink for Arc<World> {
    async fn append(&self, entries: Vec<Entry>, _children: Vec<Child>) -> bool {
        self.pass_time().await;
        let dies = self.left.fetch_sub(1, Ordering::SeqCst) == 1;
        if !dies || self.rng.lock().unwrap().bool() {
            self.stored.lock().unwrap().extend(entries);
        }
        if dies {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        true
    }

    fn epoch(&self) -> u64 {
        1
    }
}

/// Runs a branch; what it gives tells all that it saw.
fn run(world: Arc<World>, journal: Arc<Journal>, path: Arc<str>, ops: Vec<Op>) -> BoxFuture<'static, u64> {
    async move {
        let mut seen = 7u64;
        for (group, op) in ops.into_iter().enumerate() {
            let found = match op {
                Op::Step => step(&world, &journal, &path).await,
                Op::Now => now(&world, &journal, &path).await,
                Op::Join(branches) => {
                    let mut running = start(&world, &journal, &path, group, branches);
                    let mut found = BTreeMap::new();
                    while let Some((place, seen)) = running.next().await {
                        found.insert(place, seen);
                    }
                    found.values().fold(3, |all: u64, one| all.wrapping_mul(31).wrapping_add(*one))
                }
                Op::Race(branches) => {
                    let mut running = start(&world, &journal, &path, group, branches);
                    let (place, found) = running.next().await.unwrap_or_default();
                    let race = format!("{path}/{group}");
                    let before = *world.winners.lock().unwrap().entry(race.clone()).or_insert(place);
                    if before != place {
                        world.fault(format!("race {race} was won by {before}, and by {place} later"));
                    }
                    found
                }
            };
            seen = seen.wrapping_mul(31).wrapping_add(found);
        }
        seen
    }
    .boxed()
}

fn start(
    world: &Arc<World>,
    journal: &Arc<Journal>,
    path: &str,
    group: usize,
    branches: Vec<Vec<Op>>,
) -> FuturesUnordered<BoxFuture<'static, (usize, u64)>> {
    let branch = |(place, ops): (usize, Vec<Op>)| {
        let path = if path.is_empty() { format!("{group}.{place}") } else { format!("{path}/{group}.{place}") };
        run(Arc::clone(world), Arc::clone(journal), path.into(), ops).map(move |found| (place, found)).boxed()
    };
    branches.into_iter().enumerate().map(branch).collect()
}

fn done(id: &EntryId, value: u64) -> Draft {
    let outcome = Outcome::Done(Payload::of(&value).unwrap());
    Draft { id: id.clone(), kind: EntryKind::Step, outcome, at: Timestamp::default(), child: None }
}

fn value(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Done(payload) => payload.read().unwrap(),
        other => unreachable!("{other:?}"),
    }
}

async fn step(world: &World, journal: &Arc<Journal>, path: &Arc<str>) -> u64 {
    let (id, begun) = journal.begin(path, EntryKind::Step, "s").await;
    if matches!(begun, Begun::Recorded(_)) {
        return value(&journal.outcome(&id).await);
    }
    if world.is_stored(&id) {
        world.fault(format!("{id:?} is done again"));
    }
    let _live = journal.live(path);
    world.pass_time().await;
    let drawn = world.rng.lock().unwrap().u64(..);
    if journal.send(done(&id, drawn)).await.is_err() {
        std::future::pending::<()>().await;
    }
    drawn
}

async fn now(world: &World, journal: &Arc<Journal>, path: &Arc<str>) -> u64 {
    let (id, begun) = journal.begin_noted(path, "now").await;
    if matches!(begun, Begun::Recorded(_)) {
        return value(&journal.noted(&id).unwrap());
    }
    let drawn = world.rng.lock().unwrap().u64(..);
    journal.keep(done(&id, drawn));
    drawn
}

/// One execution; what it gave if it was not cut short.
async fn execute(world: &Arc<World>, program: &[Op]) -> Option<u64> {
    let stored = world.stored.lock().unwrap().clone();
    let sink: Option<Arc<dyn Sink>> = Some(Arc::new(Arc::clone(world)));
    let journal = Journal::new(sink, TaskId::from_bytes([7; 16]), stored, 0);
    journal.open();
    let agent = run(Arc::clone(world), Arc::clone(&journal), "".into(), program.to_vec());
    let mut agent: at_work::Work = Box::pin(agent.map(|seen| Ok(Payload::of(&seen)?)));
    let life = async {
        let outcome = tokio::select! {
            biased;
            verdict = journal.verdict() => {
                world.fault(format!("{verdict:?}"));
                return 0;
            }
            outcome = at_work::poll(&mut agent, &journal) => outcome,
        };
        if let Some(left) = journal.left_over() {
            world.fault(format!("{left:?} was never asked for"));
        }
        if !journal.flush().await {
            world.fault("the rest was not stored".to_owned());
        }
        outcome.unwrap().read().unwrap()
    };
    tokio::select! {
        biased;
        () = world.died.notified() => None,
        seen = life => Some(seen),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn each_run_sees_what_the_runs_before_it_saw(program in ops(), seed in any::<u64>(), lives in 0u32..5) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = Arc::new(World { rng: Mutex::new(fastrand::Rng::with_seed(seed)), ..World::default() });
        runtime.block_on(async {
            for _ in 0..lives {
                let appends = world.rng.lock().unwrap().u32(1..8);
                world.left.store(appends, Ordering::SeqCst);
                if execute(&world, &program).await.is_some() {
                    break;
                }
            }
            world.left.store(u32::MAX, Ordering::SeqCst);
            let first = execute(&world, &program).await;
            let again = execute(&world, &program).await;
            if first != again {
                world.fault(format!("{first:?} is {again:?} when it runs again"));
            }
        });
        let faults = world.faults.lock().unwrap().clone();
        prop_assert!(faults.is_empty(), "{faults:?}");
        let mut ids: Vec<_> = world.stored.lock().unwrap().iter().map(|entry| entry.id.clone()).collect();
        ids.sort();
        prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "each outcome is recorded once");
        prop_assert!(world.stored.lock().unwrap().iter().map(|entry| entry.index).eq(0..ids.len() as u64));
    }
}
