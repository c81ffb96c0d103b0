//! Several servers, each with its part.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    binary::{Server, http},
    client::{LEASE, block_on, completed, submit},
};

pub(crate) fn a_rolling_restart_fails_no_request(store: &[&str]) {
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

pub(crate) fn a_worker_answers_operators_alone(store: &[&str]) {
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
