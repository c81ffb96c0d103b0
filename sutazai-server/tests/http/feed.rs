//! The events of all tasks, and the nodes.

use axum::{
    body::Body,
    http::{Method, Request},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::server::{Server, events, server};

#[tokio::test]
async fn the_feed_is_read_in_order_and_to_the_end() {
    let server = server().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        let id = server.submit("dev.echo", json!(n)).await;
        server.finished(&id).await;
        ids.push(id);
    }
    let items = server.pages("/api/v1/events?limit=3").await;
    let numbers: Vec<_> = items.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let done: Vec<_> =
        items.iter().filter(|event| event["type"] == "task.completed").map(|event| &event["task_id"]).collect();
    assert_eq!(done, ids.iter().collect::<Vec<_>>());
    let of_first: Vec<_> = items.iter().filter(|event| event["task_id"] == *ids[0]).collect();
    assert_eq!(of_first.iter().map(|event| event["task_seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(of_first[0]["data"], json!({"agent": "dev.echo"}));
    let rest = server.get(&format!("/api/v1/events?after={}", numbers[numbers.len() - 2])).await.expect(200).json();
    assert_eq!(rest, json!({"items": [items.last().unwrap()], "next_cursor": null}));
    let none =
        server.get(&format!("/api/v1/events?after={}&limit=1", numbers.last().unwrap())).await.expect(200).json();
    assert_eq!(none, json!({"items": [], "next_cursor": null}));
    for wrong in ["after=x", "after=-1", "limit=0", "limit=201", "task=x", "after=1&cursor=1"] {
        server.get(&format!("/api/v1/events?{wrong}")).await.problem(422, "invalid");
    }
}

/// Reads the stream until `count` events have come.
async fn read(server: &Server, query: &str, headers: &[(&str, &str)], count: usize) -> Vec<(u64, String, Value)> {
    let mut request = Request::get(format!("/api/v1/events{query}")).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let mut text = String::new();
    loop {
        text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
        let found = events(whole);
        if found.len() >= count {
            return found;
        }
    }
}

#[tokio::test]
async fn the_feed_streams_and_resumes() {
    let server = server().await;
    let accept = ("accept", "text/event-stream");
    let plain = [accept];
    let first = server.submit("dev.echo", json!(1)).await;
    server.finished(&first).await;
    let (seen, late) = tokio::join!(read(&server, "", &plain, 8), async {
        let id = server.submit("dev.echo", json!(2)).await;
        server.finished(&id).await;
        id
    });
    let names: Vec<_> = seen.iter().map(|(_, name, _)| name.as_str()).collect();
    let one = ["task.created", "task.assigned", "task.running", "task.completed"];
    assert_eq!(names, [one, one].concat());
    assert!(seen.iter().all(|(id, name, data)| data["seq"] == *id && data["type"] == *name));
    assert_eq!(seen[7].2["task_id"], late);
    let number = seen[5].0.to_string();
    let resumed = read(&server, "", &[accept, ("last-event-id", &number)], 2).await;
    assert_eq!(resumed, seen[6..]);
    let after =
        read(&server, &format!("?after={number}"), &[("accept", "text/html, text/event-stream;q=0.9")], 2).await;
    assert_eq!(after, seen[6..]);
    // A reconnecting client repeats the address it began with.
    let both = read(&server, "?after=0", &[accept, ("last-event-id", &number)], 2).await;
    assert_eq!(both, seen[6..]);
    let wrong = [accept, ("last-event-id", "x")];
    server.ask(Method::GET, "/api/v1/events", &wrong, Body::empty()).await.problem(422, "invalid");
}

#[tokio::test]
async fn this_process_is_a_node() {
    let server = server().await;
    let nodes = server.pages("/api/v1/nodes?limit=1").await;
    assert_eq!(nodes.len(), 1);
    let node = &nodes[0];
    assert_eq!((&node["name"], &node["role"], &node["state"]), (&json!("local"), &json!("all"), &json!("live")));
    assert!(node["id"].as_str().unwrap().starts_with("local/"), "{node}");
    for time in ["started_at", "seen_at", "lease_until"] {
        assert!(node[time].is_string(), "{node}");
    }
    server.get("/api/v1/nodes?role=all").await.problem(422, "invalid");
    server.get("/api/v1/nodes?cursor=x").await.problem(422, "invalid");
}
