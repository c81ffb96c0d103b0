//! A schedule fires once for each of its moments, whoever dies meanwhile.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    binary::http,
    client::{LEASE, block_on, moment, rounds},
    site::{Addresses, Site},
};

const EVERY_MS: u64 = 200;

pub(crate) fn each_moment_has_its_task_through_kills(store: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let addresses = Addresses::default();
    let start = |name: &str| Site::start(&data.path().join(name), &[store, &LEASE].concat(), Some(&addresses));
    let mut sites = vec![start("a")];
    if !store.is_empty() {
        sites.push(start("b"));
    }
    let schedule = json!({
        "name": "often", "every_ms": EVERY_MS, "catch_up": "all", "overlap": "queue",
        "task": { "agent": "dev.echo", "input": 1 },
    });
    let url = sites[0].server().url();
    let created =
        block_on(async { http().post(format!("{url}/api/v1/schedules")).json(&schedule).send().await.unwrap() });
    assert_eq!(created.status(), 201);
    for round in 0..usize::try_from(rounds()).unwrap() {
        std::thread::sleep(moment(round as u64) * 2);
        let place = round % sites.len();
        sites[place].kill_and_start();
    }
    let url = sites[0].server().url();
    block_on(async {
        // Not before something fired after the last kill.
        tokio::time::sleep(Duration::from_millis(4 * EVERY_MS)).await;
        let gone = http().delete(format!("{url}/api/v1/schedules/often")).send().await.unwrap();
        assert_eq!(gone.status(), 204);
        let moments = moments(&url).await;
        assert!(moments.len() as u64 > rounds(), "{} firings say nothing", moments.len());
        for pair in moments.windows(2) {
            assert_eq!(
                pair[1] - pair[0],
                i64::try_from(EVERY_MS).unwrap(),
                "a moment is doubled or left out: {moments:?}"
            );
        }
    });
    sites.iter().for_each(|site| site.server().assert_sound());
}

/// The moments, in milliseconds, for which there is a task; each of them has completed.
async fn moments(url: &str) -> Vec<i64> {
    let (mut moments, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("{url}/api/v1/tasks?label=schedule:often&limit=200{cursor}");
        let page: Value = http().get(page).send().await.unwrap().json().await.unwrap();
        for task in page["items"].as_array().unwrap() {
            crate::client::completed(url, task["id"].as_str().unwrap()).await;
            let at = task["labels"]["schedule_at"].as_str().unwrap();
            moments.push(sutazai_core::clock::Timestamp::parse(at).unwrap().as_millis());
        }
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    moments.sort_unstable();
    moments
}
