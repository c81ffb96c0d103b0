//! An answer as it is stored: a line that says what it is, and the answer as JSON.
//!
//! The line has the version of the format, the SHA-256 of the model's name, by which answers are forgotten without reading them whole, and the SHA-256 of the
//! key with the JSON: what is damaged, or was written under another key, is no answer.

use std::fmt::Write;

use serde_json::Result;
use sha2::{Digest, Sha256};
use sutazai_core::store::{AnswerKey, CachedAnswer};

/// The format. A program reads the one that it writes, and takes every other for nothing.
const VERSION: &str = "1";

/// Bytes of a [`mark`].
pub(super) const MARK: usize = VERSION.len() + 1 + 64;

/// The bytes of an answer under `key`.
pub(super) fn write(key: &AnswerKey, answer: &CachedAnswer) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(answer)?;
    let mut bytes = line(key, answer, &json).into_bytes();
    bytes.push(b'\n');
    bytes.extend(json);
    Ok(bytes)
}

/// The answer that these bytes are, if they are one of this version under this key.
pub(super) fn read(key: &AnswerKey, bytes: &[u8]) -> Option<CachedAnswer> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, json) = (&bytes[..end], &bytes[end + 1..]);
    let answer = serde_json::from_slice(json).ok()?;
    (line(key, &answer, json).as_bytes() == head).then_some(answer)
}

/// What every answer of the model called `model` begins with.
pub(super) fn mark(model: &str) -> String {
    format!("{VERSION} {}", hex(Sha256::new().chain_update(model)))
}

/// Whether what begins with `head` goes with the answers that begin with `mark`: one of them, or nothing that this version would read.
pub(super) fn goes_with(head: &[u8], mark: &str) -> bool {
    head == mark.as_bytes() || !head.starts_with(format!("{VERSION} ").as_bytes())
}

fn line(key: &AnswerKey, answer: &CachedAnswer, json: &[u8]) -> String {
    let check = Sha256::new().chain_update(key.to_string()).chain_update(json);
    format!("{} {}", mark(&answer.served_model), hex(check))
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use sutazai_core::{
        clock::Timestamp,
        model::{ChatEvent, ChatRequest, Finish, ModelInfo, StopReason, Usage},
    };

    use super::*;

    fn key(question: &str) -> AnswerKey {
        AnswerKey::of(&ModelInfo::new("actor", "scripted", 8192), &ChatRequest::ask(question)).unwrap()
    }

    fn answer() -> CachedAnswer {
        let usage = Usage { prompt_tokens: 3, completion_tokens: 2 };
        let finish = Finish { stop: StopReason::Stop, usage, prompt_ms: None, completion_ms: Some(7) };
        CachedAnswer {
            served_model: "actor".into(),
            served_backend: "scripted".into(),
            events: vec![ChatEvent::Text("Hello.".into()), ChatEvent::Finish(finish)],
            created: Timestamp::from_millis(1_796_083_200_007),
        }
    }

    /// As the first release wrote it.
    #[test]
    fn the_form_never_changes() {
        let json = r#"{"served_model":"actor","served_backend":"scripted","events":[{"text":"Hello."},{"finish":{"stop":"stop","usage":{"prompt_tokens":3,"completion_tokens":2},"prompt_ms":null,"completion_ms":7}}],"created":"2026-12-01T00:00:00.007Z"}"#;
        let bytes = write(&key("x"), &answer()).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let (head, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, json);
        // `printf actor | sha256sum`
        assert_eq!(&head[..MARK], "1 50c9c4aeb40b5b206b6d98f516f8b8c0efd29ce2e56a76b345fb9240c225a1b7");
        assert_eq!((head, head.len()), (line(&key("x"), &answer(), json.as_bytes()).as_str(), MARK + 1 + 64));
        assert_eq!(read(&key("x"), &bytes), Some(answer()));
    }

    #[test]
    fn what_is_not_whole_is_nothing() {
        let bytes = write(&key("x"), &answer()).unwrap();
        assert_eq!(read(&key("y"), &bytes), None, "under another key");
        for end in 0..bytes.len() {
            assert_eq!(read(&key("x"), &bytes[..end]), None, "cut at {end}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&key("x"), &damaged), None, "damaged at {at}");
        }
        let longer = [bytes.as_slice(), b" "].concat();
        assert_eq!(read(&key("x"), &longer), None);
    }

    #[test]
    fn answers_are_told_by_their_beginning() {
        let bytes = write(&key("x"), &answer()).unwrap();
        let head = &bytes[..MARK];
        assert!(goes_with(head, &mark("actor")) && !goes_with(head, &mark("extra")) && !goes_with(head, &mark("")));
        for unreadable in [&b"2 0123"[..], b"", b"something else"] {
            assert!(goes_with(unreadable, &mark("actor")));
        }
    }
}
