//! What an Ollama answers, well and badly: pure, as a seed draws it.

use fastrand::Rng;
use serde_json::{Value, json};

/// The chat models that it holds.
pub(crate) const CHATS: [&str; 3] = ["alder:1b", "birch:1b", "cedar:1b"];
/// The embedding model that it holds.
pub(crate) const EMBEDDING: &str = "moss:23m";

/// Bytes that are sent at once, at most.
const PIECE: usize = 200;
/// Bytes of a chunk of HTTP, at most.
const CHUNK: usize = 60;

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Status 500.
    Fails,
    /// Status 429, with the time to come again.
    Busy,
    /// What nobody can read.
    Garbage,
    /// The end within a character.
    HalfCharacter,
    /// The end within a line, or after it.
    HalfLine,
    /// Nothing more, after some of it or from the beginning.
    Silence,
    /// One byte at a time.
    Bytewise,
    /// The model is deleted, and gone for a while.
    Deleted,
    /// The connection is reset.
    Reset,
    /// What runs the model ends, and the server says so in place of a line.
    Dies,
}

impl Fault {
    pub(crate) const ALL: [Self; 10] = [
        Self::Fails,
        Self::Busy,
        Self::Garbage,
        Self::HalfCharacter,
        Self::HalfLine,
        Self::Silence,
        Self::Bytewise,
        Self::Deleted,
        Self::Reset,
        Self::Dies,
    ];

    /// What goes wrong next: with three answers of ten something does.
    pub(crate) fn draw(random: &mut Rng) -> Option<Self> {
        Some(match random.u8(..100) {
            0..4 => Self::Fails,
            4..8 => Self::Busy,
            8..12 => Self::Garbage,
            12..16 => Self::HalfCharacter,
            16..20 => Self::HalfLine,
            20..23 => Self::Silence,
            23..25 => Self::Bytewise,
            25 => Self::Deleted,
            26..28 => Self::Reset,
            28..31 => Self::Dies,
            _ => return None,
        })
    }
}

/// What becomes of the connection after a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It serves the next request.
    GoOn,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It stays open and silent, until that is cut.
    Hang,
}

/// A reply, as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// Bytes that are sent at once, at most.
    pub(crate) piece: usize,
    pub(crate) then: Then,
}

impl Reply {
    /// A whole body.
    pub(crate) fn whole(status: u16, body: &[u8], random: &mut Rng) -> Self {
        Self::new(status, "", body, body.len(), random)
    }

    /// The first `sent` bytes of a body, and the end of the connection if that is not all of it.
    fn new(status: u16, headers: &str, body: &[u8], sent: usize, random: &mut Rng) -> Self {
        let head = format!("HTTP/1.1 {status} Soak\r\ncontent-type: application/x-ndjson\r\n{headers}");
        let mut bytes = head.into_bytes();
        let is_whole = sent == body.len();
        let chunked = random.u8(..4) > 0;
        if chunked {
            bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
            let mut rest = &body[..sent];
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(random.usize(1..=rest.len().min(CHUNK)));
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
                rest = after;
            }
            if is_whole {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            bytes.extend_from_slice(b"connection: close\r\n\r\n");
            bytes.extend_from_slice(&body[..sent]);
        }
        let then = if chunked && is_whole { Then::GoOn } else { Then::Close };
        Self { bytes, piece: PIECE, then }
    }

    /// The body as this fault spoils it.
    pub(crate) fn spoilt(fault: Fault, model: &str, body: &[u8], random: &mut Rng) -> Self {
        match fault {
            Fault::Fails => Self::whole(500, &error("something went wrong"), random),
            Fault::Busy => {
                let (wait, body) = (format!("retry-after: {}\r\n", random.u8(..3)), error("too many requests"));
                Self::new(429, &wait, &body, body.len(), random)
            }
            Fault::Garbage => Self::garbage(random),
            Fault::HalfCharacter => {
                // Before a byte that goes on with a character.
                let inside: Vec<usize> = (0..body.len()).filter(|at| body[*at] & 0xC0 == 0x80).collect();
                let cut = random.choice(inside).expect("every body has such a character");
                Self::new(200, "", body, cut, random)
            }
            Fault::HalfLine => {
                let cut = random.usize(1..body.len() - 1);
                Self::new(200, "", body, cut, random)
            }
            Fault::Silence => Self { then: Then::Hang, ..Self::part(body, random) },
            Fault::Bytewise => Self { piece: 1, ..Self::whole(200, body, random) },
            Fault::Deleted => Self::missing(model, random),
            Fault::Reset => Self { then: Then::Reset, ..Self::part(body, random) },
            Fault::Dies => {
                let lines: Vec<&[u8]> = body.split_inclusive(|byte| *byte == b'\n').collect();
                let mut said = lines[..random.usize(..lines.len())].concat();
                said.extend_from_slice(&error("llama runner process has terminated: exit status 2"));
                Self::whole(200, &said, random)
            }
        }
    }

