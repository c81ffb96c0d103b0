//! An agent at work: its future, how it is polled, and where its entries go.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{FutureExt, task::AtomicWaker};
use tokio::time::Sleep;

use super::{
    catalogue::Registered,
    control::{Control, Stop},
    execution::write_until_answered,
    inner::Inner,
    journal::{Journal, Sink},
};
use crate::{
    agent::AgentError,
    clock::Timestamp,
    context::Context,
    error::Result,
    payload::Payload,
    store::{Child, TaskWrite},
    task::{Entry, Task, TaskId, WaitReason},
};

/// How long an agent that only waits for what outlives it is kept in memory.
const GRACE: Duration = Duration::from_millis(50);

/// What an agent gave.
pub(super) type Outcome = Result<Payload, AgentError>;

/// The future of an agent at work.
pub(super) type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Where the entries of an execution go.
struct ToStore {
    engine: Arc<Inner>,
    task: TaskId,
    era: u32,
    epoch: u64,
    control: Arc<Control>,
}

#[async_trait]
impl Sink for ToStore {
    async fn append(&self, entries: Vec<Entry>, children: Vec<Child>) -> bool {
        let (task, epoch, era) = (self.task, self.epoch, self.era);
        let ours =
            write_until_answered(Arc::clone(&self.engine), TaskWrite::Append { task, epoch, era, entries, children })
                .await;
        if !ours {
            // Not by the task's id: its next execution may be here already.
            self.control.stop(Stop::Void);
        }
        ours
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

pub(super) fn sink(engine: &Arc<Inner>, task: &Task, control: &Arc<Control>) -> Arc<dyn Sink> {
    let (engine, control, epoch) = (Arc::clone(engine), Arc::clone(control), task.revision.epoch);
    Arc::new(ToStore { engine, task: task.id, era: task.journal.era, epoch, control })
}

/// The agent at work on a task; a panic of it is an error.
pub(super) fn work(
    engine: &Arc<Inner>,
    registered: &Registered,
    task: Arc<Task>,
    control: &Arc<Control>,
    journal: &Arc<Journal>,
) -> Work {
    let input = task.input.clone();
    let context = Context::new(Arc::clone(engine), task, Arc::clone(control), Arc::clone(journal));
    let agent = Arc::clone(&registered.agent);
    let work = async move { agent.run(context, input).await };
    Box::pin(AssertUnwindSafe(work).catch_unwind().map(|done| done.unwrap_or_else(panicked)))
}

/// Polls the agent; whenever it has nothing to do it sees the next outcome, if there is one.
pub(super) fn poll<'a>(agent: &'a mut Work, journal: &'a Journal) -> impl Future<Output = Outcome> + 'a {
    /// Rounds after which others get their turn.
    const TURN: u32 = 64;
    let noticed = Arc::new(Noticed::default());
    let waker = Waker::from(Arc::clone(&noticed));
    std::future::poll_fn(move |cx| {
        journal.polled_by(cx.waker());
        noticed.passes_on_to.register(cx.waker());
        for _ in 0..TURN {
            noticed.woken.store(false, Ordering::SeqCst);
            if let Poll::Ready(outcome) = agent.as_mut().poll(&mut task::Context::from_waker(&waker)) {
                return Poll::Ready(outcome);
            }
            // Many branches take turns, and so do many awaits: then something is left to do before it may see more.
            let is_idle = !noticed.woken.load(Ordering::SeqCst) && tokio::task::coop::has_budget_remaining();
            if !is_idle {
                break;
            }
            if !journal.advance() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Notices that an agent was woken, and passes it on.
#[derive(Default)]
struct Noticed {
    woken: AtomicBool,
    passes_on_to: AtomicWaker,
}

impl Wake for Noticed {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.passes_on_to.wake();
    }
}

/// Returns when the agent has done nothing but wait for what outlives it during the whole grace.
pub(super) async fn suspendable(
    journal: &Journal,
    grace: &mut Option<Pin<Box<Sleep>>>,
    engine: &Inner,
) -> (WaitReason, Option<Timestamp>) {
    std::future::poll_fn(|cx| {
        let Some((reason, until)) = journal.only_waits().filter(|_| !engine.is_closing()) else {
            *grace = None;
            return Poll::Pending;
        };
        let sleep = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep(GRACE)));
        sleep.as_mut().poll(cx).map(|()| (reason, until))
    })
    .await
}

fn panicked(cause: Box<dyn Any + Send>) -> Outcome {
    let text = cause
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    Err(AgentError::temporary("agent_panicked", format!("the agent panicked: {text}")))
}
