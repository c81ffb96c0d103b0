//! The PostgreSQL store against the suite of every task store, on a real server, and against what only servers can suffer.
#![cfg(feature = "postgres")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

use libtest_mimic::{Arguments, Failed, Trial};
use sutazai_core::{conformance::task::cases, store::TaskStore};
use sutazai_store::PostgresStore;
use sutazai_testing::{Postgres, trial};
use tokio::runtime::Builder;

fn main() {
    let shared = Postgres::shared();
    let mut trials: Vec<Trial> = Vec::new();
    for &(name, case) in cases() {
        trials.push(trial(format!("conformance::{name}"), shared.clone(), move |server| {
            let database = server.database();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let store = PostgresStore::open(database.url()).await.map_err(|error| Failed::from(error.report()))?;
                let done = case(&store).await.map_err(|error| Failed::from(error.report()));
                store.close().await.map_err(|error| Failed::from(error.report()))?;
                done
            })
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
