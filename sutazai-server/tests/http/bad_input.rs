//! Everything a client can get wrong is a problem document, and never a 500.

use axum::{body::Body, http::Method};
use serde_json::{Value, json};

use crate::server::server;

#[tokio::test]
async fn malformed_and_wrong_bodies() {
    let server = server().await;
    let post = async |body: &str| server.post("/api/v1/tasks", body.to_owned()).await;
    post("{not json").await.problem(400, "malformed_json");
    post("").await.problem(400, "malformed_json");
    server
        .post("/api/v1/tasks", &b"{\"agent\":\"dev.echo\",\"input\":\"\xff\xfe\"}"[..])
        .await
        .problem(400, "malformed_json");
    post("[]").await.problem(422, "invalid");
    post("{}").await.problem(422, "invalid");
    post(r#"["dev.echo",null,1]"#).await.problem(422, "invalid");
    let text = [("content-type", "text/plain")];
    server.ask(Method::POST, "/api/v1/tasks", &text, r#"{"input":{}}"#).await.problem(415, "unsupported_media_type");
    server.ask(Method::POST, "/api/v1/tasks", &[], r#"{"input":{}}"#).await.problem(415, "unsupported_media_type");
    post(r#"{"agent":"nobody","input":{}}"#).await.problem(422, "agent_not_found");
    post(r#"{"capability":"flying","input":{}}"#).await.problem(422, "capability_not_found");
    post(r#"{"input":{}}"#).await.problem(422, "agent_required");
    let deep = format!(r#"{{"agent":"dev.echo","input":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    post(&deep).await.problem(422, "invalid");
    let deep = format!(r#"{{"tasks":[{deep}]}}"#);
    let items = server.post("/api/v1/tasks/batch", deep).await.expect(202).json();
    assert_eq!(items["items"][0]["error"]["errors"][0]["path"], "/input");
    post(&"[".repeat(20_000)).await.problem(400, "malformed_json");
}

/// What the answer to `tasks list` could not be read with would hide every other task.
#[tokio::test]
async fn an_input_that_nobody_can_read_is_refused_wherever_it_comes() {
    let server = server().await;
    for (input, place) in [(r#""\ud800""#, ""), (r#"{"n": 1e999}"#, "/n"), (r#"[0, ["\udfff"]]"#, "/1/0")] {
        let task = format!(r#"{{"agent":"dev.echo","input":{input}}}"#);
        let schedule = format!(r#"{{"name":"s","every_ms":60000,"task":{task}}}"#);
        for (path, body, prefix) in [
            ("/api/v1/tasks", task, "/input"),
            ("/api/v1/schedules", schedule, "/task/input"),
            ("/agents/dev.echo/v1/jobs", input.to_owned(), ""),
        ] {
            let problem = server.post(path, body).await.problem(422, "invalid");
            assert_eq!(problem["errors"][0]["path"], format!("{prefix}{place}"), "{path}");
        }
    }
    for name in [".", ".."] {
        let schedule = json!({"name": name, "every_ms": 60_000, "task": {"agent": "dev.echo", "input": {}}});
        let problem = server.post("/api/v1/schedules", schedule.to_string()).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["path"], "/name");
    }
}

#[tokio::test]
async fn a_wrong_field_is_named() {
    let server = server().await;
    let path = async |field: &str| {
        let body = format!(r#"{{"agent":"dev.echo","input":{{}},{field}}}"#);
        let problem = server.post("/api/v1/tasks", body).await.problem(422, "invalid");
        problem["errors"][0]["path"].as_str().unwrap().to_owned()
    };
    for wrong in ["-1", "10", "1.5", "\"high\"", "[]"] {
        assert_eq!(path(&format!(r#""priority":{wrong}"#)).await, "/priority");
    }
    assert_eq!(path(r#""prioritee":1"#).await, "/prioritee");
    assert_eq!(path(r#""deadline":"tomorrow""#).await, "/deadline");
    assert_eq!(path(r#""retry":{"max_attempts":0}"#).await, "/retry/max_attempts");
    assert_eq!(path(r#""retry":{"max":1}"#).await, "/retry/max");
    assert_eq!(path(r#""retry":[]"#).await, "/retry");
    assert_eq!(path(r#""labels":{"a":1}"#).await, "/labels/a");
    assert_eq!(path(r#""labels":{"a":"1","a":"2"}"#).await, "/labels");
    assert_eq!(path(r#""labels":{"a:b":"1"}"#).await, "/labels/a:b");
    assert_eq!(path(r#""tenant":"""#).await, "/tenant");
    path(r#""agent":"dev.sleep""#).await;
    let problem = server.post("/api/v1/tasks", r#"{"agent":"dev.sleep","input":{"ms":"soon"}}"#).await;
    assert_eq!(problem.problem(422, "invalid_input")["errors"][0]["path"], "/input/ms");
}

#[tokio::test]
async fn wrong_addresses_methods_and_parameters() {
    let server = server().await;
    server.get("/nowhere").await.problem(404, "route_not_found");
    server.get("/api/v1/tasks/").await.problem(404, "route_not_found");
    for id in ["not-a-uuid", "018f0000-0000-7000-8000-000000000000", "%ff", "%00"] {
        server.get(&format!("/api/v1/tasks/{id}")).await.problem(404, "task_not_found");
        server.get(&format!("/api/v1/tasks/{id}/events")).await.problem(404, "task_not_found");
        let cancel = format!("/api/v1/tasks/{id}/cancel");
        server.ask(Method::POST, &cancel, &[], Body::empty()).await.problem(404, "task_not_found");
    }
    for query in ["limit=0", "limit=201", "limit=x", "cursor=%00garbage", "state=sleeping", "label=x", "other=1"] {
        let problem = server.get(&format!("/api/v1/tasks?{query}")).await.problem(422, "invalid");
        let name = format!("/{}", query.split('=').next().unwrap());
        assert_eq!(problem["errors"][0]["path"], name);
    }
    server.get("/api/v1/tasks/018f0000-0000-7000-8000-000000000000?wait=soon").await.problem(422, "invalid");
    let put = server.ask(Method::PUT, "/api/v1/tasks", &[], Body::empty()).await;
    let allow = put.headers["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    put.problem(405, "method_not_allowed");
    let id = "/api/v1/tasks/018f0000-0000-7000-8000-000000000000";
    server.ask(Method::DELETE, id, &[], Body::empty()).await.problem(405, "method_not_allowed");
}

/// Every address under `/api/v1` and of jobs, also one that takes no parameter, refuses what it does not know before it does anything.
#[tokio::test]
async fn an_unknown_parameter_is_named_with_those_that_are_allowed() {
    let server = server().await;
    let id = server.submit("dev.sleep", json!({"ms": 3_600_000})).await;
    let refused = async |method: Method, path: &str| {
        let problem = server.ask(method, path, &[], Body::empty()).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["path"], "/colour", "{path}: {problem}");
        problem["errors"][0]["message"].as_str().unwrap().to_owned()
    };
    for path in ["cancel?colour=1", "signals/s?colour", "replay?&colour="] {
        let message = refused(Method::POST, &format!("/api/v1/tasks/{id}/{path}")).await;
        assert!(message.contains("takes none"), "{message}");
    }
    for path in ["events", "cassette"] {
        refused(Method::GET, &format!("/api/v1/tasks/{id}/{path}?colour=1")).await;
    }
    refused(Method::GET, "/agents/dev.echo/v1/jobs/x?colour=1").await;
    refused(Method::DELETE, "/api/v1/schedules/s?colour=1").await;
    refused(Method::GET, "/api/v1/agents/dev.echo?colour=1").await;
    let message = refused(Method::GET, "/api/v1/events?limit=1&colour=1").await;
    assert!(message.contains("allowed are after, limit, cursor"), "{message}");
    server.get("/api/v1/events?cursor=0&limit=1").await.expect(200);
    server.get("/health?colour=1").await.expect(200);
    assert!(server.get(&format!("/api/v1/tasks/{id}")).await.json()["finished_at"].is_null(), "nothing was done");
}

/// What takes no body takes an empty one too, whatever it is called, and nothing else.
#[tokio::test]
async fn a_body_where_none_belongs_is_refused() {
    let server = server().await;
    let json_type = [("content-type", "application/json")];
    let schedule = json!({"name": "s", "every_ms": 3_600_000, "task": {"agent": "dev.echo", "input": 1}});
    server.post("/api/v1/schedules", schedule.to_string()).await.expect(201);
    for action in ["pause", "resume", "trigger"] {
        let path = format!("/api/v1/schedules/s/{action}");
        for (headers, body) in [(&[][..], ""), (&json_type, ""), (&json_type, "{}"), (&[], " {} ")] {
            let status = if action == "trigger" { 202 } else { 200 };
            server.ask(Method::POST, &path, headers, body).await.expect(status);
        }
    }
    let id = server.submit("dev.sleep", json!({"ms": 3_600_000})).await;
    let takes_none = [
        (Method::POST, format!("/api/v1/tasks/{id}/cancel")),
        (Method::POST, format!("/api/v1/tasks/{id}/replay")),
        (Method::POST, "/api/v1/schedules/s/pause".to_owned()),
        (Method::DELETE, "/api/v1/schedules/s".to_owned()),
        (Method::DELETE, format!("/api/v1/dead-letters/{id}")),
    ];
    for (method, path) in takes_none {
        let problem = server.ask(method.clone(), &path, &json_type, r#"{"why":1}"#).await.problem(422, "invalid");
        assert_eq!(problem["errors"][0]["path"], "/why", "{path}");
        for body in ["[]", "null", "1"] {
            let problem = server.ask(method.clone(), &path, &[], body).await.problem(422, "invalid");
            assert!(problem["detail"].as_str().unwrap().contains("takes no body"), "{problem}");
        }
        server.ask(method, &path, &json_type, "{").await.problem(400, "malformed_json");
    }
    assert!(server.get(&format!("/api/v1/tasks/{id}")).await.json()["finished_at"].is_null(), "nothing was done");
    server.ask(Method::POST, &format!("/api/v1/tasks/{id}/cancel"), &json_type, "{}").await.expect(202);
    server.ask(Method::POST, &format!("/api/v1/tasks/{id}/cancel"), &[], "").await.problem(409, "task_finished");
}

#[tokio::test]
async fn strangers_are_refused() {
    let server = server().await;
    let evil = async |headers: &[(&str, &str)]| {
        let mut request = axum::http::Request::post("/api/v1/tasks").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        server.send(request.body(Body::from(r#"{"agent":"dev.echo","input":{}}"#)).unwrap()).await
    };
    evil(&[("host", "evil.example")]).await.problem(421, "host_not_allowed");
    evil(&[]).await.problem(421, "host_not_allowed");
    evil(&[("host", "localhost:80"), ("origin", "http://evil.example")]).await.problem(403, "origin_not_allowed");
    evil(&[("host", "localhost:80"), ("origin", "null")]).await.problem(403, "origin_not_allowed");
    evil(&[("host", "localhost:80"), ("origin", "http://localhost:80")]).await.expect(202);
    let listed = server.get("/api/v1/tasks").await.expect(200).json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "a refused request changed something");
}

#[tokio::test]
async fn a_large_body_is_refused_and_a_fitting_one_is_not() {
    let server = server().await;
    let body = |size: usize| json!({"agent": "dev.echo", "input": "x".repeat(size)}).to_string();
    server.post("/api/v1/tasks", body(20 << 20)).await.problem(413, "body_too_large");
    let chunks = (0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 20]));
    let stream = Body::from_stream(futures_util::stream::iter(chunks));
    server.post("/api/v1/tasks", stream).await.problem(413, "body_too_large");
    let fitting = server.post("/api/v1/tasks", body(9 << 20)).await.expect(202).json();
    let id = fitting["id"].as_str().unwrap();
    assert_eq!(server.finished(id).await["output"].as_str().map(str::len), Some(9 << 20));
    let split = Body::from_stream(futures_util::stream::iter(
        body(100).into_bytes().chunks(7).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect::<Vec<_>>(),
    ));
    server.post("/api/v1/tasks", split).await.expect(202);
}

#[tokio::test]
async fn every_answer_is_dressed() {
    let server = server().await;
    let request_id = async |sent: Option<&str>| {
        let headers: Vec<_> = sent.map(|id| ("x-request-id", id)).into_iter().collect();
        let answer = server.ask(Method::GET, "/health", &headers, Body::empty()).await.expect(200);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        answer.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(request_id(Some("abc-123")).await, "abc-123");
    assert_ne!(request_id(Some("a b")).await, "a b");
    assert_ne!(request_id(None).await, request_id(None).await);
    let missing = server.ask(Method::GET, "/nowhere", &[("x-request-id", "r-1")], Body::empty()).await;
    assert_eq!(missing.problem(404, "route_not_found")["request_id"], Value::from("r-1"));
}
