//! A disk is full, and has space again.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use sutazai_testing::{Installation, Postgres, PostgresConfig, Signal};

use crate::{
    binary::{PATIENCE, Server, SmallDisk, http},
    client::{block_on, completed, steps, until},
    load::lines,
};

pub(crate) fn sqlite() {
    let disk = SmallDisk::mount(24).unwrap();
    let server = Server::start(&disk.path().join("data"));
    refuses_and_loses_nothing(&server, &disk, 192, &["store_full"], || {});
}

/// The tables alone are on the small disk.
pub(crate) fn postgres(postgres: &Postgres) {
    let (disk, data) = (SmallDisk::mount(32).unwrap(), tempfile::tempdir().unwrap());
    let store = postgres.create_database_in("full", disk.path());
    let server = Server::start_with(data.path(), &["--store", &store]);
    refuses_and_loses_nothing(&server, &disk, 192, &["store_full"], || {});
    drop(server);
    postgres.query("postgres", "drop database \"full\" with (force)");
    postgres.query("postgres", "drop tablespace \"full\"");
}

/// All of PostgreSQL is on it. Without space for its log it ends, and somebody starts it again.
pub(crate) fn all_of_postgres(installation: &Installation) {
    let (disk, data) = (SmallDisk::mount(160).unwrap(), tempfile::tempdir().unwrap());
    let settings = [("max_wal_size", "48MB"), ("min_wal_size", "32MB")].map(|(key, to)| (key.into(), to.into()));
    let config = PostgresConfig { below: Some(disk.path().to_owned()), settings: settings.into() };
    let mut postgres = Postgres::start_with(installation, config).unwrap();
    let store = postgres.create_database("tasks");
    let server = Server::start_with(data.path(), &["--store", &store]);
    refuses_and_loses_nothing(&server, &disk, 640, &["store_full", "store_unavailable", "store_timeout"], || {
        postgres.stop(Signal::Quit);
        postgres.start_again();
    });
}

/// `mend`: what an operator does when there is space again.
fn refuses_and_loses_nothing(server: &Server, disk: &SmallDisk, space: u32, codes: &[&str], mend: impl FnOnce()) {
    block_on(async {
        let elsewhere = tempfile::tempdir().unwrap();
        let (client, url) = (http(), server.url());
        let post = |input: Value| {
            let task = json!({ "agent": "dev.echo", "input": input });
            client.post(format!("{url}/api/v1/tasks")).json(&task).send()
        };
        let working = working(&url, &elsewhere.path().join("ledger")).await;
        let mut acknowledged = Vec::new();
        let refused = loop {
            let answer = post(json!({ "filler": noise(200_000, acknowledged.len() as u64) })).await.unwrap();
            if answer.status() != 202 {
                break answer;
            }
            acknowledged.push(answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned());
            assert!(acknowledged.len() < 1_000, "a small disk holds more than 200 MB");
        };
        assert_eq!(refused.status(), 503, "{acknowledged:?}");
        assert!(refused.headers().contains_key("retry-after"));
        let problem: Value = refused.json().await.unwrap();
        assert!(codes.iter().any(|code| problem["code"] == *code), "{problem}");
        // What runs meanwhile meets it too.
        tokio::time::sleep(Duration::from_millis(1_500)).await;

        // Space returns: what was acknowledged is there and ends, and new tasks are taken.
        disk.resize(space);
        mend();
        for id in &acknowledged {
            completed(&url, id).await;
        }
        let end = std::time::Instant::now() + PATIENCE;
        while post(json!({})).await.unwrap().status() != 202 {
            assert!(std::time::Instant::now() < end, "nothing is taken though there is space");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for id in &working {
            assert_eq!(completed(&url, id).await["output"], json!({ "steps": STEPS }));
        }
        let written = lines(&elsewhere.path().join("ledger"));
        assert_eq!(written.len() as u64, STEPS * TASKS);
        let again = written.values().sum::<u64>() - STEPS * TASKS;
        assert!(again <= TASKS, "{again} steps ran again, and each task had one under way at most");
        server.assert_sound();
    });
}

const STEPS: u64 = 200;
const TASKS: u64 = 4;

/// Tasks that are at their recorded work while the disk fills up; their ledger is elsewhere.
async fn working(url: &str, ledger: &Path) -> Vec<String> {
    let mut working = Vec::new();
    for n in 0..TASKS {
        working.push(steps(url, STEPS, ledger, &format!("d{n}")).await);
    }
    for id in &working {
        until(url, id, |task| task["state"] == "running").await;
    }
    working
}

/// Text that no database can make smaller.
fn noise(length: usize, seed: u64) -> String {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}
