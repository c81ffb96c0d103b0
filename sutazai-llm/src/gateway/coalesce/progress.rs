//! How far an answer has come, for all who read it.

use std::{collections::VecDeque, task::Poll};

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, Served},
};

use crate::gateway::cache::size;

/// Bytes of an answer that are kept for those who have not read them yet, about: some hundred thousand pieces.
pub(super) const MOST: usize = 16 << 20;

/// How an answer ended.
#[derive(Debug)]
pub(super) enum End {
    Finished(ChatEvent),
    Failed(Error),
    /// Without a word, as it was told by the model.
    BrokenOff,
}

/// An answer as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) served: Option<Served>,
    /// Events that were dropped at the front.
    dropped: usize,
    events: VecDeque<ChatEvent>,
    bytes: usize,
    end: Option<Result<(), Error>>,
}

impl Progress {
    pub(super) fn push(&mut self, event: ChatEvent) {
        self.bytes += size(&event);
        self.events.push_back(event);
        while self.bytes > MOST
            && self.events.len() > 1
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= size(&oldest);
            self.dropped += 1;
        }
    }

    pub(super) fn end(&mut self, end: End) {
        self.end = Some(match end {
            End::Finished(finish) => {
                self.push(finish);
                Ok(())
            }
            End::Failed(error) => Err(error),
            End::BrokenOff => Ok(()),
        });
    }

    /// Whether it can still be read from the beginning.
    pub(super) fn is_whole(&self) -> bool {
        self.dropped == 0
    }

    /// What serves it, or the error that came instead.
    pub(super) fn served(&self) -> Poll<Result<Served>> {
        match (&self.served, &self.end) {
            (Some(served), _) => Poll::Ready(Ok(served.clone())),
            (None, Some(Err(error))) => Poll::Ready(Err(again(error))),
            (None, _) => Poll::Pending,
        }
    }

    /// Event number `at`, or what comes in its place; nothing after the end.
    pub(super) fn event(&self, at: usize) -> Poll<Option<Result<ChatEvent>>> {
        let Some(kept) = at.checked_sub(self.dropped) else {
            let message = "the answer was read too slowly, and its next piece is gone; ask again";
            return Poll::Ready(Some(Err(Error::new(ErrorKind::Full, message).during("chat with"))));
        };
        match (self.events.get(kept), &self.end) {
            (Some(event), _) => Poll::Ready(Some(Ok(event.clone()))),
            (None, Some(Ok(()))) => Poll::Ready(None),
            (None, Some(Err(error))) => Poll::Ready(Some(Err(again(error)))),
            (None, None) => Poll::Pending,
        }
    }
}

/// The error once more, for one of its readers.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.report()).with_code(error.code()).with_faults(error.faults().to_vec());
    match error.delay() {
        Some(delay) => copy.retry_after(delay),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sutazai_core::{
        Fault,
        model::{Finish, ModelInfo, StopReason, Usage},
    };

    use super::*;

    fn text(text: &str) -> ChatEvent {
        ChatEvent::Text(text.into())
    }

    fn finish() -> ChatEvent {
        let stop = StopReason::Stop;
        ChatEvent::Finish(Finish { stop, usage: Usage::default(), prompt_ms: None, completion_ms: None })
    }

    fn event(progress: &Progress, at: usize) -> Option<Option<ChatEvent>> {
        match progress.event(at) {
            Poll::Ready(event) => Some(event.map(Result::unwrap)),
            Poll::Pending => None,
        }
    }

    #[test]
    fn each_reads_at_their_own_pace() {
        let mut progress = Progress::default();
        assert!(progress.served().is_pending() && progress.event(0).is_pending());
        progress.served = Some(Served::by(&ModelInfo::new("actor", "scripted", 8192)));
        progress.push(text("a"));
        assert_eq!(event(&progress, 0), Some(Some(text("a"))));
        assert_eq!(event(&progress, 1), None);
        progress.end(End::Finished(finish()));
        assert_eq!([0, 1, 2].map(|at| event(&progress, at)), [Some(Some(text("a"))), Some(Some(finish())), Some(None)]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut progress = Progress::default();
        let long = text(&"x".repeat(MOST / 4));
        for _ in 0..3 {
            progress.push(long.clone());
        }
        assert!(progress.is_whole());
        for _ in 0..3 {
            progress.push(long.clone());
        }
        assert!(!progress.is_whole() && progress.bytes <= MOST, "{}", progress.bytes);
        let Poll::Ready(Some(Err(error))) = progress.event(2) else { panic!("{:?}", progress.event(2)) };
        assert_eq!(error.kind(), ErrorKind::Full);
        assert_eq!(event(&progress, 3), Some(Some(long.clone())));
        // One piece is kept, however long.
        progress.push(text(&"x".repeat(MOST)));
        assert!(event(&progress, 6).is_some_and(|event| event.is_some()));
    }

    #[test]
    fn a_copy_of_an_error_says_what_it_said() {
        let error = Error::new(ErrorKind::Full, "the queue is full")
            .with_code("queue_full")
            .during("ask")
            .about("actor")
            .because("ten wait")
            .retry_after(Duration::from_secs(3));
        let copy = again(&error);
        assert_eq!(copy.report(), error.report());
        assert_eq!((copy.kind(), copy.code(), copy.delay()), (error.kind(), error.code(), error.delay()));
        let faulty = Error::invalid("it is wrong", vec![Fault::new("/top_p", "too much")]);
        assert_eq!(again(&faulty).faults(), faulty.faults());
        let failed = Error::new(ErrorKind::Failed, "it does not fit").with_faults(faulty.faults().to_vec());
        assert_eq!((again(&failed).kind(), again(&failed).faults()), (ErrorKind::Failed, faulty.faults()));
    }
}
