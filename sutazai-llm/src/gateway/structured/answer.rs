//! A whole answer, before it is checked and after.

use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatStream, Finish, ModelInfo, Served, StopReason, ToolCall, Usage},
};

use super::schema::LONG;
use crate::{gateway::first::broke_off, spent};

/// Bytes of an answer that is held in memory.
const LONGEST: usize = 16 << 20;

/// An answer as a model gave it, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) served: Served,
    pub(super) thinking: String,
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) end: Option<End>,
    size: usize,
}

/// How an answer ended.
#[derive(Debug)]
pub(super) enum End {
    Finish(Finish),
    /// The backend could not read the calls that the model made.
    Unreadable(Error),
}

impl Answer {
    /// One that is served so, of which nothing has come yet.
    pub(super) fn new(served: Served) -> Self {
        Self { served, ..Self::default() }
    }

    /// Reads an answer to its end. What the model did wrong in it is part of it; whatever else goes wrong is an error.
    pub(super) async fn read(begun: Result<ChatStream>, info: &ModelInfo) -> Result<Self> {
        let mut events = match begun {
            Ok(events) => events,
            Err(error) => {
                let mut answer = Self::new(Served::by(info));
                return answer.take(Err(error)).map(|_| answer);
            }
        };
        let mut answer = Self::new(events.served().clone());
        while let Some(event) = events.next().await {
            if answer.take(event)? {
                return Ok(answer);
            }
        }
        Err(broke_off(&info.name))
    }

    /// Takes in what comes, and says whether that was the end.
    pub(super) fn take(&mut self, event: Result<ChatEvent>) -> Result<bool> {
        match event {
            Ok(ChatEvent::Text(piece)) => {
                self.make_room(piece.len())?;
                self.text.push_str(&piece);
            }
            Ok(ChatEvent::Thinking(piece)) => {
                self.make_room(piece.len())?;
                self.thinking.push_str(&piece);
            }
            Ok(ChatEvent::ToolCall(call)) => {
                let held = call.id.len() + call.name.len() + call.arguments.to_string().len();
                self.make_room(size_of::<ToolCall>() + held)?;
                self.calls.push(call);
            }
            Ok(ChatEvent::Finish(finish)) => self.end = Some(End::Finish(finish)),
            Err(error) if is_unreadable(&error) => self.end = Some(End::Unreadable(error)),
            Err(error) => return Err(error),
        }
        Ok(self.end.is_some())
    }

    /// Whether checking it may take a while.
    pub(super) fn is_long(&self) -> bool {
        self.size > LONG
    }

    /// Whether a limit ended it.
    pub(super) fn was_cut(&self) -> bool {
        matches!(&self.end, Some(End::Finish(finish)) if finish.stop == StopReason::Length)
    }

    /// The end of it, with what it took, as far as its backend said that.
    pub(super) fn spent(&self) -> Option<Finish> {
        match self.end.as_ref()? {
            End::Finish(finish) => Some(*finish),
            End::Unreadable(error) => {
                let usage = spent::of(error)?;
                Some(Finish { stop: StopReason::Stop, usage, prompt_ms: None, completion_ms: None })
            }
        }
    }

    fn make_room(&mut self, bytes: usize) -> Result<()> {
        self.size = self.size.saturating_add(bytes);
        if self.size <= LONGEST {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Failed, "the answer is longer than any that can be checked")
            .with_code("answer_invalid")
            .during("chat with")
            .about(&self.served.model))
    }
}

/// Whether an error says that the model made calls which its backend could not read.
pub(super) fn is_unreadable(error: &Error) -> bool {
    error.code() == "model_malformed"
}

/// An answer as it is given on.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) thinking: String,
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) finish: Finish,
    /// Rounds of repair that it took.
    pub(super) repairs: u32,
}

impl Checked {
    /// What is to be given on after the thoughts of the first round, and after its text if that `said` something and was not held back.
    ///
    /// What was said before calls stays the text before them. Where there are none after all, the text that came instead follows in a paragraph of
    /// its own.
    pub(super) fn into_rest(self, said: bool) -> impl Iterator<Item = ChatEvent> {
        let Self { mut thinking, mut text, calls, finish, repairs } = self;
        if repairs == 0 {
            thinking.clear();
        }
        if said && (repairs == 0 || !calls.is_empty()) {
            text.clear();
        } else if said && !text.is_empty() {
            text.insert_str(0, "\n\n");
        }
        let thinking = (!thinking.is_empty()).then_some(ChatEvent::Thinking(thinking));
        let text = (!text.is_empty()).then_some(ChatEvent::Text(text));
        let calls = calls.into_iter().map(ChatEvent::ToolCall);
        thinking.into_iter().chain(text).chain(calls).chain([ChatEvent::Finish(finish)])
    }
}

