//! One seed from its beginning to its end.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use fastrand::Rng;
use sutazai_core::Orchestrator;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    agents::agents,
    bug::Bug,
    check::TENANT_LIMIT,
    clients::{self, TASKS},
    fault::{FAULTS, make_faults},
    life::Life,
    program::ms,
    rule::{Rule, Violation},
    store::SimStore,
    world::World,
};

/// Virtual time in which everything must come to its end once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// What became of a seed.
pub struct Report {
    pub seed: u64,
    /// The rule that was broken, if one was.
    pub violation: Option<Violation>,
    /// Of all that happened: the same for the same seed.
    pub hash: u64,
    pub lines: Vec<String>,
    pub nodes: usize,
    pub tasks: usize,
    pub faults: u32,
    /// Virtual time that it took.
    pub took: Duration,
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation, hash, nodes, tasks, faults, took, .. } = self;
        write!(
            f,
            "seed {seed} (trace {hash:016x}): {nodes} nodes, {tasks} tasks, {faults} faults, {took:?} of virtual time; {violation:?}"
        )
    }
}

/// Runs a seed; with its trace as lines if it is `traced`. Nothing of it is left afterwards.
pub fn simulate(seed: u64, bug: Option<Bug>, traced: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (report, world) = runtime.block_on(async {
        let mut rng = Rng::with_seed(seed);
        let world = Arc::new(World::new(rng.fork(), bug, traced));
        for (number, program) in world.programs.iter().enumerate() {
            world.note(0, 0, || format!("input {number}: {program:?}"));
        }
        let violation = tokio::select! {
            biased;
            violation = violated(&world) => Some(violation),
            () = live(&world, rng) => world.checker().violation.take(),
        };
        let (hash, lines) = world.trace();
        let (nodes, tasks, faults) = (world.machines.len(), world.checker().tasks.len(), world.faults().count);
        let violation = violation.or_else(|| too_small(nodes, tasks, faults));
        let report = Report { seed, violation, hash, lines, nodes, tasks, faults, took: world.began.elapsed() };
        world.let_go();
        (report, Arc::downgrade(&world))
    });
    // Its tasks go, and what they hold.
    drop(runtime);
    assert_eq!(world.strong_count(), 0, "seed {seed}: something is kept for ever");
    report
}

fn too_small(nodes: usize, tasks: usize, faults: u32) -> Option<Violation> {
    let what = || format!("{nodes} nodes, {tasks} tasks and {faults} faults say too little");
    (nodes < 3 || tasks < TASKS || faults < FAULTS).then(|| Violation { rule: Rule::Consistent, what: what() })
}

/// Returns when a rule is broken.
async fn violated(world: &World) -> Violation {
    loop {
        if let Some(violation) = world.checker().violation.take() {
            return violation;
        }
        tokio::time::sleep(ms(200)).await;
    }
}

async fn live(world: &Arc<World>, mut rng: Rng) {
    let span = ms(rng.u64(3_000..6_000));
    for node in 0..world.machines.len() {
        tokio::spawn(keep_node(Arc::clone(world), node));
    }
    let mut clients = Clients::default();
    // With those that these call for, and those of schedules, they are as many as a seed must have, or a few more are asked for below.
    for number in 0..rng.usize(TASKS * 3 / 5..TASKS * 4 / 5) {
        clients.spawn("submit", clients::submit(Arc::clone(world), number, span));
    }
    clients.spawn("schedule", clients::schedule(Arc::clone(world)));
    clients.spawn("fork", clients::fork(Arc::clone(world)));
    clients.spawn("make faults", make_faults(Arc::clone(world), rng.fork(), span));
    let reviving = tokio::spawn(clients::revive(Arc::clone(world)));
    for client in [tokio::spawn(clients::signal(Arc::clone(world))), tokio::spawn(clients::decide(Arc::clone(world)))] {
        drop(client); // until the end
    }
    tokio::spawn(clients::follow(Arc::clone(world)));
    loop {
        if !clients.are_done(world).await {
            return;
        }
        let missing = TASKS.saturating_sub(world.checker().tasks.len());
        if missing == 0 {
            break;
        }
        for number in 0..missing {
            clients.spawn("submit more", clients::submit(Arc::clone(world), TASKS + number, Duration::ZERO));
        }
    }
    reviving.abort();
    // From here on nothing goes wrong.
    world.faults().end();
    world.machines.iter().for_each(|machine| (machine.mend(), machine.thaw()).0);
    world.note(5, 0, || "nothing goes wrong any more".to_owned());
    clients.spawn("unschedule", clients::unschedule(Arc::clone(world)));
    if !clients.are_done(world).await {
        return;
    }
    let until = Instant::now() + PATIENCE;
    while !world.checker().live.is_empty() && Instant::now() < until {
        let _ = tokio::time::timeout_at(until, world.news.notified()).await;
    }
    world.checker().at_end(&world.memory);
    for (engine, life) in world.up() {
        // A process may still be about to end, and then does not answer.
        if let Some(Err(error)) = life.answer(engine.ping()).await
            && error.code() == "engine_broken"
        {
            world.checker().violated(Rule::Consistent, || error.report());
        }
    }
}

