//! An answer under way: how long it may be silent, and when its turn ends.

use std::{
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    model::{Caller, ChatEvent, ChatStream},
};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    desk::{Shared, late, silent},
    permit::Permit,
};

/// As good as never, and a moment that any clock can have.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3_600);

/// The moment so long after `begin`.
pub(super) fn after(begin: Instant, wait: Duration) -> Instant {
    begin + wait.min(NEVER)
}

/// How long to wait for the next sign of life.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    silence: Duration,
    ends: Option<Instant>,
}

impl Patience {
    pub(super) fn new(silence: Duration, caller: &Caller) -> Self {
        let left = caller.deadline.map(|deadline| SystemClock.now().until(deadline));
        Self { silence, ends: left.map(|left| after(Instant::now(), left)) }
    }

    pub(super) fn of(&self, wanted: Duration) -> Duration {
        self.ends.map_or(wanted, |ends| wanted.min(ends.saturating_duration_since(Instant::now())))
    }

    /// Whether the deadline has passed.
    fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    /// The error after a wait of `waited` in vain.
    pub(super) fn silent(&self, waited: Duration) -> Error {
        if self.is_over() { late() } else { silent(waited) }
    }
}

/// An answer under way, as its caller reads it.
pub(super) struct Answering {
    shared: Arc<Shared>,
    place: usize,
    events: ChatStream,
    bytes: u64,
    began: Instant,
    patience: Patience,
    /// How long the first piece may still take.
    first: Option<Duration>,
    /// When the wait for the next piece ends.
    silence: Pin<Box<Sleep>>,
    /// How long that wait is, while there is one.
    waits: Option<Duration>,
    /// The turn, until the answer has ended.
    turn: Option<Permit>,
}

impl Answering {
    /// The answer `events` to a prompt of so many bytes, whose call began then and whose first piece may take so long from then on.
    pub(super) fn new(
        (turn, shared): (Permit, Arc<Shared>),
        events: ChatStream,
        bytes: u64,
        (began, first): (Instant, Duration),
        patience: Patience,
    ) -> Self {
        let (place, left) = (turn.model, first.saturating_sub(began.elapsed()));
        let silence = Box::pin(sleep_until(after(Instant::now(), left)));
        Self {
            shared,
            place,
            events,
            bytes,
            began,
            patience,
            first: Some(left),
            silence,
            waits: None,
            turn: Some(turn),
        }
    }

    /// How long it may be left unread.
    pub(super) fn unread(&self) -> Duration {
        self.shared.config.unread()
    }

    /// By when it must be read again: its caller has all that came, or waits for what comes. Whoever waits asks again when the silence is over.
    pub(super) fn read_by(&self, is_waiting: bool) -> Instant {
        let begin = if is_waiting { self.silence.deadline() } else { Instant::now() };
        let until = after(begin, self.unread());
        self.patience.ends.map_or(until, |ends| until.min(ends))
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        self.turn.is_none()
    }

    /// Why it is given up when that moment has come.
    pub(super) fn given_up(&self, is_waiting: bool) -> Error {
        let error = match (self.patience.is_over(), is_waiting) {
            (true, true) => late(),
            (true, false) => unread("the caller's deadline came while the answer was not read".to_owned()),
            (false, _) => unread(format!("the answer was not read for {} s", self.unread().as_secs())),
        };
        self.explained(error)
    }

    fn explained(&self, error: Error) -> Error {
        error.during("chat with").about(&self.events.served().model)
    }
}

impl Stream for Answering {
    type Item = Result<ChatEvent>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.has_ended() {
            return Poll::Ready(None);
        }
        let limit = match this.waits {
            Some(limit) => limit,
            None => {
                let limit = this.patience.of(this.first.unwrap_or(this.patience.silence));
                this.silence.as_mut().reset(after(Instant::now(), limit));
                *this.waits.insert(limit)
            }
        };
        let event = match this.events.poll_next_unpin(context) {
            Poll::Ready(Some(event)) => event,
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                ready!(this.silence.as_mut().poll(context));
                Err(this.explained(this.patience.silent(limit)))
            }
        };
        this.waits = None;
        if this.first.take().is_some() && event.is_ok() {
            this.shared.first_piece(this.place, this.bytes, this.began.elapsed());
        }
        match &event {
            Ok(ChatEvent::Finish(_)) => {
                if let Some(turn) = this.turn.take() {
                    turn.answered();
                }
            }
            // After a silence nobody knows whether the model has stopped; after an error of its own it has.
            Err(error) if error.kind() == ErrorKind::Timeout => this.turn = None,
            Err(_) => {
                if let Some(turn) = this.turn.take() {
                    turn.failed();
                }
            }
            Ok(_) => {}
        }
        Poll::Ready(Some(event))
    }
}

/// The error of an answer whose caller keeps it and does not read it.
fn unread(message: String) -> Error {
    Error::new(ErrorKind::Timeout, message).with_code("model_timeout").because(Unread)
}

/// Why an answer was given up that nobody read: no fault of the model.
#[derive(Debug)]
struct Unread;

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("others had the model's place")
    }
}

impl StdError for Unread {}

/// Whether an answer ended so because its caller did not read it.
pub(in crate::gateway) fn was_unread(error: &Error) -> bool {
    error.source().is_some_and(|source| source.is::<Unread>())
}
