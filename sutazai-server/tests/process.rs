//! The server as a process: how it starts, how it ends, and that it loses nothing when it is killed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod binary;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::Command,
    sync::Mutex,
    time::Duration,
};

use binary::{PATIENCE, Server, http, run, stderr};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

/// Submits tasks one request each, many at a time: the line of each with its id, if it was acknowledged.
async fn submit(url: &str, tasks: Vec<(String, Value)>) -> Vec<(String, String)> {
    let client = http();
    let submitted = stream::iter(tasks).map(|(line, task)| {
        let request = client.post(format!("{url}/api/v1/tasks")).header("idempotency-key", &line).json(&task);
        async move {
            let answer = request.send().await.ok()?;
            let task = (answer.status() == 202).then_some(answer)?.json::<Value>().await.ok()?;
            Some((task["id"].as_str()?.to_owned(), line))
        }
    });
    submitted.buffer_unordered(16).filter_map(|found| async { found }).collect().await
}

/// The task at its end.
async fn finished(client: &reqwest::Client, url: &str, id: &str) -> Value {
    let end = std::time::Instant::now() + 2 * PATIENCE;
    loop {
        let answer = client.get(format!("{url}/api/v1/tasks/{id}?wait=30s")).send().await.unwrap();
        let task: Value = answer.json().await.unwrap();
        if matches!(task["state"].as_str(), Some("completed" | "failed" | "cancelled")) {
            return task;
        }
        assert!(std::time::Instant::now() < end, "task {id} does not end: {task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_during_500_running_tasks_it_loses_none_and_ends_each_once() {
    let data = tempfile::tempdir().unwrap();
    let ledger = data.path().join("ledger");
    fs::write(&ledger, "").unwrap();
    let mut server = Server::start(data.path());
    let mut acknowledged = HashMap::new();
    for round in 0..20_u64 {
        // Some wait long enough to be running at the kill, some write a line that must be there in the end.
        let task = |n: u64| match n % 2 {
            0 => json!({ "agent": "dev.append", "input": { "path": ledger, "line": format!("{round}-{n}") } }),
            _ => json!({ "agent": "dev.sleep", "input": { "ms": 200 + n } }),
        };
        let tasks = (0..500).map(|n| (format!("{round}-{n}"), task(n))).collect();
        let url = server.url();
        let submitting = tokio::spawn(async move { submit(&url, tasks).await });
        // A moment that differs from round to round, from the first request to the last task.
        tokio::time::sleep(Duration::from_millis(5 + round * 47 % 600)).await;
        server.kill();
        acknowledged.extend(submitting.await.unwrap());
        server = Server::start(data.path());
    }
    assert!(
        acknowledged.len() > 500,
        "only {} tasks were acknowledged: the kills came too early to say anything",
        acknowledged.len()
    );

    let (client, url) = (http(), server.url());
    let recoveries: Mutex<HashMap<String, usize>> = Mutex::default();
    let recoveries = &recoveries;
    let check = |(id, line): (String, String)| {
        let (client, url) = (client.clone(), url.clone());
        async move {
            let task = finished(&client, &url, &id).await;
            assert_eq!(task["state"], "completed", "{line} ended as {task}");
            let events =
                client.get(format!("{url}/api/v1/tasks/{id}/events")).send().await.unwrap().text().await.unwrap();
            let terminal = events
                .lines()
                .filter(|line| ["event: task.completed", "event: task.failed", "event: task.cancelled"].contains(line))
                .count();
            assert_eq!(terminal, 1, "{line}: {events}");
            let recovered = events.lines().filter(|line| *line == "event: task.recovered").count();
            recoveries.lock().unwrap().insert(line, recovered);
        }
    };
    stream::iter(acknowledged.clone()).map(check).buffer_unordered(16).collect::<Vec<()>>().await;

    let text = fs::read_to_string(&ledger).unwrap();
    let mut written: BTreeMap<&str, usize> = BTreeMap::new();
    text.lines().for_each(|line| *written.entry(line).or_default() += 1);
    let number = |line: &str| line.split_once('-').and_then(|(_, n)| n.parse::<u64>().ok());
    assert!(written.keys().all(|line| number(line).is_some()), "a torn line in the ledger");
    let recoveries = recoveries.lock().unwrap();
    assert!(recoveries.values().any(|count| *count > 0), "nothing ran at any of the kills: they said nothing");
    for line in acknowledged.values().filter(|line| number(line).is_some_and(|n| n % 2 == 0)) {
        let times = written.get(line.as_str()).copied().unwrap_or_default();
        assert!(times > 0, "{line} was acknowledged and never done");
        let cut = recoveries[line];
        assert!(times <= 1 + cut, "{line} was done {times} times though its execution was cut short {cut} times");
    }
}

#[test]
fn bad_starts_are_one_clear_line_with_a_hint() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(data.path());
    let busy = format!("127.0.0.1:{}", server.port());
    let (here, there) = (data.path().to_str().unwrap(), other.path().to_str().unwrap());
    let file = other.path().join("a-file");
    fs::write(&file, "").unwrap();
    let old = tempfile::tempdir().unwrap();
    fs::write(old.path().join("layout"), "0\n").unwrap();
    let cases: &[(&str, &[&str], &str)] = &[
        ("a busy port", &["--data-dir", there, "--listen", &busy], server.port()),
        ("two servers on one directory", &["--data-dir", here, "--listen", "127.0.0.1:0"], "in use by another server"),
        ("reachable from outside", &["--data-dir", there, "--listen", "0.0.0.0:0"], "no authentication"),
        ("another layout", &["--data-dir", old.path().to_str().unwrap()], "layout \"0\""),
        ("a file in the way", &["--data-dir", file.to_str().unwrap()], "a-file"),
        ("no place to write", &["--data-dir", "/proc/none"], "/proc/none"),
        (
            "a bad namespace",
            &["--data-dir", there, "--listen", "127.0.0.1:0", "--prometheus-namespace", "1"],
            "prometheus_namespace",
        ),
        ("no PostgreSQL", &["--data-dir", there, "--store", "postgres://u:secret@127.0.0.1:9/d"], "127.0.0.1:9"),
        ("no store at all", &["--data-dir", there, "--store", "host=h password=secret"], "postgres://USER"),
        ("a worker of its own", &["--data-dir", there, "--role", "worker"], "shares its store"),
    ];
    for (name, arguments, expected) in cases {
        let output = run(&[&["serve"], *arguments].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {text}");
        assert!(text.contains(expected) && text.contains("hint: "), "{name}: {text}");
        assert!(!text.contains("panicked") && !text.contains("secret") && text.lines().count() == 2, "{name}: {text}");
    }
}

#[test]
fn a_store_of_another_version_is_refused() {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("tasks.db"), vec![7; 8192]).unwrap();
    let output = run(&["serve", "--data-dir", data.path().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("tasks.db"), "{}", stderr(&output));
}

/// Raises what a binary must know to use the tasks in `data`, as a later version would.
async fn outdate(data: &Path) {
    use sqlx::{Connection, SqliteConnection};
    let mut database = SqliteConnection::connect(data.join("tasks.db").to_str().unwrap()).await.unwrap();
    let changed = sqlx::query("UPDATE meta SET value = 1000000 WHERE key = 'min_reader'");
    assert_eq!(changed.execute(&mut database).await.unwrap().rows_affected(), 1);
    database.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_version_is_refused_and_left_alone() {
    let data = tempfile::tempdir().unwrap();
    Server::start(data.path()).kill();
    outdate(data.path()).await;
    let output = run(&["serve", "--data-dir", data.path().to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("newer version") && text.contains("hint: run the version"), "{text}");
}

#[test]
fn the_ready_line_is_written_whatever_is_logged() {
    for level in ["off", "warn", "sutazai_core=debug"] {
        let data = tempfile::tempdir().unwrap();
        // It would not come back without its ready line.
        let server = Server::start_with(data.path(), &["--log-level", level]);
        assert!(!server.port().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_keeps_no_server_from_its_work() {
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = other.path().join("settings.toml");
    fs::write(&file, "redis_url = \"redis://me:hunter2@127.0.0.1:9/3\"\nredis_prefix = \"mine\"\n").unwrap();
    let server = Server::start_with(data.path(), &["--config", file.to_str().unwrap()]);
    let client = http();
    let ready = client.get(format!("{}/ready", server.url())).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let ready: Value = ready.json().await.unwrap();
    assert_eq!((&ready["status"], &ready["checks"]["answer_cache"]["status"]), (&json!("ok"), &json!("unavailable")));
    let why = ready["checks"]["answer_cache"]["detail"].as_str().unwrap();
    assert!(why.contains("redis://127.0.0.1:9/3 mine") && !why.contains("hunter2"), "{why}");
    let done = submit(&server.url(), vec![("a".into(), json!({ "agent": "dev.echo", "input": 1 }))]).await;
    assert_eq!(finished(&client, &server.url(), &done[0].0).await["output"], 1);
    let log = server.log();
    assert!(log.contains("kept answers cannot be read") && !log.contains("hunter2"), "{log}");
    fs::write(&file, "redis_url = \"redis://me:hunter2@127.0.0.1:9/number\"\n").unwrap();
    let there = other.path().join("data");
    let (there, file) = (there.to_str().unwrap(), file.to_str().unwrap());
    let refused = run(&["serve", "--data-dir", there, "--listen", "127.0.0.1:0", "--config", file]);
    let text = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("redis://USER") && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_task_when_the_server_ends_is_answered() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(data.path(), &["--drain-ms", "100"]);
    let task = json!({ "agent": "dev.sleep", "input": { "ms": 600_000 } });
    let submitted = submit(&server.url(), vec![("long".into(), task)]).await;
    let (id, client) = (submitted[0].0.clone(), http());
    let polls: Vec<_> = (0..20)
        .map(|_| tokio::spawn(client.get(format!("{}/api/v1/tasks/{id}?wait=60s", server.url())).send()))
        .collect();
    let mut stream = client.get(format!("{}/api/v1/tasks/{id}/events", server.url())).send().await.unwrap();
    while !String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap()).contains("task.running") {}
    server.signal("TERM");
    for poll in polls {
        let answer = poll.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }
    while let Some(_more) = stream.chunk().await.unwrap() {} // its end, not a cut
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    assert!(!server.log().contains("ended early"), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_names_are_served() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), &["--allowed-hosts", "agents.lan, agents"]);
    for (host, status) in [("agents.lan", 200), ("agents:80", 200), ("localhost", 200), ("evil.example", 421)] {
        let answer = http().get(format!("{}/health", server.url())).header("host", host).send().await.unwrap();
        assert_eq!(answer.status(), status, "{host}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_call_does_not_keep_the_process() {
    let data = tempfile::tempdir().unwrap();
    let pipe = data.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut server = Server::start_with(data.path(), &["--drain-ms", "100"]);
    let task = json!({ "agent": "dev.append", "input": { "path": pipe, "line": "nobody reads this" } });
    let submitted = submit(&server.url(), vec![("blocked".into(), task)]).await;
    let task = format!("{}/api/v1/tasks/{}", server.url(), submitted[0].0);
    let until = std::time::Instant::now() + PATIENCE;
    while http().get(&task).send().await.unwrap().json::<Value>().await.unwrap()["state"] != "running" {
        assert!(std::time::Instant::now() < until, "it does not run");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_running_tasks_finish_and_exits_0() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let tasks = (0..20).map(|n| (n.to_string(), json!({ "agent": "dev.sleep", "input": { "ms": 800 } }))).collect();
    let submitted = submit(&server.url(), tasks).await;
    assert_eq!(submitted.len(), 20);
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    let server = Server::start(data.path());
    let client = http();
    for (id, _) in submitted {
        let task = finished(&client, &server.url(), &id).await;
        assert_eq!((&task["state"], &task["attempt"]), (&"completed".into(), &1.into()), "{task}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlasts_the_grace_goes_on_at_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(data.path(), &["--drain-ms", "100"]);
    let task = json!({ "agent": "dev.sleep", "input": { "ms": 2000 } });
    let submitted = submit(&server.url(), vec![("long".into(), task)]).await;
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    let server = Server::start(data.path());
    let task = finished(&http(), &server.url(), &submitted[0].0).await;
    assert_eq!(
        (&task["state"], &task["attempt"]),
        (&"completed".into(), &1.into()),
        "a release costs no attempt: {task}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_at_once() {
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let data = tempfile::tempdir().unwrap();
        let mut server = Server::start(data.path());
        let task = json!({ "agent": "dev.sleep", "input": { "ms": 600_000 } });
        assert_eq!(submit(&server.url(), vec![("long".into(), task)]).await.len(), 1);
        server.signal(name);
        let until = std::time::Instant::now() + PATIENCE;
        while !server.log().contains("draining") {
            assert!(std::time::Instant::now() < until, "{}", server.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.signal(name);
        let status = server.ended();
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{}", server.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_do_not_hurt_it() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let (client, url) = (http(), format!("{}/api/v1/tasks", server.url()));
    for body in ["{not json".to_owned(), "[]".into(), "x".repeat(20 << 20), "[".repeat(100_000)] {
        let length = body.len();
        let answer = client.post(&url).header("content-type", "application/json").body(body).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{length} bytes were not answered: {error:?}"));
        assert!(answer.status().is_client_error(), "{length} bytes: {}", answer.status());
    }
    let good = submit(&server.url(), vec![("good".into(), json!({ "agent": "dev.echo", "input": 1 }))]).await;
    assert_eq!(finished(&client, &server.url(), &good[0].0).await["output"], 1);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