/// Those outside whose end is waited for.
#[derive(Default)]
struct Clients {
    running: JoinSet<()>,
    what: HashMap<tokio::task::Id, &'static str>,
}

impl Clients {
    fn spawn(&mut self, what: &'static str, client: impl Future<Output = ()> + Send + 'static) {
        let id = self.running.spawn(client).id();
        self.what.insert(id, what);
    }

    /// Waits until all have come to their end; that some do not is a violation.
    async fn are_done(&mut self, world: &World) -> bool {
        let until = Instant::now() + PATIENCE;
        while !self.running.is_empty() {
            let Ok(done) = tokio::time::timeout_at(until, self.running.join_next_with_id()).await else {
                let mut waiting: Vec<_> = self.what.values().copied().collect();
                waiting.sort_unstable();
                let what = || format!("after {PATIENCE:?} still at work: {}", waiting.join(", "));
                world.checker().violated(Rule::Answered, what);
                return false;
            };
            self.what.remove(&done.unwrap().unwrap().0);
        }
        true
    }
}

/// Starts a node, and starts it again whenever its process has ended.
async fn keep_node(world: Arc<World>, node: usize) {
    for number in 0.. {
        let machine = Arc::clone(&world.machines[node]);
        let life = Arc::new(Life::new(node, number, machine));
        if let Some(engine) = life.answer(start(&world, &life)).await {
            world.set_up(node, Some((engine.clone(), Arc::clone(&life))));
            world.note(6, node as u64, || format!("node {node} is up"));
            tokio::select! {
                biased;
                () = life.died() => {}
                () = world.restarts[node].notified() => {
                    world.set_up(node, None);
                    world.note(7, node as u64, || format!("node {node} is shut down"));
                    let grace = ms(world.draw(|rng| rng.u64(0..500)));
                    let down = tokio::time::timeout(ms(15_000), engine.shutdown(grace));
                    let _ = life.answer(down).await;
                    life.die();
                }
            }
            world.set_up(node, None);
            // Its loops end; nothing they could do would count.
            tokio::spawn(async move { engine.shutdown(Duration::ZERO).await });
        }
        world.machines[node].thaw();
        tokio::time::sleep(ms(world.draw(|rng| rng.u64(5..1_500)))).await;
    }
}

/// A new process of a node; stays with it while the store does not answer.
async fn start(world: &Arc<World>, life: &Arc<Life>) -> Orchestrator {
    loop {
        let small = sutazai_core::engine::TenantRule { weight: 1.0, concurrency: Some(TENANT_LIMIT) };
        let engine = Orchestrator::builder()
            .agents(agents(world, life))
            .shared_store(Arc::new(SimStore { world: Arc::clone(world), life: Arc::clone(life) }))
            .clock(Arc::clone(&life.machine) as Arc<dyn sutazai_core::clock::Clock>)
            .node(format!("n{}", life.node))
            .tenant("small", small)
            .max_running(world.most[life.node])
            .lease(world.lease)
            .start();
        if let Ok(engine) = engine.await {
            return engine;
        }
        tokio::time::sleep(ms(100)).await;
    }
}
