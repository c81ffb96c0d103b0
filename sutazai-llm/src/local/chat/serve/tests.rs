//! What the sessions of a model read, and what they answer.

#[allow(dead_code, reason = "the tests from outside spoil it, these do not")]
#[path = "../../../../tests/local_chat/tiny.rs"]
mod tiny;

use std::sync::{Arc, Mutex};

use sutazai_core::model::{Caller, ChatEvent, ChatRequest, Message, Sampling};
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::local::chat::{decoder::Decoder, gguf::Gguf, network::Network};

/// The session, position and number of tokens of each part of each pass.
type Passes = Arc<Mutex<Vec<Vec<(usize, usize, usize)>>>>;

/// A network that writes down what it reads.
struct Watched(Decoder, Passes);
struct WatchedSessions<'a>(Box<dyn Sessions + 'a>, Passes);

impl Network for Watched {
    fn context(&self) -> usize {
        self.0.context()
    }

    fn sessions(&self, count: usize, room: usize) -> Result<Box<dyn Sessions + '_>> {
        Ok(Box::new(WatchedSessions(self.0.sessions(count, room)?, Arc::clone(&self.1))))
    }
}

impl Sessions for WatchedSessions<'_> {
    fn pass(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        if parts.iter().any(|part| part.tokens.contains(&BROKEN)) {
            panic!("a broken model");
        }
        let read = parts.iter().map(|part| (part.session, part.position, part.tokens.len())).collect();
        self.1.lock().unwrap().push(read);
        self.0.pass(parts)
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        self.0.copy(from, to, length)
    }
}

/// The token of a byte at which the network panics.
const BROKEN: u32 = 3 + (b'~' - b'!') as u32;

fn loaded() -> (Loaded, Passes) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    tiny::Tiny::new().write(&path);
    let passes = Passes::default();
    let watch = Arc::clone(&passes);
    let loaded = Loaded::new(Gguf::open(&path).unwrap(), 1024, move |gguf, vocabulary| {
        Ok(Box::new(Watched(Decoder::from_gguf(gguf, vocabulary, 1024)?, watch)))
    });
    (loaded.unwrap(), passes)
}

type Events = mpsc::Receiver<Result<ChatEvent>>;

fn begin(serving: &mut Serving<'_>, request: ChatRequest) -> Events {
    let (events, answer) = mpsc::channel(1024);
    let turn = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    serving.begin(Job { work: Work::Answer { request: Box::new(request), events }, turn });
    answer
}

fn ask(tenant: &'static str, question: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        messages: vec![Message::system("Be short, and keep to what you know."), Message::user(question)],
        sampling: Sampling::GREEDY,
        max_tokens: Some(max_tokens),
        caller: Caller { tenant: Some(tenant.into()), ..Caller::default() },
        ..ChatRequest::default()
    }
}

fn finish(serving: &mut Serving<'_>) {
    while serving.is_busy() {
        serving.step().unwrap();
    }
}

fn text(mut events: Events) -> String {
    let mut text = String::new();
    while let Ok(event) = events.try_recv() {
        if let ChatEvent::Text(piece) = event.unwrap() {
            text.push_str(&piece);
        }
    }
    text
}

/// Tokens of prompt that were read since the last look, and the sessions that read them.
fn read(passes: &Passes) -> (usize, Vec<usize>) {
    let passes = std::mem::take(&mut *passes.lock().unwrap());
    let parts: Vec<_> = passes.into_iter().flatten().collect();
    let mut sessions: Vec<usize> = parts.iter().map(|(session, ..)| *session).collect();
    sessions.dedup();
    (parts.iter().map(|(.., count)| count).sum(), sessions)
}

