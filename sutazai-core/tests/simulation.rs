//! A deterministic simulation of several nodes on one store: seeded programs, seeded clocks, seeded faults, in virtual time.
//!
//! `SUTAZAI_SIMULATION_SEEDS=from..to` says which seeds run (200 otherwise), `SUTAZAI_SIMULATION_SEED=n` runs one of them and prints what happened at its end.
//! A seed replays exactly. It has at least 3 nodes, 50 tasks and 20 faults; after each commit it is checked what must never be otherwise (see `check.rs`).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::panic, unreachable_pub, reason = "a test")]

#[path = "simulation/agents.rs"]
mod agents;
#[path = "simulation/bug.rs"]
mod bug;
#[path = "simulation/check.rs"]
mod check;
#[path = "simulation/clients.rs"]
mod clients;
#[path = "simulation/fault.rs"]
mod fault;
#[path = "simulation/life.rs"]
mod life;
#[path = "simulation/program.rs"]
mod program;
#[path = "simulation/rule.rs"]
mod rule;
#[path = "simulation/run.rs"]
mod run;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/world.rs"]
mod world;

use std::{
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use self::{
    bug::Bug,
    rule::Violation,
    run::{Report, simulate},
};

/// Seeds that run unless told otherwise.
const SEEDS: Range<u64> = 0..200;

/// Seeds within which a planted bug must be found.
const MOST: u64 = 400;

/// Threads that seeds are spread over at least; each seed has one of its own.
const THREADS: usize = 2;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("SUTAZAI_SIMULATION_SEEDS") else { return SEEDS };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.trim().parse().ok()?..to.trim().parse().ok()?));
    range.unwrap_or_else(|| panic!("SUTAZAI_SIMULATION_SEEDS is {text:?}; it is a range such as 0..10000"))
}

/// The first seed of a range that breaks a rule, looked for on all cores; where there is a bug, the rule that this one breaks.
fn first_violation(seeds: Range<u64>, bug: Option<Bug>) -> Option<Report> {
    // Seeds from `end` on are of no interest any more.
    let (next, end, found) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end), Mutex::new(None::<Report>));
    let look = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end.load(Ordering::SeqCst) {
                return;
            }
            let report = simulate(seed, bug, false);
            let wanted = |violation: &Violation| bug.is_none_or(|bug| violation.rule == bug.breaks());
            if report.violation.as_ref().is_some_and(wanted) {
                end.fetch_min(seed, Ordering::SeqCst);
                let mut found = found.lock().unwrap();
                if found.as_ref().is_none_or(|first| report.seed < first.seed) {
                    *found = Some(report);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(THREADS, |cores| cores.get().max(THREADS));
    std::thread::scope(|scope| {
        (0..threads).for_each(|_| drop(scope.spawn(look)));
    });
    found.into_inner().unwrap()
}

/// Runs a seed again, with its trace, and fails: shows what became of the tasks that the violation names, and the end.
fn explain(report: &Report) -> ! {
    let violation = report.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    let again = simulate(report.seed, None, true);
    let words = violation.split(|c: char| !c.is_ascii_hexdigit() && c != '-');
    let named: Vec<&str> = words.filter(|word| word.len() == 36).map(|id| &id[28..]).collect();
    let of_them: Vec<_> = again.lines.iter().filter(|line| named.iter().any(|name| line.contains(name))).collect();
    of_them[of_them.len().saturating_sub(60)..].iter().for_each(|line| println!("{line}"));
    println!("...");
    again.lines[again.lines.len().saturating_sub(40)..].iter().for_each(|line| println!("{line}"));
    panic!(
        "seed {}: {violation}\nreplay, with the whole trace: SUTAZAI_SIMULATION_SEED={} cargo test -p sutazai-core --test simulation seeds -- --nocapture",
        report.seed, report.seed
    );
}

#[test]
fn what_must_hold_holds_for_all_seeds() {
    if let Ok(seed) = std::env::var("SUTAZAI_SIMULATION_SEED") {
        let report = simulate(seed.parse().unwrap(), None, true);
        println!("{}\n{report:?}", report.lines.join("\n"));
        assert_eq!(report.violation, None);
        return;
    }
    let (seeds, began) = (seeds(), Instant::now());
    if let Some(report) = first_violation(seeds.clone(), None) {
        explain(&report);
    }
    let (count, took) = ((seeds.end - seeds.start) as f64, began.elapsed());
    println!("seeds {seeds:?} hold, in {took:.1?}: {:.1} seeds/s", count / took.as_secs_f64());
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..12 {
        let (first, again) = (simulate(seed, None, false), simulate(seed, None, true));
        assert_eq!((first.hash, &first.violation), (again.hash, &again.violation), "seed {seed}");
        assert!(first.nodes >= 3 && first.tasks >= 50 && first.faults >= 20, "{first:?}");
    }
}

#[test]
fn planted_bugs_are_caught_as_what_they_are() {
    for bug in Bug::ALL {
        let Some(report) = first_violation(0..MOST, Some(bug)) else {
            panic!("{bug:?} was not caught within {MOST} seeds")
        };
        let (within, violation) = (report.seed + 1, report.violation.unwrap());
        println!("{bug:?}: caught within {within} seeds. {violation}");
        // The same seeds without it: what was caught is the bug.
        assert!(first_violation(0..within, None).is_none(), "{bug:?} is not what was caught");
    }
}
