//! A server: takes over its directory and its port, serves, and drains when it is told to end.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use sutazai_llm::ollama::Discovered;
use tokio_util::sync::CancellationToken;

use crate::{
    compose::{self, Engine},
    config::{Role, Settings},
    http::{self, AppState, Options},
    metrics::Metrics,
    node::DataDir,
    process::{Exit, Failure, Stop},
};

/// How long changes under idempotency keys have to be noted at the end.
const SETTLE: Duration = Duration::from_secs(2);

/// What a server must have to itself, taken before anything slow is begun.
pub struct Claimed {
    dir: DataDir,
    listener: TcpListener,
    address: SocketAddr,
}

impl Claimed {
    /// Takes over the data directory and the port, or says which of them is not to be had.
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        settings.check()?;
        let dir = DataDir::open(&settings.data_dir)?;
        let refused = |error: std::io::Error| bind_failure(settings.listen, &error);
        let listener = TcpListener::bind(settings.listen).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { dir, listener, address })
    }

    /// Where it will serve.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Why nothing can be served at `listen`, and what to do about it.
fn bind_failure(listen: SocketAddr, error: &io::Error) -> Failure {
    let port = listen.port();
    let hint = match error.kind() {
        ErrorKind::AddrInUse => {
            format!("another program has port {port}; stop it, or choose another with --listen HOST:PORT")
        }
        ErrorKind::PermissionDenied => {
            format!("port {port} is for privileged users; choose one above 1023 with --listen HOST:PORT")
        }
        ErrorKind::AddrNotAvailable => {
            format!("this machine has no address {}; try --listen 127.0.0.1:{port}", listen.ip())
        }
        _ => "choose another address with --listen HOST:PORT".to_owned(),
    };
    Failure::usage(format!("cannot listen on {listen}: {error}")).hint(hint)
}

/// A server that is ready: its engine runs, its port is open.
pub struct Server {
    claimed: Claimed,
    engine: Engine,
    metrics: Arc<Metrics>,
    drain: Duration,
    options: Options,
}

impl Server {
    /// Starts the engine. Whatever is wrong now is a fault of the configuration.
    pub async fn start(claimed: Claimed, settings: &Settings, ollama: Option<Discovered>) -> Result<Self, Failure> {
        let started = compose::serving(settings, &claimed.dir, claimed.address, ollama).await;
        let (engine, metrics) = started.map_err(|error| Failure::from(error).exits(Exit::Usage))?;
        let options = Options {
            allowed_hosts: settings.allowed_hosts.clone(),
            model_silence: Duration::from_millis(settings.model_silence_ms),
            webhook_secret: settings.webhook_secret.clone(),
            webhook_allow_private: settings.webhook_allow_private,
            operators_only: settings.role == Role::Worker,
            ..Options::default()
        };
        Ok(Self { claimed, engine, metrics, drain: Duration::from_millis(settings.drain_ms), options })
    }

    /// Serves until `end` is cancelled, then admits nothing more, lets running tasks finish, gives back what is left and closes.
    pub async fn run(self, end: CancellationToken) -> Result<Exit, Failure> {
        let Self { claimed, engine, metrics, drain, options } = self;
        let failed = |error: io::Error| Failure::new(Exit::Failed, format!("cannot serve on: {error}"));
        let listener = tokio::net::TcpListener::from_std(claimed.listener).map_err(failed)?;
        let closed = CancellationToken::new();
        let mut state = AppState::new(engine.orchestrator.clone(), metrics, options);
        state = state.with_admissions(engine.admissions.clone());
        if let Some(answers) = &engine.shared_answers {
            state = state.with_answers(Arc::clone(answers));
        }
        let settling = state.clone();
        let serving = async {
            let served = http::serve(listener, state, closed.clone().cancelled_owned()).await;
            end.cancel(); // whatever made it stop, the engine stops too
            served
        };
        let draining = async {
            end.cancelled().await;
            tracing::info!(running = engine.orchestrator.running(), "draining");
            let began = Instant::now();
            if tokio::time::timeout(drain.min(SETTLE), settling.settle()).await.is_err() {
                tracing::warn!(
                    "a change under an idempotency key was not done in time; its repetition may be carried out"
                );
            }
            // Until this is done the API goes on answering: those who wait for a running task get its result.
            let drained = engine.close(drain.saturating_sub(began.elapsed())).await;
            closed.cancel();
            drained
        };
        let (served, drained) = tokio::join!(serving, draining);
        served.map_err(failed)?;
        let drained = drained?;
        tracing::info!(finished = drained.finished, released = drained.released, "stopped");
        Ok(Exit::Done)
    }
}

/// Cancels `end` at the first signal; the second one ends the process at once.
pub async fn watch(mut stop: Stop, end: CancellationToken) {
    stop.wait().await;
    end.cancel();
    let signal = stop.wait().await;
    tracing::warn!(signal, "stopped by a second signal; running tasks go on at the next start");
    std::process::exit(128 + signal);
}
