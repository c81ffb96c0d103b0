//! The thread that holds the model: one at a time reads texts, and callers that wait are served together.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use sutazai_core::{Error, ErrorKind, Result, model::Embeddings};
use tokio::sync::{mpsc, oneshot};

use super::bert::SentenceBert;
use crate::local::text_of;
use crate::registry::Installed;

/// Batches that may wait; further callers wait to hand theirs in.
const QUEUE: usize = 64;
/// Texts of different callers that are served together at most.
const TOGETHER: usize = 64;

/// A handle to the thread; the thread ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    name: &'static str,
    context: usize,
    dimension: usize,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    loaded: std::sync::Arc<AtomicBool>,
}

enum Job {
    Embed(Texts),
    Load { files: Installed, done: oneshot::Sender<Result<()>> },
    Unload { done: oneshot::Sender<Result<()>> },
}

/// A batch of one caller.
struct Texts {
    texts: Vec<String>,
    files: Option<Installed>,
    answer: oneshot::Sender<Result<Embeddings>>,
}

impl Worker {
    pub(super) fn new(name: &'static str, context: usize, dimension: usize) -> Self {
        Self { name, context, dimension, jobs: Mutex::default(), loaded: std::sync::Arc::default() }
    }

    /// Whether the weights are in memory.
    pub(super) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// The vectors of `texts`, in order. `files` says where the weights are while they are not loaded.
    pub(super) async fn embed(&self, texts: Vec<String>, files: Option<Installed>) -> Result<Embeddings> {
        self.answered(|answer| Job::Embed(Texts { texts, files, answer })).await
    }

    /// Brings the weights into memory unless they are there.
    pub(super) async fn load(&self, files: Installed) -> Result<()> {
        self.answered(|done| Job::Load { files, done }).await
    }

    /// Gives the memory of the weights back, once what was handed in before has been read.
    pub(super) async fn unload(&self) -> Result<()> {
        if self.is_started() { self.answered(|done| Job::Unload { done }).await } else { Ok(()) }
    }

    async fn answered<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let ended =
            || Error::new(ErrorKind::Internal, "the thread of the model died").during("embed with").about(self.name);
        self.jobs()?.send(job(answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    fn is_started(&self) -> bool {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// The way to the thread, which is started if there is none (or if it died).
    fn jobs(&self) -> Result<mpsc::Sender<Job>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = jobs.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        self.loaded.store(false, Ordering::Release);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let state = State {
            name: self.name,
            context: self.context,
            dimension: self.dimension,
            model: None,
            files: None,
            loaded: self.loaded.clone(),
        };
        thread::Builder::new().name("embedding".into()).spawn(move || state.run(receiver)).map_err(|error| {
            Error::new(ErrorKind::Full, "the system gives no more threads")
                .during("embed with")
                .about(self.name)
                .because(error)
        })?;
        *jobs = Some(sender.clone());
        Ok(sender)
    }
}

struct State {
    name: &'static str,
    context: usize,
    dimension: usize,
    model: Option<SentenceBert>,
    /// What was loaded last: who asked before it was unloaded says no more where it is.
    files: Option<Installed>,
    loaded: std::sync::Arc<AtomicBool>,
}

impl State {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| jobs.blocking_recv()) {
            match job {
                Job::Embed(first) => {
                    let mut count = first.texts.len();
                    let mut together = vec![first];
                    while count < TOGETHER
                        && next.is_none()
                        && let Ok(job) = jobs.try_recv()
                    {
                        match job {
                            Job::Embed(texts) => {
                                count += texts.texts.len();
                                together.push(texts);
                            }
                            order => next = Some(order),
                        }
                    }
                    // Whoever has gone needs no answer.
                    together.retain(|texts| !texts.answer.is_closed());
                    self.serve(together);
                }
                Job::Load { files, done } => {
                    let loaded = self.unbroken(|state| state.load(Some(files)).map(drop));
                    let _ = done.send(loaded);
                }
                Job::Unload { done } => {
                    self.drop_model();
                    let _ = done.send(Ok(()));
                }
            }
        }
    }

    fn drop_model(&mut self) {
        self.model = None;
        self.loaded.store(false, Ordering::Release);
    }

    /// A panic of `work` is an error, after which the model is loaded anew, whatever state it was in.
    fn unbroken<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            self.drop_model();
            Err(Error::new(ErrorKind::Internal, "the model broke off; it is loaded anew for the next call")
                .with_code("model_failed")
                .during("embed with")
                .about(self.name)
                .because(text_of(&*panic)))
        })
    }

    fn serve(&mut self, jobs: Vec<Texts>) {
        let (mut files, mut all, mut waiting) = (None, Vec::new(), Vec::with_capacity(jobs.len()));
        for mut job in jobs {
            files = files.or(job.files);
            waiting.push((job.texts.len(), job.answer));
            all.append(&mut job.texts);
        }
        if waiting.is_empty() {
            return;
        }
        let outcome = self.unbroken(|state| state.load(files)?.embed(&all));
        let mut outcome = outcome.map(Vec::into_iter);
        for (count, answer) in waiting {
            let answered = match &mut outcome {
                Ok(vectors) => {
                    let (vectors, tokens): (_, Vec<u32>) = vectors.by_ref().take(count).unzip();
                    Ok(Embeddings { vectors, tokens: tokens.iter().sum() })
                }
                Err(error) => Err(Error::new(error.kind(), "the model cannot be used")
                    .with_code(error.code())
                    .during("embed with")
                    .about(self.name)
                    .because(error.report())),
            };
            let _ = answer.send(answered);
        }
    }

    /// The model; loads the weights if they are not there, once for all who wait. A failure is told, and tried again for the next caller.
    fn load(&mut self, files: Option<Installed>) -> Result<&SentenceBert> {
        let model = match self.model.take() {
            Some(model) => model,
            None => {
                self.files = files.or(self.files.take());
                let files = self.files.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Unavailable, "the model is being loaded; try again")
                        .during("embed with")
                        .about(self.name)
                })?;
                SentenceBert::load(files, self.context, self.dimension)?
            }
        };
        self.loaded.store(true, Ordering::Release);
        Ok(self.model.insert(model))
    }
}
