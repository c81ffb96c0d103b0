//! The command line from outside: exit codes, streams and documents, as the contract has them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod binary;
#[path = "cli/models.rs"]
mod models;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    process::Stdio,
};

use binary::{Server, command, json, run, stderr};
use serde_json::Value;

const NOBODY: &str = "018f0000-0000-7000-8000-000000000000";

fn code(arguments: &[&str]) -> i32 {
    run(arguments).status.code().unwrap()
}

#[test]
fn help_and_version_are_results_and_mistakes_are_usage() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for word in ["quickstart", "Examples:", "Exit codes:", "SUTAZAI_DATA_DIR"] {
        assert!(text.contains(word), "{word} is not in the help");
    }
    assert_eq!(json(&run(&["version", "--json"]))["name"], "sutazai-server");
    for wrong in [
        &["tasks", "frobnicate"][..],
        &[],
        &["serve", "--listen", "nowhere"],
        &["tasks", "submit"],
        &["serve", "--max-running", "0"],
    ] {
        assert_eq!(code(wrong), 2, "{wrong:?}");
    }
}

#[test]
fn the_api_document_and_completions_need_no_server() {
    let document = json(&run(&["openapi"]));
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(run(&["completions", shell]).stdout.len() > 500, "{shell}");
    }
}

#[test]
fn without_a_server_the_exit_code_is_3_and_the_hint_names_serve() {
    let nowhere = "http://127.0.0.1:9";
    for arguments in
        [&["tasks", "list"][..], &["agents", "list"], &["tasks", "watch", NOBODY], &["ask", "why?", "--docs", "."]]
    {
        let output = run(&[arguments, &["--server", nowhere]].concat());
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("serve") && output.stdout.is_empty(), "{}", stderr(&output));
    }
}

#[test]
fn tasks_go_through_a_running_server() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let echo = ["tasks", "submit", "--agent", "dev.echo", "--wait", "--json", "--input"];

    let labelled = ["{\"c\":1}", "--label", "team=a", "--priority", "7", "--idempotency-key", "k"];
    let task = json(&server.cli(&[&echo[..], &labelled].concat()));
    assert_eq!((&task["state"], &task["output"]["c"], &task["priority"]), (&"completed".into(), &1.into(), &7.into()));
    assert_eq!(json(&server.cli(&[&echo[..], &labelled].concat()))["id"], task["id"]);

    let input = data.path().join("input.json");
    fs::write(&input, "[1,2]").unwrap();
    let from_file = json(&server.cli(&[&echo[..], &[&format!("@{}", input.display())]].concat()));
    assert_eq!(from_file["output"], serde_json::json!([1, 2]));

    let id = task["id"].as_str().unwrap();
    assert_eq!(json(&server.cli(&["tasks", "get", id, "--json"]))["id"], id);
    let listed = json(&server.cli(&["tasks", "list", "--json", "--label", "team=a"]));
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert!(json(&server.cli(&["agents", "list", "--json"]))["items"].as_array().unwrap().len() >= 3);
    assert_eq!(json(&server.cli(&["agents", "show", "dev.echo", "--json"]))["name"], "dev.echo");

    let watched = server.cli(&["tasks", "watch", id, "--json"]);
    let events: Vec<Value> = watched
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(events[0]["type"], "task.created");
    assert_eq!(events.last().unwrap()["type"], "task.completed");

    let plain = server.cli(&["tasks", "list"]);
    assert!(!String::from_utf8(plain.stdout).unwrap().contains(['\u{1b}', '│']), "colour or borders off a terminal");
}

