//! A thread that owns a model: loads it when it is first needed, answers one request at a time, and lets go of it when idle.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use rayon::{ThreadPool, ThreadPoolBuilder};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatRequest},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{generate::Loaded, gguf::damaged};
use crate::local::text_of;

/// How a worker runs.
#[derive(Clone)]
pub(crate) struct Options {
    /// The model's name, for errors and threads.
    pub(crate) name: String,
    /// Threads that compute.
    pub(crate) threads: usize,
    /// Requests that may wait for their turn.
    pub(crate) max_waiting: usize,
    /// Pieces that an answer can have at most.
    pub(crate) context_length: usize,
    /// After this long without work the model's memory is given back.
    pub(crate) unload_after: Option<Duration>,
}

type Load = Arc<dyn Fn() -> Result<Loaded> + Send + Sync>;

/// The caller's end of the thread.
pub(crate) struct Worker {
    options: Options,
    load: Load,
    jobs: Mutex<Option<SyncSender<Job>>>,
    /// One permit: who holds it has the model. Waiters get it in the order they came, and one that leaves loses its place.
    turn: Arc<Semaphore>,
    waiting: AtomicUsize,
}

struct Job {
    work: Work,
    _turn: OwnedSemaphorePermit,
}

enum Work {
    Answer { request: Box<ChatRequest>, events: mpsc::Sender<Result<ChatEvent>> },
    Load(oneshot::Sender<Result<()>>),
    Unload(oneshot::Sender<Result<()>>),
}

impl Worker {
    /// A worker for the model that `load` loads. Nothing runs before the first request.
    pub(crate) fn new(options: Options, load: impl Fn() -> Result<Loaded> + Send + Sync + 'static) -> Self {
        Self {
            options,
            load: Arc::new(load),
            jobs: Mutex::default(),
            turn: Arc::new(Semaphore::new(1)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for the model's turn and the first event of the answer.
    pub(crate) async fn chat(
        &self,
        request: ChatRequest,
    ) -> Result<impl Stream<Item = Result<ChatEvent>> + Send + use<>> {
        let turn = self.turn().await?;
        // Room for every piece and the end: the model never waits for a slow reader, and what is stored stays bounded.
        let (events, mut answer) = mpsc::channel(self.options.context_length + 2);
        self.send(Job { work: Work::Answer { request: Box::new(request), events }, _turn: turn })?;
        match answer.recv().await {
            Some(Ok(first)) => {
                let rest = stream::unfold(answer, async |mut answer| answer.recv().await.map(|event| (event, answer)));
                Ok(stream::iter([Ok(first)]).chain(rest))
            }
            Some(Err(error)) => Err(error),
            None => Err(gone()),
        }
    }

    /// Loads the model unless it is loaded.
    pub(crate) async fn load(&self) -> Result<()> {
        self.order(Work::Load).await
    }

    /// Gives the model's memory back.
    pub(crate) async fn unload(&self) -> Result<()> {
        self.order(Work::Unload).await
    }

    async fn order(&self, work: impl FnOnce(oneshot::Sender<Result<()>>) -> Work) -> Result<()> {
        let turn = self.turn().await?;
        let (done, when_done) = oneshot::channel();
        self.send(Job { work: work(done), _turn: turn })?;
        when_done.await.map_err(|error| gone().because(error))?
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_owned() {
            return Ok(turn);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.options.max_waiting {
            return Err(Error::new(ErrorKind::Full, format!("{before} requests wait for this model; try again later"))
                .with_code("queue_full")
                .retry_after(Duration::from_secs(1)));
        }
        Arc::clone(&self.turn).acquire_owned().await.map_err(|error| gone().because(error))
    }

    /// Hands a job to the thread, which is started if there is none.
    fn send(&self, job: Job) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*jobs {
            // The turn makes sure that at most one job is on its way, so the channel has room.
            Some(sender) => match sender.try_send(job) {
                Ok(()) => return Ok(()),
                Err(error) => match error {
                    std::sync::mpsc::TrySendError::Full(job) | std::sync::mpsc::TrySendError::Disconnected(job) => job,
                },
            },
            None => job,
        };
        let (sender, receiver) = sync_channel(1);
        let (options, load) = (self.options.clone(), Arc::clone(&self.load));
        thread::Builder::new()
            .name(format!("model {}", options.name))
            .spawn(move || run(&options, &load, &receiver))
            .map_err(|error| gone().because(error))?;
        let sent = sender.try_send(job).map_err(|_| gone());
        *jobs = Some(sender);
        sent
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the model's thread is gone; try again").with_code("model_unavailable")
}

/// A loaded model and the threads that compute it.
struct Ready {
    loaded: Loaded,
    pool: ThreadPool,
}

fn run(options: &Options, load: &Load, jobs: &Receiver<Job>) {
    let mut ready: Option<Ready> = None;
    loop {
        let job = match options.unload_after.filter(|_| ready.is_some()) {
            None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(idle) => jobs.recv_timeout(idle),
        };
        match job {
            Ok(Job { work, _turn }) => match work {
                Work::Answer { request, events } => answer(options, load, &mut ready, &request, &events),
                Work::Load(done) => drop(done.send(prepare(options, load, &mut ready).map(drop))),
                Work::Unload(done) => {
                    ready = None;
                    let _ = done.send(Ok(()));
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                ready = None;
                tracing::info!(model = options.name, "unloaded an idle model");
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn answer(
    options: &Options,
    load: &Load,
    ready: &mut Option<Ready>,
    request: &ChatRequest,
    events: &mpsc::Sender<Result<ChatEvent>>,
) {
    if events.is_closed() {
        return;
    }
    let result = prepare(options, load, ready).and_then(|Ready { loaded, pool }| {
        let answer = || pool.install(|| loaded.answer(request, events));
        let answer = catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|panic| {
            Err(Error::new(ErrorKind::Internal, "the model broke off; it is loaded anew for the next request")
                .with_code("model_failed")
                .because(text_of(&*panic)))
        });
        answer.map_err(|error| error.about(&options.name))
    });
    if let Err(error) = result {
        if error.code() == "model_failed" {
            *ready = None;
        }
        let _ = events.try_send(Err(error));
    }
}

/// The loaded model; loads it if it is not.
fn prepare<'a>(options: &Options, load: &Load, ready: &'a mut Option<Ready>) -> Result<&'a mut Ready> {
    let model = match ready.take() {
        Some(model) => model,
        None => {
            let name = options.name.clone();
            let pool = ThreadPoolBuilder::new()
                .num_threads(options.threads.max(1))
                .thread_name(move |index| format!("model {name} {index}"))
                .build()
                .map_err(|error| gone().because(error))?;
            let began = std::time::Instant::now();
            let loaded = catch_unwind(AssertUnwindSafe(|| pool.install(|| load())))
                .unwrap_or_else(|panic| {
                    Err(damaged("reading it failed").about(&options.name).because(text_of(&*panic)))
                })
                .map_err(|error| error.during("load model"))?;
            tracing::info!(model = options.name, elapsed_ms = began.elapsed().as_millis(), "loaded a model");
            Ready { loaded, pool }
        }
    };
    Ok(ready.insert(model))
}
