//! A thread that owns a model: loads it when it is first needed, has it answer, and lets go of it when idle.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
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

use super::{gguf::damaged, loaded::Loaded, serve::Serving};
use crate::local::text_of;

/// Bytes of stack of each thread: the rules of a schema are made by functions that call themselves for each of its fields.
const STACK: usize = 32 << 20;

/// How a worker runs.
#[derive(Clone)]
pub(crate) struct Options {
    /// The model's name, for errors and threads.
    pub(crate) name: String,
    /// Threads that compute.
    pub(crate) threads: usize,
    /// Requests that are answered at a time.
    pub(crate) sessions: usize,
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
    /// A permit a session, and all of them to unload. Waiters get them in the order they came, and one that leaves loses its place.
    turn: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// What the thread is asked to do.
pub(crate) struct Job {
    pub(crate) work: Work,
    /// Given back when it is done.
    pub(crate) turn: OwnedSemaphorePermit,
}

pub(crate) enum Work {
    Answer { request: Box<ChatRequest>, events: mpsc::Sender<Result<ChatEvent>> },
    Load(oneshot::Sender<Result<()>>),
    Unload(oneshot::Sender<Result<()>>),
}

impl Worker {
    /// A worker for the model that `load` loads. Nothing runs before the first request.
    pub(crate) fn new(options: Options, load: impl Fn() -> Result<Loaded> + Send + Sync + 'static) -> Self {
        Self {
            turn: Arc::new(Semaphore::new(options.sessions)),
            options,
            load: Arc::new(load),
            jobs: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for the model's turn and the first event of the answer.
    pub(crate) async fn chat(
        &self,
        request: ChatRequest,
    ) -> Result<impl Stream<Item = Result<ChatEvent>> + Send + use<>> {
        let turn = self.turn(1).await?;
        // Room for every piece and the end: the model never waits for a slow reader, and what is stored stays bounded.
        let (events, mut answer) = mpsc::channel(self.options.context_length + 2);
        self.send(Job { work: Work::Answer { request: Box::new(request), events }, turn })?;
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
        self.order(1, Work::Load).await
    }

    /// Gives the model's memory back, once nothing is being answered.
    pub(crate) async fn unload(&self) -> Result<()> {
        self.order(self.options.sessions, Work::Unload).await
    }

    async fn order(&self, turns: usize, work: impl FnOnce(oneshot::Sender<Result<()>>) -> Work) -> Result<()> {
        let turn = self.turn(turns).await?;
        let (done, when_done) = oneshot::channel();
        self.send(Job { work: work(done), turn })?;
        when_done.await.map_err(|error| gone().because(error))?
    }

    async fn turn(&self, turns: usize) -> Result<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        if let Ok(turn) = Arc::clone(&self.turn).try_acquire_many_owned(turns) {
            return Ok(turn);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.options.max_waiting {
            return Err(Error::new(ErrorKind::Full, format!("{before} requests wait for this model; try again later"))
                .with_code("queue_full")
                .retry_after(Duration::from_secs(1)));
        }
        Arc::clone(&self.turn).acquire_many_owned(turns).await.map_err(|error| gone().because(error))
    }

    /// Hands a job to the thread, which is started if there is none.
    fn send(&self, job: Job) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*jobs {
            // No more jobs are on their way than there are turns, so the channel has room.
            Some(sender) => match sender.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
            },
            None => job,
        };
        let (sender, receiver) = sync_channel(self.options.sessions);
        let (options, load) = (self.options.clone(), Arc::clone(&self.load));
        thread::Builder::new()
            .name(format!("model {}", options.name))
            .spawn(move || run(&options, &load, receiver))
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

fn run(options: &Options, load: &Load, mut jobs: Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let job = match job.work {
            Work::Unload(done) => {
                let _ = done.send(Ok(()));
                continue;
            }
            Work::Answer { ref events, .. } if events.is_closed() => continue,
            _ => job,
        };
        match prepare(options, load) {
            Ok(Ready { loaded, pool }) => {
                let end;
                (jobs, end) = pool.install(move || {
                    let end = serve(options, &loaded, &jobs, job);
                    (jobs, end)
                });
                // What was loaded is gone by now.
                if let Some(Job { work: Work::Unload(done), .. }) = end {
                    let _ = done.send(Ok(()));
                }
            }
            // It names the file.
            Err(error) => job.work.fail(error),
        }
    }
}

/// Answers until the model is to leave memory: because that is ordered, in which case the order is given back, because it broke, or because nobody has
/// asked for long.
fn serve(options: &Options, loaded: &Loaded, jobs: &Receiver<Job>, first: Job) -> Option<Job> {
    let mut serving = match Serving::new(&options.name, loaded, options.sessions) {
        Ok(serving) => serving,
        Err(error) => {
            first.work.fail(error.about(&options.name));
            return None;
        }
    };
    let mut next = Some(first);
    loop {
        let job = match (next.take(), options.unload_after) {
            (Some(job), _) => Some(job),
            // Who is gone while answers are given is seen when they have ended.
            _ if serving.is_busy() => jobs.try_recv().ok(),
            (None, None) => Some(jobs.recv().ok()?),
            (None, Some(idle)) => match jobs.recv_timeout(idle) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => {
                    tracing::info!(model = options.name, "unloaded an idle model");
                    return None;
                }
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        match job {
            Some(job) if matches!(job.work, Work::Unload(_)) => return Some(job),
            Some(Job { work: Work::Load(done), .. }) => drop(done.send(Ok(()))),
            Some(job) => serving.begin(job),
            None => {
                if let Err(error) = serving.step() {
                    tracing::error!(model = options.name, error = %error.report(), "the model broke off");
                    serving.fail(&error.report());
                    return None;
                }
            }
        }
    }
}

impl Work {
    fn fail(self, error: Error) {
        match self {
            Self::Answer { events, .. } => drop(events.try_send(Err(error))),
            Self::Load(done) | Self::Unload(done) => drop(done.send(Err(error))),
        }
    }
}

/// Loads the model.
fn prepare(options: &Options, load: &Load) -> Result<Ready> {
    let name = options.name.clone();
    let pool = ThreadPoolBuilder::new()
        .num_threads(options.threads.max(1))
        .thread_name(move |index| format!("model {name} {index}"))
        .stack_size(STACK)
        .build()
        .map_err(|error| gone().because(error))?;
    let began = std::time::Instant::now();
    let loaded = catch_unwind(AssertUnwindSafe(|| pool.install(|| load())))
        .unwrap_or_else(|panic| Err(damaged("reading it failed").about(&options.name).because(text_of(&*panic))))
        .map_err(|error| error.during("load model"))?;
    tracing::info!(model = options.name, elapsed_ms = began.elapsed().as_millis(), "loaded a model");
    Ok(Ready { loaded, pool })
}
