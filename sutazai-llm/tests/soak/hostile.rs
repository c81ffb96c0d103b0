//! An Ollama on a bad day: a server on the loopback that answers as a seed draws it, may be killed, and starts again on the same port.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::answers::{self, Fault, Reply, Then};

/// How long it says nothing before that is cut: longer than any gateway here waits for a chat.
const HANGS: Duration = Duration::from_millis(400);
/// How long a deleted model is gone, in milliseconds.
const GONE: std::ops::Range<u64> = 20..60;

/// The server, which is well-behaved until told otherwise. It runs in the runtime that started it, and ends with that.
pub(crate) struct Hostile {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    life: Option<Life>,
}

/// From a start to the end.
struct Life {
    end: CancellationToken,
    accepting: JoinHandle<()>,
}

struct State {
    random: Rng,
    rages: bool,
    /// Models that were deleted, and until when.
    gone: HashMap<String, Instant>,
    /// How often which fault was drawn.
    faults: BTreeMap<Fault, usize>,
}

struct Request {
    method: String,
    path: String,
    body: Value,
}

impl Hostile {
    pub(crate) async fn start(seed: u64) -> Self {
        let random = Rng::with_seed(seed);
        let state = State { random, rages: false, gone: HashMap::new(), faults: BTreeMap::new() };
        let listener = listen().await;
        let address = listener.local_addr().unwrap();
        let mut server = Self { address, state: Arc::new(Mutex::new(state)), life: None };
        server.live(listener);
        server
    }

    /// `http://127.0.0.1:PORT`, the same in all its lives.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether anything goes wrong from now on.
    pub(crate) fn rage(&self, rages: bool) {
        let mut state = self.state.lock().unwrap();
        state.rages = rages;
        state.gone.clear();
    }

    /// How often which fault was drawn.
    pub(crate) fn faults(&self) -> BTreeMap<Fault, usize> {
        self.state.lock().unwrap().faults.clone()
    }

    /// Closes its port and resets all connections. Both is done once this returns.
    pub(crate) async fn kill(&mut self) {
        let Some(Life { end, accepting }) = self.life.take() else { return };
        end.cancel();
        accepting.await.unwrap();
    }

    /// Starts it again after a kill.
    pub(crate) async fn start_again(&mut self) {
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.live(listener),
                // Somebody else has taken the port meanwhile.
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    fn live(&mut self, listener: TcpListener) {
        let end = CancellationToken::new();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&self.state), end.clone()));
        self.life = Some(Life { end, accepting });
    }
}

/// A free port below those of outgoing connections: one of these could sit on it while the server is away, or even be connected to itself.
async fn listen() -> TcpListener {
    for _ in 0..1_000 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(20_000..32_000))).await {
            return listener;
        }
    }
    panic!("there is no free port");
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>, end: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = end.cancelled() => break,
            taken = listener.accept() => {
                if let Ok((stream, _)) = taken {
                    connections.spawn(connection(stream, Arc::clone(&state), end.clone()));
                }
            }
            Some(ended) = connections.join_next() => ended.unwrap(),
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        ended.unwrap();
    }
}

async fn connection(stream: TcpStream, state: Arc<Mutex<State>>, end: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    let reset = tokio::select! {
        reset = serve(&mut stream, &state) => reset,
        () = end.cancelled() => true,
    };
    if reset {
        // What is still under way goes with it.
        let _ = stream.get_ref().set_zero_linger();
    }
}

/// Answers one request after the other until the connection is to end; whether it is to be reset.
async fn serve(stream: &mut BufReader<TcpStream>, state: &Mutex<State>) -> bool {
    while let Some(request) = read(stream).await {
        let (reply, mut random) = state.lock().unwrap().answer(&request);
        if send(stream.get_mut(), &reply, &mut random).await.is_err() {
            return false;
        }
        match reply.then {
            Then::GoOn => {}
            Then::Close => return false,
            Then::Reset => return true,
            Then::Hang => {
                sleep(HANGS).await;
                return true;
            }
        }
    }
    false
}

impl State {
    /// What is answered, and what its pace is drawn from.
    fn answer(&mut self, request: &Request) -> (Reply, Rng) {
        let reply = self.reply(request);
        (reply, self.random.fork())
    }

    fn reply(&mut self, request: &Request) -> Reply {
        let Request { method, path, body } = request;
        let model = body["model"].as_str().unwrap_or_default();
        let random = &mut self.random;
        let good = match (method.as_str(), path.as_str()) {
            ("GET", "/api/tags") => return Reply::whole(200, &answers::tags(), random),
            ("GET", "/api/ps") => return Reply::whole(200, &answers::running(), random),
            ("POST", "/api/show") => return Reply::whole(200, &answers::shown(model), random),
            ("POST", "/api/generate") => answers::done(model),
            ("POST", "/api/embed") => answers::vectors(model, &body["input"]),
            ("POST", "/api/chat") => answers::chat(model, body["messages"][0]["content"].as_str().unwrap_or_default()),
            other => panic!("nobody asks for {other:?}"),
        };
        let now = Instant::now();
        self.gone.retain(|_, until| *until > now);
        if self.gone.contains_key(model) {
            return Reply::missing(model, random);
        }
        let Some(fault) = Fault::draw(random).filter(|_| self.rages) else {
            return Reply::whole(200, &good, random);
        };
        *self.faults.entry(fault).or_default() += 1;
        if fault == Fault::Deleted {
            self.gone.insert(model.to_owned(), now + Duration::from_millis(random.u64(GONE)));
        }
        Reply::spoilt(fault, model, &good, random)
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0_usize;
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0_u8; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, path, body: serde_json::from_slice(&body).unwrap_or_default() })
}

/// Sends a reply in odd pieces, with a pause now and then.
async fn send(stream: &mut TcpStream, reply: &Reply, random: &mut Rng) -> io::Result<()> {
    let mut rest = reply.bytes.as_slice();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(random.usize(1..=rest.len().min(reply.piece)));
        stream.write_all(piece).await?;
        rest = after;
        if reply.piece > 1 && random.u8(..8) == 0 {
            sleep(Duration::from_millis(1)).await;
        } else {
            yield_now().await;
        }
    }
    Ok(())
}
