//! Writing an answer down while it is read.

use sutazai_core::{
    Result,
    clock::Timestamp,
    model::{CacheUse, ChatEvent, Served, StopReason},
};

use super::{CachedAnswer, size};

/// Bytes that an answer may take to be kept.
const LARGEST: usize = 1 << 20;

/// An answer as far as it has come. Who stops reading drops it, and nothing is kept.
pub(super) struct Record {
    /// Nothing once it is clear that the answer is not worth keeping.
    answer: Option<CachedAnswer>,
    size: usize,
    may_be_cut: bool,
}

impl Record {
    /// Of an answer that was `served` so and begun at `created`, with `max_tokens` as the request has them.
    ///
    /// What another cache gave is not kept: it would look younger than it is. What a fallback says is not what was asked for.
    pub(super) fn new(max_tokens: Option<u32>, served: &Served, created: Timestamp) -> Self {
        let worth_it = served.cache != CacheUse::Hit && served.fallback.is_none();
        let answer = worth_it.then(|| CachedAnswer {
            served_model: served.model.clone(),
            served_backend: served.backend.clone(),
            events: Vec::new(),
            created,
        });
        // Without a limit of the request's own, the context was used up, and that may be larger next time.
        Self { answer, size: 0, may_be_cut: max_tokens.is_some() }
    }

    /// Notes what came; at the end gives the whole answer, if it is one to keep.
    pub(super) fn note(&mut self, event: &Result<ChatEvent>) -> Option<CachedAnswer> {
        let answer = self.answer.as_mut()?;
        let Ok(event) = event else {
            self.answer = None;
            return None;
        };
        answer.events.push(event.clone());
        self.size += size(event);
        if self.size > LARGEST {
            self.answer = None;
        }
        let ChatEvent::Finish(finish) = event else { return None };
        let whole = match finish.stop {
            StopReason::Stop | StopReason::ToolCalls => true,
            StopReason::Length => self.may_be_cut,
            _ => false,
        };
        self.answer.take().filter(|_| whole)
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        Error, ErrorKind,
        model::{Finish, ModelInfo, Usage},
    };

    use super::*;

    fn text(text: &str) -> Result<ChatEvent> {
        Ok(ChatEvent::Text(text.into()))
    }

    fn finish(stop: StopReason) -> Result<ChatEvent> {
        Ok(ChatEvent::Finish(Finish { stop, usage: Usage::default(), prompt_ms: None, completion_ms: None }))
    }

    fn served() -> Served {
        Served::by(&ModelInfo::new("actor", "scripted", 8192))
    }

    /// What is kept of an answer of these events.
    fn kept(max_tokens: Option<u32>, served: &Served, events: &[Result<ChatEvent>]) -> Option<CachedAnswer> {
        let mut record = Record::new(max_tokens, served, Timestamp::from_millis(7));
        let notes: Vec<_> = events.iter().map(|event| record.note(event)).collect();
        assert!(notes.iter().rev().skip(1).all(Option::is_none), "only the end gives it");
        notes.into_iter().next_back().flatten()
    }

    #[test]
    fn a_whole_answer_is_kept_with_all_its_pieces() {
        let events = [text("a "), Ok(ChatEvent::Thinking("hm".into())), text("b"), finish(StopReason::Stop)];
        let kept = kept(None, &served(), &events).unwrap();
        assert_eq!(kept.events, events.into_iter().map(Result::unwrap).collect::<Vec<_>>());
        assert_eq!((kept.served_model.as_str(), kept.created), ("actor", Timestamp::from_millis(7)));
    }

    #[test]
    fn how_it_ended_decides() {
        let kept = |max_tokens, stop| kept(max_tokens, &served(), &[text("a"), finish(stop)]).is_some();
        assert!(kept(None, StopReason::Stop) && kept(None, StopReason::ToolCalls));
        assert!(kept(Some(1), StopReason::Length), "it was to be no longer");
        assert!(!kept(None, StopReason::Length), "the context was used up");
        let broken = [text("a"), Err(Error::new(ErrorKind::Unavailable, "away")), finish(StopReason::Stop)];
        assert!(self::kept(None, &served(), &broken).is_none());
        assert!(self::kept(None, &served(), &[text("a")]).is_none());
    }

    #[test]
    fn what_another_model_or_cache_gave_is_not_kept() {
        let (mut fallback, mut hit) = (served(), served());
        fallback.fallback = Some("model_unavailable".into());
        hit.cache = CacheUse::Hit;
        for served in [fallback, hit] {
            assert!(kept(None, &served, &[finish(StopReason::Stop)]).is_none());
        }
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let mut events: Vec<_> = (0..40).map(|_| text(&"x".repeat(LARGEST / 32))).collect();
        events.push(finish(StopReason::Stop));
        assert!(kept(None, &served(), &events).is_none());
        assert!(kept(None, &served(), &events[20..]).is_some());
    }
}
