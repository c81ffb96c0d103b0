//! Processes stand still for longer than their lease, and go on.

use std::time::Duration;

use serde_json::json;

use crate::{
    client::{LEASE, block_on, completed, events, moment, ready, rounds, steps, submit, until},
    kills::pair,
    load::{Load, lines},
    site::{Addresses, Site},
};

/// On SQLite the only server there is, on PostgreSQL one of two.
pub(crate) fn freezes_past_the_lease_under_load(store: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let start = |name: &str| Site::start(&data.path().join(name), &[store, &LEASE].concat(), Some(&addresses));
    let frozen = start("a");
    let _other = (!store.is_empty()).then(|| start("b"));
    let load = Load::start(&addresses, &data.path().join("ledger"));
    for round in 0..rounds().div_ceil(3) {
        std::thread::sleep(moment(round) * 3);
        frozen.server().signal("STOP");
        std::thread::sleep(Duration::from_millis(3_500));
        frozen.server().signal("CONT");
        block_on(ready(frozen.server()));
    }
    load.account(&frozen.server().url());
    frozen.server().assert_sound();
}

pub(crate) fn a_frozen_worker_s_results_come_too_late(store: &[&str]) {
    block_on(async {
        let (data, a, b) = pair(store);
        let ledger = data.path().join("ledger");
        let mut ids = Vec::new();
        for n in 0..16 {
            ids.push(steps(&a.url(), 100, &ledger, &format!("z{n}")).await);
        }
        for id in &ids {
            until(&a.url(), id, |task| task["state"] == "running").await;
        }
        a.signal("STOP");
        for id in &ids {
            completed(&b.url(), id).await;
        }
        a.signal("CONT");
        ready(&a).await;
        // It works again, and nothing that it did late was taken.
        for n in 0..4 {
            let id = submit(&a.url(), "dev.echo", json!(n)).await;
            assert_eq!(completed(&a.url(), &id).await["output"], n);
        }
        for id in &ids {
            let kinds = events(&b.url(), id).await;
            let ends = kinds.iter().filter(|kind| *kind == "task.completed").count();
            assert!(ends == 1 && kinds.last().is_some_and(|kind| kind == "task.completed"), "{kinds:?}");
        }
        let written = lines(&ledger);
        assert_eq!(written.len(), 1_600, "steps are missing");
        let again = written.values().sum::<u64>() - 1_600;
        assert!(again <= 16, "{again} steps ran again, and one task had one under way at most");
        (a.assert_sound(), b.assert_sound()).0
    });
}
