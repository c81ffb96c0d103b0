//! A model's own tokenizer, built from its GGUF file: BPE over bytes, or over the pieces of a SentencePiece.

mod byte_level;
mod pieces;

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use candle_core::quantized::gguf_file::Value;
use sutazai_core::{Error, ErrorKind, Result};
use tokenizers::Tokenizer as HfTokenizer;

use self::pieces::Pieces;
use super::gguf::{Gguf, damaged, unsupported};

/// Tokens whose text ends a turn or a document, whatever the header names as the end.
const ENDS: [&str; 9] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
];

/// A model's own tokenizer: text to tokens and back.
pub struct Tokenizer {
    encoder: Encoder,
    /// The bytes of every token; empty for control tokens, which are never text.
    bytes: Vec<Vec<u8>>,
    /// The names of control tokens, by id.
    control: HashMap<u32, String>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// The token that the file calls the beginning, and whether prompts start with it.
    pub(crate) bos: Option<u32>,
    pub(crate) add_bos: bool,
    /// The token that the file calls the end.
    pub(crate) eos: u32,
    longest: usize,
}

/// What splits text into tokens.
enum Encoder {
    ByteLevel(Box<HfTokenizer>),
    Pieces(Pieces),
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    /// Stands for what is in no other token.
    Unknown,
    /// Never text.
    Control,
    /// Text that is found before anything is split.
    Defined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind that a file gives to the token `word`.
    fn of(word: &str, value: &Value) -> Self {
        // Some files have the marks of turns among what users defined. They would be shown, and a message could contain them.
        let mark =
            ENDS.contains(&word) || word == "<start_of_turn>" || (word.starts_with("<|") && word.ends_with("|>"));
        match value {
            Value::I32(2) => Self::Unknown,
            Value::I32(3) => Self::Control,
            Value::I32(4) if mark => Self::Control,
            Value::I32(4) => Self::Defined,
            Value::I32(5) => Self::Unused,
            Value::I32(6) => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// The tokens of a file, in their order.
struct Vocabulary<'a> {
    words: Vec<&'a str>,
    kinds: Vec<Kind>,
}

impl<'a> Vocabulary<'a> {
    fn from_gguf(gguf: &'a Gguf) -> Result<Self> {
        let words = texts(gguf, "tokenizer.ggml.tokens")?;
        let kinds = gguf.list("tokenizer.ggml.token_type")?;
        if kinds.len() != words.len() {
            return Err(damaged("it has not as many token types as tokens"));
        }
        if words.iter().collect::<HashSet<_>>().len() != words.len() {
            return Err(damaged("two of its tokens are the same"));
        }
        let kinds = words.iter().zip(kinds).map(|(word, kind)| Kind::of(word, kind)).collect();
        Ok(Self { words, kinds })
    }

    /// All tokens with their ids.
    fn all(&self) -> impl Iterator<Item = (u32, &'a str, Kind)> {
        (0..).zip(&self.words).zip(&self.kinds).map(|((id, word), kind)| (id, *word, *kind))
    }

    /// The tokens of a kind with their ids.
    fn of(&self, kind: Kind) -> impl Iterator<Item = (u32, &'a str)> {
        self.all().filter(move |(_, _, own)| *own == kind).map(|(id, word, _)| (id, word))
    }
}

impl Tokenizer {
    /// The tokenizer of the GGUF file at `path`. Reads its header, so not for async threads.
    pub fn open(path: &Path) -> Result<Self> {
        Gguf::open(path)
            .and_then(|gguf| Self::from_gguf(&gguf))
            .map_err(|error| error.during("load tokenizer").about(path.display()))
    }

    /// Builds the tokenizer that the header of `gguf` describes.
    pub(crate) fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let model = gguf.text("tokenizer.ggml.model")?;
        let by_bytes = match model {
            "gpt2" => true,
            "llama" => false,
            _ => {
                let known = "known are \"gpt2\" and \"llama\"";
                return Err(unsupported(format!("its tokenizer is of the kind {model:?}; {known}")));
            }
        };
        let vocabulary = Vocabulary::from_gguf(gguf)?;
        // Whether prompts begin with the token of the beginning, where the file does not say it.
        let (encoder, add_bos) = match by_bytes {
            true => {
                let (tokenizer, add_bos) = byte_level::build(gguf, &vocabulary)?;
                (Encoder::ByteLevel(Box::new(tokenizer)), add_bos)
            }
            false => (Encoder::Pieces(Pieces::from_gguf(gguf, &vocabulary)?), true),
        };
        let alphabet = byte_level::alphabet();
        let bytes = vocabulary.all().map(|(_, word, kind)| match (kind, by_bytes) {
            (Kind::Control, _) | (Kind::Unknown, false) => Vec::new(),
            (Kind::Defined, true) => word.as_bytes().to_vec(),
            (_, true) => byte_level::bytes(&alphabet, word),
            (Kind::Byte, false) => pieces::byte(word).into_iter().collect(),
            (_, false) => pieces::spaced(word).into_bytes(),
        });
        let bytes: Vec<_> = bytes.collect();
        let mut control: HashMap<_, _> = vocabulary.of(Kind::Control).map(|(id, name)| (id, name.to_owned())).collect();
        if !by_bytes {
            control.extend(vocabulary.of(Kind::Unknown).map(|(id, name)| (id, name.to_owned())));
        }

        let last = vocabulary.words.len().saturating_sub(1);
        let id = |key: &str| gguf.count_if_any(key, 0..=last);
        let token = |found: Option<usize>| found.and_then(|id| u32::try_from(id).ok());
        let eos = token(id("tokenizer.ggml.eos_token_id")?).ok_or_else(|| damaged("it names no end token"))?;
        let mut ends = vec![eos];
        ends.extend(token(id("tokenizer.ggml.eot_token_id")?));
        ends.extend(control.iter().filter(|(_, name)| ENDS.contains(&name.as_str())).map(|(id, _)| *id));
        ends.sort_unstable();
        ends.dedup();
        Ok(Self {
            encoder,
            longest: bytes.iter().map(Vec::len).chain(control.values().map(String::len)).max().unwrap_or(1).max(1),
            bytes,
            control,
            ends,
            bos: token(id("tokenizer.ggml.bos_token_id")?),
            add_bos: match gguf.get("tokenizer.ggml.add_bos_token") {
                Some(Value::Bool(told)) => *told,
                _ => add_bos,
            },
            eos,
        })
    }

    /// The tokens of `text`, in which control tokens are recognised by name.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.encoder {
            Encoder::Pieces(pieces) => Ok(pieces.encode(text)),
            Encoder::ByteLevel(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| {
                    Error::new(ErrorKind::Internal, "the text could not be split into tokens").because(error)
                })?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// Fewer tokens than this `text` can never be.
    pub(crate) fn at_least(&self, text: &str) -> usize {
        text.len() / self.longest
    }

    /// The text of `tokens`; control tokens are no text.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token)).copied().collect();
        let bytes = match &self.encoder {
            // The space that stands before every text is none of the text.
            Encoder::Pieces(pieces) if pieces.prefix => bytes.strip_prefix(b" ").unwrap_or(&bytes),
            _ => &bytes,
        };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The bytes of a token; none for control tokens.
    pub(crate) fn bytes(&self, token: u32) -> &[u8] {
        usize::try_from(token).ok().and_then(|index| self.bytes.get(index)).map_or(&[], Vec::as_slice)
    }

    /// Whether `token` ends an answer.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// Tokens that end an answer.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The name of a control token.
    pub(crate) fn control_name(&self, token: u32) -> Option<&str> {
        self.control.get(&token).map(String::as_str)
    }

    /// The names of all control tokens.
    pub(crate) fn control_names(&self) -> impl Iterator<Item = &str> {
        self.control.values().map(String::as_str)
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

fn texts<'a>(gguf: &'a Gguf, key: &str) -> Result<Vec<&'a str>> {
    let text = |value: &'a Value| match value {
        Value::String(text) => Some(text.as_str()),
        _ => None,
    };
    gguf.list(key)?.iter().map(text).collect::<Option<_>>().ok_or_else(|| damaged(format!("{key} holds no texts")))
}
