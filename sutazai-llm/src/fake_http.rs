//! A fake HTTP server for the tests of this crate: it answers what a test says, on a free port of this machine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};

/// What a client sent.
#[derive(Clone, Debug)]
pub(crate) struct FakeRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl FakeRequest {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What to answer. The connection is closed after it.
pub(crate) struct FakeResponse {
    status: u16,
    headers: Vec<(&'static str, String)>,
    pieces: Vec<Vec<u8>>,
    endless: bool,
}

impl FakeResponse {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: vec![("content-length", body.len().to_string())], pieces: vec![body], endless: false }
    }

    pub(crate) fn json(body: serde_json::Value) -> Self {
        Self::new(200, body.to_string())
    }

    /// A body of unknown length, sent piece by piece, each in a packet of its own.
    pub(crate) fn stream(pieces: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        Self { status: 200, headers: Vec::new(), pieces: pieces.into_iter().map(Into::into).collect(), endless: false }
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_string()));
        self
    }

    /// Sends its last piece again and again until the client goes.
    pub(crate) fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

/// The server; it stops when dropped.
pub(crate) struct FakeHttpServer {
    address: String,
    requests: Arc<Mutex<Vec<FakeRequest>>>,
    gone: Arc<Semaphore>,
    listening: JoinHandle<()>,
}

impl Drop for FakeHttpServer {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl FakeHttpServer {
    pub(crate) async fn start(answer: impl Fn(&FakeRequest) -> FakeResponse + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let gone = Arc::new(Semaphore::new(0));
        let (answer, seen, told) = (Arc::new(answer), requests.clone(), gone.clone());
        let listening = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, seen, told) = (answer.clone(), seen.clone(), told.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let Some(request) = read(&mut stream).await else { return };
                    let response = answer(&request);
                    seen.lock().unwrap().push(request);
                    if write(stream.into_inner(), response).await.is_err() {
                        told.add_permits(1);
                    }
                });
            }
        });
        Self { address, requests, gone, listening }
    }

    pub(crate) fn url(&self) -> String {
        self.address.clone()
    }

    pub(crate) fn requests(&self) -> Vec<FakeRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until a client went before its answer ended.
    pub(crate) async fn client_gone(&self) {
        self.gone.acquire().await.unwrap().forget();
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<FakeRequest> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(FakeRequest { method, path, headers, body })
}

async fn write(mut stream: TcpStream, response: FakeResponse) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = format!("HTTP/1.1 {} Fake\r\nconnection: close\r\n", response.status);
    for (name, value) in &response.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    for piece in &response.pieces {
        stream.write_all(piece).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if response.endless {
        loop {
            stream.write_all(response.pieces.last().unwrap()).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    stream.shutdown().await
}
