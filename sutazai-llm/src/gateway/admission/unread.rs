//! An answer whose place comes back although its caller, who keeps it, has stopped reading.
//!
//! Silence and deadline are seen when an answer is read. Beside each answer a timer sees to it that it is read: it sleeps until the answer must have been
//! read again, looks, and sleeps on or gives the answer up. What is read only says by when the next one is due. Whoever waits for a piece may do so for long,
//! and stop reading once it has come: therefore the timer never sleeps for longer than an answer may be left unread.

use std::{
    mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use sutazai_core::{Error, Result, model::ChatEvent};
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::answer::{Answering, after};

/// How long one that is just being read is left alone.
const READING: Duration = Duration::from_secs(1);

/// An answer that is given up if nobody reads it: the next read says so, and nothing follows.
pub(super) struct Watched {
    slot: Arc<Mutex<Slot>>,
    timer: AbortHandle,
}

/// The answer, for its caller and for the timer.
struct Slot {
    state: State,
    /// By when it must be read again.
    until: Instant,
    /// Whoever waits for its next piece.
    waker: Option<Waker>,
}

enum State {
    /// Nobody is reading it now.
    Kept(Box<Answering>),
    /// It is being read, or has ended.
    Out,
    /// Nobody has read it in time.
    GivenUp(Error),
}

impl Watched {
    /// Begins to watch; needs a runtime.
    pub(super) fn new(answering: Answering) -> Self {
        let (until, pause) = (answering.read_by(false), answering.unread());
        let slot = Slot { state: State::Kept(Box::new(answering)), until, waker: None };
        let slot = Arc::new(Mutex::new(slot));
        let timer = tokio::spawn(watch(Arc::downgrade(&slot), until, pause)).abort_handle();
        Self { slot, timer }
    }

    fn taken(&self) -> State {
        mem::replace(&mut lock(&self.slot).state, State::Out)
    }
}

impl Stream for Watched {
    type Item = Result<ChatEvent>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut answering = match self.taken() {
            State::Kept(answering) => answering,
            State::GivenUp(error) => return Poll::Ready(Some(Err(error))),
            State::Out => return Poll::Ready(None),
        };
        let polled = answering.poll_next_unpin(context);
        if matches!(polled, Poll::Ready(None)) || answering.has_ended() {
            self.timer.abort();
            return polled;
        }
        let is_waiting = polled.is_pending();
        let until = answering.read_by(is_waiting);
        let waker = is_waiting.then(|| context.waker().clone());
        *lock(&self.slot) = Slot { state: State::Kept(answering), until, waker };
        polled
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// Gives the answer up once nobody has read it in time; `pause` is how long it may be left unread.
async fn watch(slot: Weak<Mutex<Slot>>, mut until: Instant, pause: Duration) {
    loop {
        sleep_until(until).await;
        let Some(slot) = slot.upgrade() else { return };
        match look(&slot, pause) {
            Some(next) => until = next,
            None => return,
        }
    }
}

/// When to look again, if the answer was not given up.
fn look(slot: &Mutex<Slot>, pause: Duration) -> Option<Instant> {
    let now = Instant::now();
    let mut slot = lock(slot);
    match &slot.state {
        State::Kept(_) if slot.until > now => return Some(slot.until.min(after(now, pause))),
        State::Kept(_) => {}
        // If it has ended nobody looks again.
        State::Out | State::GivenUp(_) => return Some(after(now, pause.min(READING))),
    }
    let waker = slot.waker.take();
    let State::Kept(answering) = mem::replace(&mut slot.state, State::Out) else { return None };
    slot.state = State::GivenUp(answering.given_up(waker.is_some()));
    // The place goes to others, and the caller is woken, when the slot is free again.
    drop(slot);
    drop(answering);
    waker.into_iter().for_each(Waker::wake);
    None
}

fn lock(slot: &Mutex<Slot>) -> MutexGuard<'_, Slot> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