#[test]
fn what_was_read_before_is_not_read_again() {
    let (loaded, passes) = loaded();
    let mut serving = Serving::new("tiny", &loaded, 2).unwrap();
    let length = loaded.prompt(&ask("a", "Who?", 1)).unwrap().len();

    let first = begin(&mut serving, ask("a", "Who?", 1));
    finish(&mut serving);
    assert_eq!(read(&passes), (length, vec![0]));
    // The same again: all but the last token is known.
    let again = begin(&mut serving, ask("a", "Who?", 1));
    finish(&mut serving);
    assert_eq!(read(&passes), (1, vec![0]));
    assert_eq!(text(first), text(again));

    // Another question of the same tenant shares the system prompt; another tenant shares nothing.
    let other = begin(&mut serving, ask("a", "Where to?", 1));
    finish(&mut serving);
    let (count, _) = read(&passes);
    assert!((2..length - 30).contains(&count), "{count} of {length}");
    let stranger = begin(&mut serving, ask("b", "Where to?", 1));
    finish(&mut serving);
    assert_eq!(read(&passes).0, loaded.prompt(&ask("b", "Where to?", 1)).unwrap().len());
    assert_eq!(text(other), text(stranger));
}

#[test]
fn answers_beside_one_another_are_those_given_alone() {
    let (loaded, passes) = loaded();
    let questions = ["Who?", "Where to, and by which way?", "x", "Who and where?"];
    let alone: Vec<String> = questions
        .iter()
        .map(|question| {
            let mut serving = Serving::new("tiny", &loaded, 1).unwrap();
            let events = begin(&mut serving, ask("a", question, 20));
            finish(&mut serving);
            text(events)
        })
        .collect();
    read(&passes);

    let mut serving = Serving::new("tiny", &loaded, 4).unwrap();
    let mut events = Vec::new();
    for question in questions {
        events.push(begin(&mut serving, ask("a", question, 20)));
        serving.step().unwrap();
    }
    finish(&mut serving);
    let most = passes.lock().unwrap().iter().map(Vec::len).max();
    assert_eq!(most, Some(4), "one pass serves all");
    assert_eq!(events.into_iter().map(text).collect::<Vec<_>>(), alone);
}

#[test]
fn a_lost_listener_frees_its_session_before_the_next_pass() {
    let (loaded, passes) = loaded();
    let mut serving = Serving::new("tiny", &loaded, 1).unwrap();
    let long = "many words ".repeat(40);
    let events = begin(&mut serving, ask("a", &long, 100));
    serving.step().unwrap();
    drop(events);
    serving.step().unwrap();
    assert!(!serving.is_busy());
    assert_eq!(read(&passes), (CHUNK, vec![0]));
    // What it had read serves the next.
    let mut events = begin(&mut serving, ask("a", &long, 1));
    finish(&mut serving);
    assert_eq!(read(&passes).0, loaded.prompt(&ask("a", &long, 1)).unwrap().len() - CHUNK);
    events.try_recv().unwrap().unwrap();
}

#[test]
fn a_panic_of_the_network_is_an_error_of_all_answers() {
    let (loaded, _) = loaded();
    let mut serving = Serving::new("tiny", &loaded, 2).unwrap();
    let mut events = [begin(&mut serving, ask("a", "Who?", 50)), begin(&mut serving, ask("a", "~", 50))];
    let error = loop {
        if let Err(error) = serving.step() {
            break error;
        }
    };
    assert_eq!(error.code(), "model_failed");
    serving.fail(&error.report());
    assert!(!serving.is_busy());
    for events in &mut events {
        let error = std::iter::from_fn(|| events.try_recv().ok()).find_map(Result::err).unwrap();
        assert_eq!((error.code(), error.subject()), ("model_failed", "tiny"));
    }
}

#[test]
fn a_refused_request_takes_no_session() {
    let (loaded, passes) = loaded();
    let mut serving = Serving::new("tiny", &loaded, 1).unwrap();
    let mut events = begin(&mut serving, ask("a", &"x".repeat(2000), 1));
    assert_eq!(events.try_recv().unwrap().unwrap_err().code(), "context_length_exceeded");
    assert!(!serving.is_busy() && passes.lock().unwrap().is_empty());
}