    /// The model is not there.
    pub(crate) fn missing(model: &str, random: &mut Rng) -> Self {
        Self::whole(404, &error(&format!("model '{model}' not found")), random)
    }

    /// As much of a good reply as was sent, which is nothing each second time.
    fn part(body: &[u8], random: &mut Rng) -> Self {
        let mut reply = Self::whole(200, body, random);
        let sent = if random.bool() { random.usize(..reply.bytes.len()) } else { 0 };
        reply.bytes.truncate(sent);
        reply
    }

    fn garbage(random: &mut Rng) -> Self {
        match random.u8(..4) {
            0 => Self::whole(200, b"<html><body>Welcome</body></html>\n", random),
            1 => Self::whole(502, b"<html><body>Bad gateway</body></html>\n", random),
            2 => Self::whole(200, b"{\"message\":{\"content\":\"\xFF\xFE\"},\"done\":false}\n", random),
            _ => Self { bytes: b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec(), piece: PIECE, then: Then::Close },
        }
    }
}

/// What the chat models say to a question.
pub(crate) fn said(question: &str) -> String {
    format!("Grüße aus 東京 🦀: {question}")
}

/// That, as a model streams it: a word a line.
pub(crate) fn chat(model: &str, question: &str) -> Vec<u8> {
    let said = said(question);
    let line = |word: &str| json!({"model": model, "message": {"role": "assistant", "content": word}, "done": false});
    let last = json!({"model": model, "message": {"role": "assistant", "content": ""}, "done": true,
        "done_reason": "stop", "prompt_eval_count": 7, "eval_count": 9});
    let lines = said.split_inclusive(' ').map(line).chain([last]);
    lines.map(|line| format!("{line}\n")).collect::<String>().into_bytes()
}

/// The vectors of texts, which tell how long these are.
pub(crate) fn vectors(model: &str, texts: &Value) -> Vec<u8> {
    let vector = |text: &Value| [text.as_str().unwrap_or_default().len(), 1, 0];
    let vectors: Vec<_> = texts.as_array().into_iter().flatten().map(vector).collect();
    line(&json!({"model": model, "by": "Müller", "embeddings": vectors, "prompt_eval_count": 7}))
}

/// A model has been loaded or unloaded.
pub(crate) fn done(model: &str) -> Vec<u8> {
    line(&json!({"model": model, "by": "Müller", "response": "", "done": true}))
}

/// The models that the server holds. The digest tells them apart, as for every Ollama.
pub(crate) fn tags() -> Vec<u8> {
    let tag = |name: &str| json!({"name": name, "digest": format!("digest of {name}")});
    let models: Vec<_> = CHATS.into_iter().chain([EMBEDDING]).map(tag).collect();
    line(&json!({"models": models}))
}

/// What a model is.
pub(crate) fn shown(model: &str) -> Vec<u8> {
    line(&if model == EMBEDDING {
        json!({"capabilities": ["embedding"], "model_info": {"general.architecture": "bert",
            "bert.context_length": 512, "bert.embedding_length": 3}})
    } else {
        json!({"capabilities": ["completion"], "model_info": {"general.architecture": "llama",
            "llama.context_length": 2048}})
    })
}

/// The models in memory: it does not say.
pub(crate) fn running() -> Vec<u8> {
    line(&json!({"models": []}))
}

fn error(text: &str) -> Vec<u8> {
    line(&json!({"error": text}))
}

fn line(document: &Value) -> Vec<u8> {
    format!("{document}\n").into_bytes()
}
