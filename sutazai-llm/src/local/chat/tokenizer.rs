//! A model's own tokenizer, built from its GGUF file: byte-level BPE.

use std::{collections::HashMap, path::Path};

use candle_core::quantized::gguf_file::Value;
use sutazai_core::{Error, ErrorKind, Result};
use tokenizers::{
    AddedToken, PreTokenizerWrapper, Tokenizer as HfTokenizer,
    models::bpe::BPE,
    pre_tokenizers::{byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use super::gguf::{Gguf, damaged, unsupported};

/// Tokens whose text ends a turn or a document, whatever the header names as the end.
const ENDS: [&str; 6] = ["<|endoftext|>", "<|im_end|>", "<|end|>", "<|eot_id|>", "<|eom_id|>", "</s>"];

/// A model's own tokenizer: text to tokens and back.
pub struct Tokenizer {
    inner: HfTokenizer,
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
        if model != "gpt2" {
            return Err(unsupported(format!("its tokenizer is of the kind {model:?}; only \"gpt2\" is known")));
        }
        let pre = match gguf.get("tokenizer.ggml.pre") {
            Some(_) => gguf.text("tokenizer.ggml.pre")?,
            None => "gpt-2",
        };
        let byte_level = ByteLevel::new(false, true, true);
        let pre_tokenizer = match pre {
            "gpt-2" => PreTokenizerWrapper::from(byte_level),
            "smollm" => Sequence::new(vec![Digits::new(true).into(), byte_level.into()]).into(),
            _ => return Err(unsupported(format!("its pre-tokenizer {pre:?} is not known"))),
        };
        let words = texts(gguf, "tokenizer.ggml.tokens")?;
        let kinds = gguf.list("tokenizer.ggml.token_type")?;
        if kinds.len() != words.len() {
            return Err(damaged("it has not as many token types as tokens"));
        }
        let merges = texts(gguf, "tokenizer.ggml.merges")?
            .into_iter()
            .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| damaged("a merge is not a pair"))?;

        let vocabulary: HashMap<String, u32> = (0..).zip(&words).map(|(id, word)| ((*word).to_owned(), id)).collect();
        if vocabulary.len() != words.len() {
            return Err(damaged("two of its tokens are the same"));
        }
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .build()
            .map_err(|error| damaged("its merges do not fit its tokens").because(error))?;
        let mut inner = HfTokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(pre_tokenizer));

        let from_chars = byte_alphabet();
        let (mut bytes, mut control, mut added) = (Vec::with_capacity(words.len()), HashMap::new(), Vec::new());
        for ((id, word), kind) in (0..).zip(&words).zip(kinds) {
            match kind {
                // 3 is a control token, 4 one that users defined: both are found in text before anything is split.
                Value::I32(3) => {
                    control.insert(id, (*word).to_owned());
                    added.push(AddedToken::from(*word, true).normalized(false));
                    bytes.push(Vec::new());
                }
                Value::I32(4) => {
                    added.push(AddedToken::from(*word, false).normalized(false));
                    bytes.push(word.as_bytes().to_vec());
                }
                _ => bytes.push(match word.chars().map(|c| from_chars.get(&c).copied()).collect::<Option<Vec<u8>>>() {
                    Some(decoded) => decoded,
                    None => word.as_bytes().to_vec(),
                }),
            }
        }
        let internal = |error| damaged("its control tokens cannot be added").because(error);
        inner.add_special_tokens(added.iter().filter(|token| token.special).cloned()).map_err(internal)?;
        inner.add_tokens(added.iter().filter(|token| !token.special).cloned()).map_err(internal)?;

        let id = |key: &str| gguf.get(key).map(|_| gguf.count(key, 0..=words.len() - 1)).transpose();
        let token = |found: Option<usize>| found.and_then(|id| u32::try_from(id).ok());
        let eos = token(id("tokenizer.ggml.eos_token_id")?).ok_or_else(|| damaged("it names no end token"))?;
        let mut ends = vec![eos];
        ends.extend(token(id("tokenizer.ggml.eot_token_id")?));
        ends.extend(control.iter().filter(|(_, name)| ENDS.contains(&name.as_str())).map(|(id, _)| *id));
        ends.sort_unstable();
        ends.dedup();
        Ok(Self {
            inner,
            longest: bytes.iter().map(Vec::len).chain(control.values().map(String::len)).max().unwrap_or(1).max(1),
            bytes,
            control,
            ends,
            bos: token(id("tokenizer.ggml.bos_token_id")?),
            add_bos: matches!(gguf.get("tokenizer.ggml.add_bos_token"), Some(Value::Bool(true))),
            eos,
        })
    }

    /// The tokens of `text`, in which control tokens are recognised by name.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| {
            Error::new(ErrorKind::Internal, "the text could not be split into tokens").because(error)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Fewer tokens than this `text` can never be.
    pub(crate) fn at_least(&self, text: &str) -> usize {
        text.len() / self.longest
    }

    /// The text of `tokens`; control tokens are no text.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.bytes(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
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

/// GPT-2's printable stand-ins for bytes, backwards.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let stand_ins = (0x100..).filter_map(char::from_u32);
    let printables = (0..=u8::MAX).filter(|byte| printable(*byte)).map(|byte| (char::from(byte), byte));
    printables.chain(stand_ins.zip((0..=u8::MAX).filter(|byte| !printable(*byte)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_stands_for_every_byte_once() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
        assert_eq!(alphabet[&'a'], b'a');
    }
}
