//! What only a socket shows: bodies that are still on their way, and the end of a server.

use std::time::Duration;

use axum::{body::Body, http::Request};
use futures_util::StreamExt;
use serde_json::Value;
use sutazai_server::http::{Options, router, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};
use tower::ServiceExt;

use crate::server::{Server, state};

struct Listening {
    port: u16,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
}

async fn listen(options: Options) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, state(options).await, async {
        let _ = stopped.await;
    }));
    Listening { port, stop, serving }
}

impl Listening {
    async fn send(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    async fn submit(&self, agent: &str, input: &str) -> String {
        let body = format!(r#"{{"agent":"{agent}","input":{input}}}"#);
        let head = head("POST", "/api/v1/tasks", body.len());
        let (_, body) = read(self.send(&format!("{head}connection: close\r\n\r\n{body}")).await).await;
        body["id"].as_str().unwrap().to_owned()
    }
}

fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
    )
}

/// Status and body of an answer after which the server closes.
async fn read(mut stream: TcpStream) -> (u16, Value) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_while_it_is_sent() {
    let server = listen(Options::default()).await;
    let body = vec![b' '; 20 << 20];
    let mut stream =
        server.send(&format!("{}connection: close\r\n\r\n", head("POST", "/api/v1/tasks", body.len()))).await;
    stream.write_all(&body).await.unwrap();
    let (status, problem) = read(stream).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("body_too_large")));
    // One that waits for leave to send gets no leave.
    let polite =
        format!("{}expect: 100-continue\r\nconnection: close\r\n\r\n", head("POST", "/api/v1/tasks", 20 << 20));
    let (status, problem) = read(server.send(&polite).await).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("body_too_large")));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let server = listen(Options { request_timeout: Duration::from_millis(50), ..Options::default() }).await;
    let stream = server.send(&format!("{}connection: close\r\n\r\n{{\"ag", head("POST", "/api/v1/tasks", 100))).await;
    let (status, problem) = read(stream).await;
    assert_eq!((status, problem["code"].as_str()), (408, Some("request_timeout")));
}

/// Time is the runtime's own here and jumps whenever everybody waits.
#[tokio::test(start_paused = true)]
async fn a_silent_stream_shows_that_it_lives() {
    let server = Server { router: router(state(Options::default()).await) };
    let id = server.submit("dev.sleep", serde_json::json!({"ms": 3_600_000})).await;
    let request = Request::get(format!("/api/v1/tasks/{id}/events")).header("host", "localhost");
    let response = server.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let mut stream = response.into_body().into_data_stream();
    let mut last = Instant::now();
    let mut comments = 0;
    while comments < 3 {
        let piece = stream.next().await.unwrap().unwrap();
        assert!(last.elapsed() <= Duration::from_secs(15), "{:?} of silence", last.elapsed());
        last = Instant::now();
        comments += u32::from(piece.starts_with(b":"));
    }
}

#[tokio::test]
async fn the_end_is_announced_to_those_who_wait() {
    let server = listen(Options::default()).await;
    let id = server.submit("dev.sleep", r#"{"ms":600000}"#).await;
    let mut stream = server.send(&head("GET", &format!("/api/v1/tasks/{id}/events"), 0)).await;
    stream.write_all(b"\r\n").await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("task.running") {
        stream.read_buf(&mut seen).await.unwrap();
    }
    let poll = server.send(&format!("{}\r\n", head("GET", &format!("/api/v1/tasks/{id}?wait=60s"), 0))).await;
    let idle = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    // The long poll is in flight once its connection was accepted; a request after it on another connection shows that.
    server.submit("dev.echo", "1").await;
    server.stop.send(()).unwrap();
    server.serving.await.unwrap().unwrap();
    let (status, task) = read(poll).await;
    assert_eq!((status, task["state"].as_str()), (200, Some("running")));
    stream.read_to_end(&mut seen).await.unwrap();
    assert!(String::from_utf8_lossy(&seen).ends_with("0\r\n\r\n"), "the stream was cut, not ended");
    drop(idle);
    assert!(TcpStream::connect(("127.0.0.1", server.port)).await.is_err(), "still listening");
}
