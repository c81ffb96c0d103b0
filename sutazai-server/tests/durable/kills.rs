//! Processes end at once, as in a power cut.

use serde_json::json;

use crate::{
    binary::Server,
    client::{LEASE, block_on, completed, events, moment, rounds, steps, until},
    load::{Load, lines},
    site::{Addresses, Site},
};

pub(crate) fn recorded_steps_run_once_through_kills(store: &[&str]) {
    block_on(async {
        let data = tempfile::tempdir().unwrap();
        let (ledger, rounds) = (data.path().join("ledger"), rounds());
        let (tasks, count) = (16_u64, rounds * 12);
        let mut server = Server::start_with(data.path(), store);
        let mut ids = Vec::new();
        for n in 0..tasks {
            ids.push(steps(&server.url(), count, &ledger, &format!("t{n}")).await);
        }
        for round in 0..rounds {
            tokio::time::sleep(moment(round)).await;
            server.kill();
            server = Server::start_with(data.path(), store);
        }
        let mut recovered = 0;
        for id in &ids {
            assert_eq!(completed(&server.url(), id).await["output"], json!({ "steps": count }));
            recovered += events(&server.url(), id).await.iter().filter(|kind| *kind == "task.recovered").count();
        }
        assert!(recovered > 0, "nothing ran at any of the kills: they said nothing");
        let written = lines(&ledger);
        for n in 0..tasks {
            let of = |index: u64| written.get(&format!("t{n} {index}")).copied().unwrap_or_default();
            assert!((0..count).all(|index| of(index) > 0), "a step of task {n} was not done");
            let again: u64 = (0..count).map(|index| of(index) - 1).sum();
            assert!(again <= rounds, "task {n} did {again} steps again over {rounds} kills: recorded ones among them");
        }
        assert_eq!(written.len() as u64, tasks * count, "a torn line in the ledger");
        assert!(!server.log().contains("panicked"), "{}", server.log());
    });
}

/// One server that is killed over and over, on one file or one database.
pub(crate) fn kills_under_load(store: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let mut site = Site::start(&data.path().join("a"), store, Some(&addresses));
    let load = Load::start(&addresses, &data.path().join("ledger"));
    for round in 0..rounds() {
        std::thread::sleep(moment(round) * 3);
        site.kill_and_start();
    }
    let account = load.account(&site.server().url());
    assert!(account.recoveries > 0, "nothing ran at any of the kills: they said nothing");
    site.server().assert_sound();
}

/// Servers that only take tasks and servers that only do them, killed in turn.
pub(crate) fn kills_of_apis_and_workers_under_load(store: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let start = |name: &str, role: &str| {
        let arguments = [store, &LEASE, &["--role", role]].concat();
        Site::start(&data.path().join(name), &arguments, (role == "api").then_some(&addresses))
    };
    let mut sites = [start("a", "api"), start("w", "worker"), start("b", "api"), start("v", "worker")];
    let load = Load::start(&addresses, &data.path().join("ledger"));
    for round in 0..rounds() {
        std::thread::sleep(moment(round) * 2);
        sites[usize::try_from(round % 4).unwrap()].kill_and_start();
    }
    let account = load.account(&sites[0].server().url());
    assert!(account.recoveries > 0 || rounds() < 4, "nothing ran at any of the kills: they said nothing");
    sites.iter().for_each(|site| site.server().assert_sound());
}

/// Two servers on one store.
pub(crate) fn pair(store: &[&str]) -> (tempfile::TempDir, Server, Server) {
    let data = tempfile::tempdir().unwrap();
    let start = |name: &str| Server::start_with(&data.path().join(name), &[store, &LEASE].concat());
    let (a, b) = (start("a"), start("b"));
    (data, a, b)
}

pub(crate) fn a_killed_worker_s_tasks_go_on_elsewhere(store: &[&str]) {
    block_on(async {
        let (data, mut a, b) = pair(store);
        let ledger = data.path().join("ledger");
        let mut ids = Vec::new();
        for n in 0..16 {
            ids.push(steps(&a.url(), 100, &ledger, &format!("k{n}")).await);
        }
        for id in &ids {
            until(&a.url(), id, |task| task["state"] == "running").await;
        }
        a.kill();
        for id in &ids {
            completed(&b.url(), id).await;
        }
        let written = lines(&ledger);
        assert_eq!(written.len(), 1_600, "steps are missing");
        let again = written.values().sum::<u64>() - 1_600;
        assert!(again <= 16, "{again} steps ran again, and one task had one under way at most");
    });
}
