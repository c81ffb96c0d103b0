//! The database ends, or the way to it.

use std::time::Duration;

use sutazai_testing::{Postgres, Proxy, Signal};

use crate::{
    client::{LEASE, block_on, moment, ready, rounds},
    load::Load,
    site::{Addresses, Site},
};

/// PostgreSQL is ended with SIGQUIT, stays away for a moment or for longer than the lease, and recovers.
pub(crate) fn it_ends_at_once_and_starts_again_under_load(mut postgres: Postgres) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let store = ["--store", &postgres.create_database("tasks")];
    let start = |name: &str| Site::start(&data.path().join(name), &[store, LEASE].concat(), Some(&addresses));
    let sites = [start("a"), start("b")];
    let load = Load::start(&addresses, &data.path().join("ledger"));
    for round in 0..rounds() {
        std::thread::sleep(moment(round) * 3);
        postgres.stop(Signal::Quit);
        std::thread::sleep(if round % 5 == 4 { Duration::from_secs(2) } else { moment(round) });
        postgres.start_again();
    }
    settled(load, &sites);
}

/// Connections are reset, fall silent, and are refused.
pub(crate) fn connections_are_cut_under_load(postgres: &Postgres) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let (database, proxies) = (postgres.database(), [0, 1].map(|_| Proxy::start(postgres.address())));
    let start = |name: &str, proxy| {
        let url = database.url_through(proxy);
        Site::start(&data.path().join(name), &[&["--store", &url], &LEASE[..]].concat(), Some(&addresses))
    };
    let sites = [start("a", &proxies[0]), start("b", &proxies[1])];
    let load = Load::start(&addresses, &data.path().join("ledger"));
    for round in 0..2 * rounds() {
        let proxy = &proxies[usize::from(round % 3 == 2)];
        std::thread::sleep(moment(round));
        match round % 8 {
            // For as long as a lease, and no end is told: what was sent before arrives after.
            3 => {
                proxy.stall(true);
                std::thread::sleep(Duration::from_millis(2_000));
                proxy.stall(false);
            }
            5 => {
                proxy.refuse(true);
                proxy.cut();
                std::thread::sleep(Duration::from_millis(1_000));
                proxy.refuse(false);
            }
            _ => proxy.cut(),
        }
    }
    settled(load, &sites);
}

/// Everything is well again, on each of the servers, and was all the time for whoever asked.
fn settled(load: Load, sites: &[Site]) {
    sites.iter().for_each(|site| block_on(ready(site.server())));
    load.account(&sites[0].server().url());
    sites.iter().for_each(|site| site.server().assert_sound());
}