#[test]
fn exit_codes_say_what_became_of_a_request() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let code = |arguments: &[&str]| server.cli(arguments).status.code().unwrap();
    let submit = |agent, input| ["tasks", "submit", "--agent", agent, "--wait", "--input", input];

    let failed = server.cli(&submit("dev.fail", r#"{"times":1,"temporary":false,"message":"broken"}"#));
    assert_eq!(failed.status.code(), Some(1));
    assert!(stderr(&failed).contains("broken"), "{}", stderr(&failed));
    let refused = server.cli(&submit("dev.sleep", r#"{"ms":"soon"}"#));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("/input/ms"), "{}", stderr(&refused));
    assert_eq!(code(&submit("dev.echo", "{not json")), 2);
    assert_eq!(code(&submit("nobody", "{}")), 4);
    assert_eq!(code(&["tasks", "get", NOBODY]), 4);
    assert_eq!(code(&["tasks", "watch", NOBODY]), 4);
    assert_eq!(code(&["agents", "show", "nobody"]), 4);

    let sleeping = server.cli(&["tasks", "submit", "--agent", "dev.sleep", "--input", r#"{"ms":60000}"#, "--json"]);
    let id = json(&sleeping)["id"].as_str().unwrap().to_owned();
    assert_eq!(code(&["tasks", "cancel", &id, "--idempotency-key", "k"]), 0);
    assert_eq!(code(&["tasks", "cancel", &id, "--idempotency-key", "k"]), 0, "the same change again");
    assert_eq!(code(&["tasks", "cancel", &id]), 1);
    let watched = server.cli(&["tasks", "watch", &id]);
    assert!(watched.status.code() == Some(1) && stderr(&watched).contains("cancelled"), "{}", stderr(&watched));
    assert_eq!(json(&server.cli(&["tasks", "get", &id, "--json"]))["state"], "cancelled");
}

#[test]
fn what_a_task_recorded_is_shown_told_forked_and_replayed() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let ledger = data.path().join("ledger");
    let input = serde_json::json!({ "count": 5, "ms": 1, "path": ledger, "label": "l" }).to_string();
    let steps = ["tasks", "submit", "--agent", "dev.steps", "--input", &input, "--wait", "--json"];
    let id = json(&server.cli(&steps))["id"].as_str().unwrap().to_owned();
    let journal = json(&server.cli(&["tasks", "journal", &id, "--json"]));
    assert_eq!(journal["items"].as_array().unwrap().len(), 5);
    let page = json(&server.cli(&["tasks", "journal", &id, "--limit", "2", "--json"]));
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = json(&server.cli(&["tasks", "journal", &id, "--limit", "2", "--cursor", cursor, "--json"]));
    assert_eq!(next["items"][0]["index"], 2);

    let fork = json(&server.cli(&["tasks", "fork", &id, "--from", "3", "--json"]));
    assert_ne!(fork["id"], id);
    assert!(server.cli(&["tasks", "watch", fork["id"].as_str().unwrap()]).status.success());
    assert_eq!(fs::read_to_string(&ledger).unwrap().lines().count(), 7);
    assert_eq!(server.cli(&["tasks", "fork", &id, "--from", "99"]).status.code(), Some(2));
    assert_eq!(server.cli(&["tasks", "resolve", &id, "0", "--retry"]).status.code(), Some(1));

    let file = data.path().join("run.json");
    let file = file.to_str().unwrap();
    let replayed = json(&server.cli(&["tasks", "replay", &id, "--save", file, "--json"]));
    assert_eq!((&replayed["matches"], &replayed["entries"]), (&true.into(), &5.into()), "{replayed}");
    assert_eq!(json(&run(&["tasks", "replay", "--cassette", file, "--json"]))["matches"], true);
    let recorded = fs::read_to_string(file).unwrap();
    fs::write(file, recorded.replace("\"count\":5", "\"count\":4")).unwrap();
    let other = run(&["tasks", "replay", "--cassette", file, "--json"]);
    assert_eq!((other.status.code(), &json(&other)["matches"]), (Some(1), &false.into()));
    assert_eq!(fs::read_to_string(&ledger).unwrap().lines().count(), 7, "a replay does nothing");

    let wait = ["tasks", "submit", "--agent", "dev.wait", "--input", r#"{"signal":"go","ms":60000}"#, "--json"];
    let id = json(&server.cli(&wait))["id"].as_str().unwrap().to_owned();
    assert_eq!(server.cli(&["tasks", "signal", &id, "go", r#"{"n":1}"#]).status.code(), Some(0));
    assert!(server.cli(&["tasks", "watch", &id]).status.success());
    assert_eq!(json(&server.cli(&["tasks", "get", &id, "--json"]))["output"]["signal"]["n"], 1);
    assert_eq!(server.cli(&["tasks", "signal", &id, "go"]).status.code(), Some(1));
    assert_eq!(server.cli(&["tasks", "signal", NOBODY, "go"]).status.code(), Some(4));
}

#[test]
fn dead_letters_are_shown_requeued_and_discarded() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let input = r#"{"times":9,"message":"broken"}"#;
    let fail = [
        "tasks",
        "submit",
        "--agent",
        "dev.fail",
        "--max-attempts",
        "2",
        "--label",
        "set=d",
        "--wait",
        "--json",
        "--input",
    ];
    let ids: Vec<_> = (0..3).map(|_| json(&server.cli(&[&fail[..], &[input]].concat()))["id"].clone()).collect();
    let id = |n: usize| ids[n].as_str().unwrap();
    let listed = json(&server.cli(&["tasks", "dead", "list", "--label", "set=d", "--json"]));
    assert_eq!(listed["items"].as_array().unwrap().len(), 3);
    let shown = json(&server.cli(&["tasks", "dead", "show", id(0), "--json"]));
    assert_eq!(shown["attempts"].as_array().unwrap().len(), 2, "{shown}");
    let plain = server.cli(&["tasks", "dead", "show", id(0)]);
    assert!(String::from_utf8(plain.stdout).unwrap().contains("broken"));

    let again = server.cli(&["tasks", "dead", "requeue", id(0), "--input", r#"{"times":0}"#, "--json"]);
    assert_eq!(json(&again)["id"], ids[0], "{}", stderr(&again));
    assert!(server.cli(&["tasks", "watch", id(0)]).status.success());
    assert_eq!(json(&server.cli(&["tasks", "get", id(0), "--json"]))["output"]["attempts"], 1);
    assert_eq!(server.cli(&["tasks", "dead", "requeue", id(0)]).status.code(), Some(1));
    assert_eq!(server.cli(&["tasks", "dead", "discard", id(1)]).status.code(), Some(0));
    assert_eq!(server.cli(&["tasks", "dead", "show", id(1)]).status.code(), Some(4));
    let many = server.cli(&["tasks", "dead", "requeue", "--agent", "dev.fail", "--label", "set=d", "--json"]);
    assert_eq!(json(&many)["requeued"], 1);
    assert_eq!(server.cli(&["tasks", "dead", "requeue"]).status.code(), Some(2), "nothing was named");
    let watched = server.cli(&["tasks", "watch", id(2), "--json"]);
    assert_eq!(watched.status.code(), Some(1), "{}", stderr(&watched));
    assert!(stderr(&watched).contains("broken"), "{}", stderr(&watched));
    let told = String::from_utf8(watched.stdout).unwrap();
    let ends = told.lines().filter(|line| line.contains("\"task.failed\"")).count();
    assert_eq!(ends, 2, "one before and one after the requeue: {told}");
    let all = || json(&server.cli(&["tasks", "dead", "requeue", "--all", "--idempotency-key", "all", "--json"]));
    assert_eq!((all(), all()), (serde_json::json!({"requeued": 1}), serde_json::json!({"requeued": 1})));
    assert!(!server.cli(&["tasks", "watch", id(2)]).status.success());
    assert_eq!(server.cli(&["tasks", "dead", "requeue", id(2), "--all"]).status.code(), Some(2));
    assert_eq!(server.cli(&["tasks", "dead", "requeue", id(2), "--agent", "a"]).status.code(), Some(2));
}

/// The address of a receiver that is gone for good: it answers 410 to everything.
fn gone() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

#[test]
fn webhooks_that_were_given_up_are_shown_requeued_and_discarded() {
    let data = tempfile::tempdir().unwrap();
    let settings = data.path().join("settings.toml");
    fs::write(&settings, "webhook_secret = \"whsec\"\nwebhook_allow_private = true\n").unwrap();
    let server = Server::start_with(data.path(), &["--config", settings.to_str().unwrap()]);
    let url = gone();
    let submit = ["tasks", "submit", "--agent", "dev.echo", "--input", "{}", "--wait", "--json", "--webhook", &url];
    let id = json(&server.cli(&submit))["id"].clone();
    let id = id.as_str().unwrap();
    let given_up = || {
        let began = std::time::Instant::now();
        loop {
            let listed = json(&server.cli(&["webhooks", "dead", "list", "--json"]));
            if listed["items"][0]["task_id"] == id {
                break listed["items"][0].clone();
            }
            assert!(began.elapsed() < binary::PATIENCE, "{listed}");
        }
    };
    let letter = given_up();
    assert!(letter["reason"].as_str().unwrap().contains("410"), "{letter}");
    let again = json(&server.cli(&["webhooks", "dead", "requeue", id, "--json"]));
    assert_eq!(again["requeued"], true, "{again}");
    given_up();
    let table = server.cli(&["webhooks", "dead", "list"]);
    assert!(String::from_utf8(table.stdout).unwrap().contains("410"));
    assert_eq!(server.cli(&["webhooks", "dead", "discard", id]).status.code(), Some(0));
    let listed = json(&server.cli(&["webhooks", "dead", "list", "--json"]));
    assert_eq!(listed["items"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(server.cli(&["webhooks", "dead", "discard", id]).status.code(), Some(1));
    assert_eq!(server.cli(&["webhooks", "dead", "requeue", NOBODY]).status.code(), Some(4));
}

#[test]
fn schedules_nodes_and_the_feed_are_there() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let code = |arguments: &[&str]| server.cli(arguments).status.code();
    let echo = ["--agent", "dev.echo", "--input", "{}", "--json"];
    let create = |name, timing: &[&str]| server.cli(&[&["schedules", "create", name][..], timing, &echo].concat());
    let made = json(&create("nightly", &["--cron", "0 3 * * *", "--time-zone", "Europe/Berlin"]));
    assert_eq!((&made["time_zone"], &made["overlap"]), (&"Europe/Berlin".into(), &"skip".into()), "{made}");
    assert_eq!(json(&create("daily", &["--every", "1d"]))["every_ms"], 86_400_000);
    let wrong = create("wrong", &["--cron", "61 * * * *"]);
    assert!(wrong.status.code() == Some(2) && stderr(&wrong).contains("/cron"), "{}", stderr(&wrong));
    assert_eq!(create("nightly", &["--every", "1s"]).status.code(), Some(1), "the name is taken");
    assert_eq!(create("soon", &["--every", "soon"]).status.code(), Some(2));
    assert_eq!(create("both", &["--every", "1s", "--cron", "* * * * *"]).status.code(), Some(2));

    let update = |name| server.cli(&[&["schedules", "update", name, "--every", "2d"][..], &echo].concat());
    assert_eq!(json(&update("nightly"))["every_ms"], 2 * 86_400_000);
    assert_eq!(update("nobody").status.code(), Some(4));
    assert_eq!(json(&server.cli(&["schedules", "pause", "nightly", "--json"]))["paused"], true);
    assert_eq!(json(&server.cli(&["schedules", "show", "nightly", "--json"]))["paused"], true);
    assert_eq!(json(&server.cli(&["schedules", "resume", "nightly", "--json"]))["paused"], false);
    let trigger = || json(&server.cli(&["schedules", "trigger", "nightly", "--json", "--idempotency-key", "t"]));
    let task = trigger();
    assert_eq!(trigger()["id"], task["id"]);
    assert_eq!(task["labels"]["schedule"], "nightly");
    assert_eq!(code(&["schedules", "delete", "nightly"]), Some(0));
    assert_eq!(code(&["schedules", "delete", "nightly"]), Some(4));
    let left = json(&server.cli(&["schedules", "list", "--json"]));
    assert_eq!(left["items"].as_array().unwrap().len(), 1);

    let nodes = json(&server.cli(&["nodes", "list", "--json"]));
    assert_eq!((&nodes["items"][0]["role"], nodes["items"].as_array().unwrap().len()), (&"all".into(), 1));
    assert!(json(&server.cli(&["nodes", "list", "--limit", "1", "--json"]))["next_cursor"].is_null());
    let id = task["id"].as_str().unwrap();
    assert!(server.cli(&["tasks", "watch", id]).status.success());
    let feed = |arguments: &[&str]| -> Vec<Value> {
        let output = server.cli(&[&["events", "--json"], arguments].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = feed(&[]);
    assert_eq!(all.last().unwrap()["type"], "task.completed");
    let first = all[0]["seq"].to_string();
    assert_eq!(feed(&["--after", &first]), all[1..]);
    assert_eq!(feed(&["--limit", "1"]), all[..1]);
}

#[test]
fn watching_survives_a_restart_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let (url, listen) = (server.url(), format!("127.0.0.1:{}", server.port()));
    let sleeping = server.cli(&["tasks", "submit", "--agent", "dev.sleep", "--input", r#"{"ms":1500}"#, "--json"]);
    let id = json(&sleeping)["id"].as_str().unwrap().to_owned();
    let mut watching =
        command(&["tasks", "watch", &id, "--json", "--server", &url]).stdout(Stdio::piped()).spawn().unwrap();
    // Its first event has come when there is a line to read.
    let mut out = watching.stdout.take().unwrap();
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    server.kill();
    let _server = Server::start_with(data.path(), &["--listen", &listen]);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(watching.wait().unwrap().success());
    let text = format!("{}{rest}", first[0] as char);
    let seqs: Vec<u64> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "an event came twice: {seqs:?}");
    assert!(text.lines().last().unwrap().contains("task.completed"), "{text}");
}

#[test]
fn following_all_tasks_survives_a_restart_of_the_server() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::start(data.path());
    let (url, listen) = (server.url(), format!("127.0.0.1:{}", server.port()));
    let echo = |server: &Server| {
        let task = server.cli(&["tasks", "submit", "--agent", "dev.echo", "--input", "1", "--wait", "--json"]);
        json(&task)["id"].as_str().unwrap().to_owned()
    };
    let first = echo(&server);
    let following = command(&["events", "--follow", "--json", "--server", &url]).stdout(Stdio::piped()).spawn();
    let mut following = following.unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let mut seqs = Vec::new();
    let mut until_the_end_of = |id: &str| loop {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        seqs.push(event["seq"].as_u64().unwrap());
        if event["task_id"] == id && event["type"] == "task.completed" {
            return seqs.clone();
        }
    };
    until_the_end_of(&first);
    server.kill();
    let server = Server::start_with(data.path(), &["--listen", &listen]);
    let seqs = until_the_end_of(&echo(&server));
    following.kill().unwrap();
    following.wait().unwrap();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "an event came twice: {seqs:?}");
}

#[test]
fn every_command_shows_an_example() {
    fn walk(path: &[&str], seen: &mut usize) {
        let help = run(&[path, &["--help"]].concat());
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success() && text.contains("Examples:"), "{path:?}: {text}");
        *seen += 1;
        let Some((_, rest)) = text.split_once("Commands:\n") else { return };
        for name in rest.lines().map_while(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' ')) {
            let name = name.split_whitespace().next().unwrap();
            if name != "help" {
                walk(&[path, &[name]].concat(), seen);
            }
        }
    }
    let mut seen = 0;
    walk(&[], &mut seen);
    assert!(seen > 20, "only {seen} commands were found");
    let states = String::from_utf8(run(&["tasks", "list", "--help"]).stdout).unwrap();
    assert!(states.contains("waiting") && states.contains("cancelled"), "{states}");
    assert_eq!(code(&["tasks", "list", "--state", "sleeping"]), 2);
    assert_eq!(code(&["tasks", "submit", "--input", "{}", "--idempotency-key", "with space"]), 2);
}

#[test]
fn a_password_in_an_address_is_not_shown() {
    let output = run(&["tasks", "list", "--server", "http://me:secret@127.0.0.1:9"]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("***@127.0.0.1:9") && !text.contains("secret"), "{text}");
}

#[test]
fn variables_of_the_users_documents_stop_nothing() {
    for (name, value) in [
        ("PG_DSN", "postgresql+asyncpg://u:secret@h/d"),
        ("PG_DSN", "host=db user=x"),
        ("VECTOR_PROVIDER", "milvus"),
        ("LOG_LEVEL", "WARNING"),
        ("LOG_LEVEL", "Critical"),
    ] {
        let output = command(&["config", "check"]).env(name, value).output().unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{name}={value}: {text}");
        assert_eq!(text.contains("is ignored"), name != "LOG_LEVEL", "{name}={value}: {text}");
    }
}

#[test]
fn settings_are_shown_with_their_origin_and_checked() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("sutazai.toml");
    fs::write(&file, "max_running = 3\n").unwrap();
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        command(arguments).env("SUTAZAI_CONFIG", &file).envs(variables.iter().copied()).output().unwrap()
    };
    let printed = json(&with(
        &["config", "print", "--json", "--listen", "127.0.0.1:7"],
        &[("MODEL_ID", "m"), ("PG_DSN", "postgres://u:secret@h/d")],
    ));
    let settings = &printed["settings"];
    assert_eq!(settings["max_running"]["value"], "3");
    assert!(settings["max_running"]["origin"].as_str().unwrap().ends_with("sutazai.toml"));
    assert_eq!(settings["listen"]["origin"], "flag --listen");
    assert_eq!(settings["model_id"]["origin"], "environment MODEL_ID");
    assert_eq!(
        (&settings["store"]["value"], &settings["store"]["origin"]),
        (&"postgres://***".into(), &"environment PG_DSN".into())
    );
    assert!(!printed.to_string().contains("secret"), "{printed}");

    assert_eq!(with(&["config", "check"], &[]).status.code(), Some(0));
    let unknown = with(&["config", "check"], &[("SUTAZAI_LISTN", "x")]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("SUTAZAI_LISTEN"), "{}", stderr(&unknown));
    let wrong = with(&["config", "check"], &[("SUTAZAI_MAX_RUNNING", "many")]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("max_running") && stderr(&wrong).contains("\"many\""), "{}", stderr(&wrong));
    for (name, value) in [("MAX_RUNNING", "many"), ("LISTEN", "0.0.0.0:1"), ("PROMETHEUS_NAMESPACE", "a b")] {
        let output = with(&["config", "check", "--json"], &[(&format!("SUTAZAI_{name}"), value)]);
        let checked = json(&output);
        assert_eq!((output.status.code(), &checked["ok"]), (Some(2), &false.into()), "{checked}");
        assert!(checked["faults"][0].as_str().unwrap().contains(value), "{checked}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let script = format!("'{}' openapi | head -c 10", binary::path());
    let output = std::process::Command::new("bash").args(["-o", "pipefail", "-c", &script]).output().unwrap();
    assert_eq!(stderr(&output), "");
    assert!(output.status.success());
}