/// The end of an answer, with what the rounds before it used.
pub(super) fn sum(before: Option<Finish>, last: Finish) -> Finish {
    let Some(before) = before else { return last };
    let both = |one: Option<u64>, other: Option<u64>| match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    Finish {
        stop: last.stop,
        usage: Usage {
            prompt_tokens: before.usage.prompt_tokens.saturating_add(last.usage.prompt_tokens),
            completion_tokens: before.usage.completion_tokens.saturating_add(last.usage.completion_tokens),
        },
        prompt_ms: both(before.prompt_ms, last.prompt_ms),
        completion_ms: both(before.completion_ms, last.completion_ms),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finish(tokens: u32, ms: Option<u64>) -> Finish {
        let usage = Usage { prompt_tokens: tokens, completion_tokens: tokens };
        Finish { stop: StopReason::Stop, usage, prompt_ms: ms, completion_ms: None }
    }

    fn checked(text: &str, calls: usize, repairs: u32) -> Checked {
        let call = ToolCall { id: "a".into(), name: "look".into(), arguments: json!({}) };
        Checked { thinking: "hm".into(), text: text.into(), calls: vec![call; calls], finish: finish(1, None), repairs }
    }

    /// What is given on of it, in short.
    fn rest(checked: Checked, said: bool) -> Vec<String> {
        let short = |event| match event {
            ChatEvent::Text(text) | ChatEvent::Thinking(text) => text,
            ChatEvent::ToolCall(call) => call.name,
            ChatEvent::Finish(_) => ".".to_owned(),
        };
        checked.into_rest(said).map(short).collect()
    }

    #[test]
    fn what_is_with_the_caller_is_not_said_again() {
        assert_eq!(rest(checked("I look.", 1, 0), true), ["look", "."]);
        assert_eq!(rest(checked("I look.", 1, 1), true), ["hm", "look", "."]);
        assert_eq!(rest(checked("I look.", 2, 1), false), ["hm", "I look.", "look", "look", "."]);
        assert_eq!(rest(checked("It is grey.", 0, 1), true), ["hm", "\n\nIt is grey.", "."]);
        assert_eq!(rest(checked("", 0, 1), true), ["hm", "."]);
        assert_eq!(rest(checked("It is grey.", 0, 0), false), ["It is grey.", "."], "the thoughts were not held back");
    }

    #[test]
    fn rounds_are_summed_up() {
        assert_eq!(sum(None, finish(1, None)), finish(1, None));
        assert_eq!(sum(Some(finish(1, Some(2))), finish(3, None)), finish(4, Some(2)));
        assert_eq!(sum(Some(finish(u32::MAX, Some(2))), finish(3, Some(3))), finish(u32::MAX, Some(5)));
    }

    #[test]
    fn an_answer_that_is_too_long_is_given_up() {
        let mut answer = Answer::new(Served::default());
        for _ in 0..4 {
            assert!(!answer.take(Ok(ChatEvent::Text("x".repeat(LONGEST / 4)))).unwrap());
        }
        assert_eq!(answer.take(Ok(ChatEvent::Thinking("x".into()))).unwrap_err().code(), "answer_invalid");
    }

    #[test]
    fn calls_take_room_for_all_that_they_are() {
        let take = |id: usize, name: usize, times: usize| {
            let call = ToolCall { id: "i".repeat(id), name: "n".repeat(name), arguments: json!({}) };
            let mut answer = Answer::new(Served::default());
            (0..times).try_for_each(|_| answer.take(Ok(ChatEvent::ToolCall(call.clone()))).map(drop))
        };
        assert!(take(1, 4, 1024).is_ok());
        for (id, name, times) in [(LONGEST, 1, 1), (1, LONGEST, 1), (0, 0, LONGEST / size_of::<ToolCall>())] {
            assert_eq!(take(id, name, times).unwrap_err().code(), "answer_invalid", "{id} {name} {times}");
        }
    }

    #[test]
    fn what_an_answer_took_is_known_from_its_end() {
        let ended = |event| {
            let mut answer = Answer::new(Served::default());
            assert!(answer.take(event).unwrap());
            answer
        };
        let cut = Finish { stop: StopReason::Length, ..finish(3, Some(7)) };
        let answer = ended(Ok(ChatEvent::Finish(cut)));
        assert!(answer.was_cut() && answer.spent() == Some(cut));
        let malformed = || Error::new(ErrorKind::Failed, "no JSON object").with_code("model_malformed");
        let answer = ended(Err(malformed()));
        assert!(!answer.was_cut() && answer.spent().is_none());
        let usage = Usage { prompt_tokens: 3, completion_tokens: 4 };
        let spent = ended(Err(spent::because(malformed(), "why", usage))).spent().unwrap();
        assert_eq!((spent.usage, spent.prompt_ms), (usage, None));
    }
}
