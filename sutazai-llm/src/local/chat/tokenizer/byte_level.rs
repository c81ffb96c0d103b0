//! BPE over bytes, GGUF's tokenizer `gpt2`: text is split by a pattern, and within its parts pairs of tokens are merged by a list.

use std::collections::HashMap;

use sutazai_core::Result;
use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, Vocab},
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::{Kind, Vocabulary, texts};
use crate::local::chat::gguf::{Gguf, damaged, unsupported};

/// The patterns, each as the `tokenizer.json` of the models has it that it is named after.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What llama.cpp splits by, one after another, where a file says `default`.
const DEFAULT: [&str; 4] = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"];

/// How text is prepared for merging.
struct Preparation {
    splits: PreTokenizerWrapper,
    /// Whether characters are composed first.
    composes: bool,
    /// Whether a part that is a token is taken whole, even if no merges lead to it.
    takes_whole: bool,
    /// Whether prompts begin with the token of the beginning.
    add_bos: bool,
}

impl Preparation {
    /// The preparation that files call `name`; code `model_unsupported` if it is not known.
    fn named(name: &str) -> Result<Self> {
        let byte_level = ByteLevel::new(false, true, true);
        let splits = match name {
            "gpt-2" | "phi-2" => byte_level.into(),
            "smollm" => Sequence::new(vec![Digits::new(true).into(), byte_level.into()]).into(),
            "default" => split(&DEFAULT)?,
            "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "dbrx" | "smaug-bpe" => split(&[LLAMA3])?,
            "qwen2" | "deepseek-r1-qwen" => split(&[QWEN2])?,
            "gpt-4o" => split(&[GPT4O])?,
            _ => return Err(unsupported(format!("its pre-tokenizer {name:?} is not known"))),
        };
        let llama3 = matches!(name, "llama3" | "llama-v3" | "llama-bpe" | "falcon3");
        Ok(Self { splits, composes: name == "qwen2", takes_whole: llama3, add_bos: llama3 })
    }
}

/// Splits by each pattern in turn, and then writes bytes as the alphabet has them.
fn split(patterns: &[&str]) -> Result<PreTokenizerWrapper> {
    let mut parts: Vec<PreTokenizerWrapper> = Vec::with_capacity(patterns.len() + 1);
    for pattern in patterns {
        let split = Split::new(SplitPattern::Regex((*pattern).to_owned()), SplitDelimiterBehavior::Isolated, false);
        parts.push(split.map_err(|error| unsupported("its text cannot be split").because(error))?.into());
    }
    parts.push(ByteLevel::new(false, true, false).into());
    Ok(Sequence::new(parts).into())
}

/// The tokenizer of `gguf`, and whether prompts begin with the token of the beginning where the file does not say it.
pub(super) fn build(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<(Tokenizer, bool)> {
    let Preparation { splits, composes, takes_whole, add_bos } =
        Preparation::named(gguf.text_if_any("tokenizer.ggml.pre")?.unwrap_or("gpt-2"))?;
    let merges = texts(gguf, "tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| damaged("a merge is not a pair"))?;
    let ids: Vocab = vocabulary.all().map(|(id, word, _)| (word.to_owned(), id)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(takes_whole)
        .build()
        .map_err(|error| damaged("its merges do not fit its tokens").because(error))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(splits));
    let wrong = |error| damaged("its control tokens cannot be added").because(error);
    if composes {
        tokenizer.with_normalizer(Some(NFC)).map_err(wrong)?;
    }
    // Both kinds are found in text before anything is split.
    let added = |kind: Kind| {
        let special = kind == Kind::Control;
        vocabulary.of(kind).map(move |(_, word)| AddedToken::from(word, special).normalized(false))
    };
    tokenizer.add_special_tokens(added(Kind::Control)).map_err(wrong)?;
    tokenizer.add_tokens(added(Kind::Defined)).map_err(wrong)?;
    Ok((tokenizer, add_bos))
}

/// The bytes for which a token's characters stand; one with another character stands for itself.
pub(super) fn bytes(alphabet: &HashMap<char, u8>, word: &str) -> Vec<u8> {
    let bytes = word.chars().map(|c| alphabet.get(&c).copied()).collect::<Option<_>>();
    bytes.unwrap_or_else(|| word.as_bytes().to_vec())
}

/// GPT-2's printable stand-ins for bytes, backwards.
pub(super) fn alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let stand_ins = (0x100..).filter_map(char::from_u32);
    let printables = (0..=u8::MAX).filter(|byte| printable(*byte)).map(|byte| (char::from(byte), byte));
    printables.chain(stand_ins.zip((0..=u8::MAX).filter(|byte| !printable(*byte)))).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// The parts into which `text` is split, with bytes as the alphabet writes them.
    fn parts(name: &str, text: &str) -> Vec<String> {
        let mut split = PreTokenizedString::from(text);
        Preparation::named(name).unwrap().splits.pre_tokenize(&mut split).unwrap();
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(part, _, _)| part.to_owned()).collect()
    }

    #[test]
    fn each_pattern_splits_as_its_models_do() {
        let text = "It's 12345 o'CLOCK!\n\n  Go";
        assert_eq!(parts("gpt-2", text), ["It", "'s", "Ġ12345", "Ġo", "'", "CLOCK", "!", "ĊĊĠ", "ĠGo"]);
        assert_eq!(
            parts("smollm", text),
            ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġo", "'", "CLOCK", "!", "ĊĊĠ", "ĠGo"]
        );
        // Digits by three, a sign before letters goes with them, and line breaks with the signs before them.
        let llama3 = ["It", "'s", "Ġ", "123", "45", "Ġo", "'CLOCK", "!ĊĊ", "Ġ", "ĠGo"];
        assert_eq!(parts("llama-bpe", text), llama3);
        assert_eq!(parts("dbrx", text), llama3);
        assert_eq!(parts("qwen2", text), ["It", "'s", "Ġ", "1", "2", "3", "4", "5", "Ġo", "'CLOCK", "!ĊĊ", "Ġ", "ĠGo"]);
        // Letters up to where small ones end, with what was left out of them after an apostrophe.
        assert_eq!(parts("gpt-4o", "IT'S camelCase 1234"), ["IT'S", "Ġcamel", "Case", "Ġ", "123", "4"]);
        // Signs apart, and digits by three.
        assert_eq!(parts("default", "a+b 1234"), ["a", "+", "b", "Ġ", "123", "4"]);
    }

    #[test]
    fn what_is_taken_whole_and_begun_goes_with_the_pattern() {
        let of =
            |name| Preparation::named(name).map(|found| (found.composes, found.takes_whole, found.add_bos)).unwrap();
        assert_eq!(of("gpt-2"), (false, false, false));
        assert_eq!(of("qwen2"), (true, false, false));
        assert_eq!(of("llama-bpe"), (false, true, true));
        assert_eq!(of("dbrx"), (false, false, false));
        let error = Preparation::named("tekken").err().unwrap();
        assert_eq!(error.code(), "model_unsupported");
        assert!(error.to_string().contains("\"tekken\""), "{error}");
    }

    #[test]
    fn the_alphabet_stands_for_every_byte_once() {
        let alphabet = alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(bytes(&alphabet, "aĠĊ"), b"a \n");
        assert_eq!(bytes(&alphabet, "日"), "日".as_bytes());
    }
}
