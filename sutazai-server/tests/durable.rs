//! The durable engine on the real binary: kills and freezes in the middle of recorded work, several processes on one PostgreSQL.
//!
//! `SUTAZAI_KILL_ROUNDS` says how many kills a case does (10).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_methods, reason = "a test waits for other processes on its own thread")]

mod binary;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use binary::{PATIENCE, Server, http};
use futures_util::{StreamExt, stream};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use sutazai_testing::{Postgres, trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let alone = |name: &str, test: fn(&[&str])| {
        Trial::test(format!("sqlite::{name}"), move || {
            test(&[]);
            Ok(())
        })
    };
    let postgres = || if arguments.list { Err("only listed".to_owned()) } else { Postgres::shared() };
    let shared = |name: &str, test: fn(&[&str])| {
        trial(format!("postgres::{name}"), postgres(), move |server| {
            let database = server.database();
            test(&["--store", &database.url()]);
            Ok(())
        })
    };
    let trials = vec![
        alone("recorded_steps_run_once_through_kills", recorded_steps_run_once_through_kills),
        shared("recorded_steps_run_once_through_kills", recorded_steps_run_once_through_kills),
        alone("waits_outlive_kills", waits_outlive_kills),
        shared("waits_outlive_kills", waits_outlive_kills),
        shared("a_killed_worker_s_tasks_go_on_elsewhere", a_killed_worker_s_tasks_go_on_elsewhere),
        shared("a_frozen_worker_s_results_come_too_late", a_frozen_worker_s_results_come_too_late),
        shared("a_rolling_restart_fails_no_request", a_rolling_restart_fails_no_request),
        shared("a_worker_answers_operators_alone", a_worker_answers_operators_alone),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

/// Kills of a case.
fn rounds() -> u64 {
    std::env::var("SUTAZAI_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// A lease so short that a take-over needs no patience.
const LEASE: [&str; 2] = ["--lease-ms", "1500"];

async fn submit(url: &str, agent: &str, input: Value) -> String {
    let task = json!({ "agent": agent, "input": input });
    let answer = http().post(format!("{url}/api/v1/tasks")).json(&task).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
}

/// A task of recorded steps that write to the ledger.
async fn steps(url: &str, count: u64, ledger: &Path, label: &str) -> String {
    submit(url, "dev.steps", json!({ "count": count, "ms": 10, "path": ledger, "label": label })).await
}

/// The task once `wanted` says so of it.
async fn until(url: &str, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (client, end) = (http(), Instant::now() + 2 * PATIENCE);
    loop {
        let task: Value = client.get(format!("{url}/api/v1/tasks/{id}")).send().await.unwrap().json().await.unwrap();
        if wanted(&task) {
            return task;
        }
        assert!(Instant::now() < end, "task {id} stays as it is: {task}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn completed(url: &str, id: &str) -> Value {
    let task =
        until(url, id, |task| matches!(task["state"].as_str(), Some("completed" | "failed" | "cancelled"))).await;
    assert_eq!(task["state"], "completed", "{task}");
    task
}

/// How often each line stands in the ledger.
fn lines(ledger: &Path) -> BTreeMap<String, u64> {
    let mut lines = BTreeMap::new();
    fs::read_to_string(ledger).unwrap().lines().for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    lines
}

async fn events(url: &str, id: &str) -> Vec<String> {
    let text = http().get(format!("{url}/api/v1/tasks/{id}/events")).send().await.unwrap().text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned).collect()
}

fn recorded_steps_run_once_through_kills(store: &[&str]) {
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
            // A moment that differs from round to round.
            tokio::time::sleep(Duration::from_millis(50 + round * 67 % 200)).await;
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

fn waits_outlive_kills(store: &[&str]) {
    block_on(async {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start_with(data.path(), store);
        let url = server.url();
        let told = submit(&url, "dev.wait", json!({ "signal": "go", "ms": 600_000 })).await;
        let timed = submit(&url, "dev.wait", json!({ "signal": "go", "ms": 1_000 })).await;
        for id in [&told, &timed] {
            until(&url, id, |task| task["state"] == "waiting").await;
        }
        server.kill();
        server = Server::start_with(data.path(), store);
        let url = server.url();
        assert_eq!(completed(&url, &timed).await["output"], json!({ "signal": null }));
        let signal = http().post(format!("{url}/api/v1/tasks/{told}/signals/go")).json(&json!({ "n": 1 }));
        assert_eq!(signal.send().await.unwrap().status(), 202);
        server.kill(); // what was acknowledged is kept
        server = Server::start_with(data.path(), store);
        assert_eq!(completed(&server.url(), &told).await["output"], json!({ "signal": { "n": 1 } }));
    });
}

/// Two servers on one store.
fn pair(store: &[&str]) -> (tempfile::TempDir, Server, Server) {
    let data = tempfile::tempdir().unwrap();
    let start = |name: &str| Server::start_with(&data.path().join(name), &[store, &LEASE].concat());
    let (a, b) = (start("a"), start("b"));
    (data, a, b)
}

fn a_killed_worker_s_tasks_go_on_elsewhere(store: &[&str]) {
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

fn a_frozen_worker_s_results_come_too_late(store: &[&str]) {
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
        let end = Instant::now() + PATIENCE;
        while http().get(format!("{}/ready", a.url())).send().await.unwrap().status() != 200 {
            assert!(Instant::now() < end, "the thawed server does not get ready: {}", a.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
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
        assert!(!a.log().contains("panicked") && !b.log().contains("panicked"), "{}\n{}", a.log(), b.log());
    });
}

fn a_rolling_restart_fails_no_request(store: &[&str]) {
    let data = tempfile::tempdir().unwrap();
    let start = |name: &str, role, listen: &str| {
        let arguments = [store, &LEASE, &["--role", role, "--listen", listen]].concat();
        Server::start_with(&data.path().join(name), &arguments)
    };
    let _worker = start("worker", "worker", "127.0.0.1:0");
    let mut servers = [start("a", "api", "127.0.0.1:0"), start("b", "api", "127.0.0.1:0")];
    let addresses = servers.each_ref().map(Server::url);
    let done = AtomicBool::new(false);
    let ids = std::thread::scope(|scope| {
        let asking = scope.spawn(|| block_on(ask_until(&done, &addresses)));
        for round in 0..4 {
            std::thread::sleep(Duration::from_millis(300));
            let (name, server) = (["a", "b"][round % 2], &mut servers[round % 2]);
            let listen = format!("127.0.0.1:{}", server.port());
            server.signal("TERM");
            assert_eq!(server.ended().code(), Some(0), "{}", server.log());
            *server = start(name, "api", &listen);
        }
        done.store(true, Ordering::SeqCst);
        asking.join().unwrap()
    });
    assert!(ids.len() > 100, "only {} requests: they said nothing", ids.len());
    block_on(async {
        let url = servers[0].url();
        for id in &ids {
            completed(&url, id).await;
        }
        let (mut count, mut cursor) = (0, String::new());
        loop {
            let page = format!("{url}/api/v1/tasks?label=set:rolling&limit=200{cursor}");
            let page: Value = http().get(page).send().await.unwrap().json().await.unwrap();
            count += page["items"].as_array().unwrap().len();
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(count, ids.len(), "each request is one task, however often it was sent");
    });
}

/// Submits until it is done: each request to one server and, if that is not there, to the other, as behind any balancer.
async fn ask_until(done: &AtomicBool, addresses: &[String; 2]) -> Vec<String> {
    let client = http();
    let ask = async |n: usize| {
        let task = json!({ "agent": "dev.echo", "input": n, "labels": { "set": "rolling" } });
        for address in [&addresses[n % 2], &addresses[(n + 1) % 2]] {
            let request = client.post(format!("{address}/api/v1/tasks")).header("idempotency-key", n.to_string());
            match request.json(&task).send().await {
                Ok(answer) if answer.status() == 503 => {}
                Ok(answer) => {
                    assert_eq!(answer.status(), 202);
                    return answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
                }
                Err(_) => {}
            }
        }
        panic!("request {n} was refused by both servers");
    };
    let numbers = stream::iter(0..).take_while(|_| std::future::ready(!done.load(Ordering::SeqCst)));
    numbers.map(ask).buffer_unordered(8).collect().await
}

fn a_worker_answers_operators_alone(store: &[&str]) {
    block_on(async {
        let data = tempfile::tempdir().unwrap();
        let start = |role| Server::start_with(&data.path().join(role), &[store, &["--role", role]].concat());
        let (api, worker) = (start("api"), start("worker"));
        for (path, status) in [
            ("/health", 200),
            ("/ready", 200),
            ("/metrics", 200),
            ("/version", 200),
            ("/api/v1/tasks", 404),
            ("/api/v1/agents", 404),
            ("/docs", 404),
        ] {
            let answer = http().get(format!("{}{path}", worker.url())).send().await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
        }
        let id = submit(&api.url(), "dev.echo", json!(1)).await;
        completed(&api.url(), &id).await;
        let nodes =
            http().get(format!("{}/api/v1/nodes", api.url())).send().await.unwrap().json::<Value>().await.unwrap();
        let mut roles: Vec<_> = nodes["items"].as_array().unwrap().iter().map(|node| node["role"].clone()).collect();
        roles.sort_by_key(Value::to_string);
        assert_eq!(roles, ["api", "worker"]);
    });
}
