//! SentencePiece's BPE, GGUF's tokenizer `llama`: of two neighbours that make a piece together, those with the best score become one, until none do.
//!
//! The crate `tokenizers` merges by a list of pairs in their order. Such a list can be made from scores, but not so that equal scores are taken from
//! left to right, and it has more than twice as many entries as there are pieces.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, HashMap},
};

use candle_core::quantized::gguf_file::Value;
use sutazai_core::Result;

use super::{Kind, Vocabulary};
use crate::local::chat::gguf::{Gguf, damaged};

/// What stands for a space within a piece.
const SPACE: &str = "\u{2581}";

/// Control tokens after which white space counts, even where it does not after others.
const KEEP_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// A tokenizer of pieces.
pub(super) struct Pieces {
    /// What text may become, and how early.
    pieces: HashMap<Box<str>, (u32, f32)>,
    /// The bytes of the longest of them.
    longest: usize,
    /// What stands for each byte that is in none.
    bytes: Vec<u32>,
    names: Names,
    /// Whether a space is put before a text, and before what follows a token that was named.
    pub(super) prefix: bool,
}

/// Tokens that are found in text by their names, before anything is split.
#[derive(Default)]
struct Names {
    ids: HashMap<Box<str>, Named>,
    /// The lengths of names, longest first, and the bytes with which they begin.
    lengths: Vec<usize>,
    firsts: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Named {
    id: u32,
    /// Whether white space after it is left out.
    strips: bool,
}

impl Pieces {
    /// The tokenizer of `gguf`.
    pub(super) fn from_gguf(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<Self> {
        let scores = gguf.list("tokenizer.ggml.scores")?.iter().map(|score| match score {
            Value::F32(score) if score.is_finite() => Some(*score),
            #[allow(clippy::cast_precision_loss, reason = "whole scores are the places of tokens, far below 2^24")]
            Value::I32(score) => Some(*score as f32),
            _ => None,
        });
        let scores = scores.collect::<Option<Vec<_>>>().filter(|scores| scores.len() == vocabulary.words.len());
        let scores = scores.ok_or_else(|| damaged("it has no score for each of its tokens"))?;
        let unknown = vocabulary.of(Kind::Unknown).next().map(|(id, _)| id);
        let mut bytes = vec![unknown; 256];
        for (id, word) in vocabulary.of(Kind::Byte) {
            if let Some(byte) = byte(word) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        let bytes = bytes.into_iter().collect::<Option<Vec<_>>>();
        let texts = vocabulary.of(Kind::Normal).chain(vocabulary.of(Kind::Defined));
        let score = |id: u32| usize::try_from(id).ok().and_then(|index| scores.get(index)).copied().unwrap_or_default();
        let pieces: HashMap<Box<str>, _> = texts.map(|(id, word)| (word.into(), (id, score(id)))).collect();
        // Phi 3 was trained without the line breaks that its template puts after control tokens.
        let strips = gguf.text("general.architecture")? == "phi3";
        let prefix = match gguf.get("tokenizer.ggml.add_space_prefix") {
            Some(Value::Bool(prefix)) => *prefix,
            _ => true,
        };
        Ok(Self {
            longest: pieces.keys().map(|piece| piece.len()).max().unwrap_or(0),
            pieces,
            bytes: bytes.ok_or_else(|| damaged("it has no token for some bytes, and none for what is unknown"))?,
            names: Names::of(vocabulary, strips),
            prefix,
        })
    }

    /// The tokens of `text`, in which control tokens are recognised by name.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        let (mut tokens, mut rest, mut first) = (Vec::new(), text, true);
        while let Some((at, end, Named { id, strips })) = self.names.find(rest) {
            self.merge(&rest[..at], first, &mut tokens);
            tokens.push(id);
            rest = if strips { rest[end..].trim_start() } else { &rest[end..] };
            first = true;
        }
        self.merge(rest, first, &mut tokens);
        tokens
    }

    /// Adds the tokens of a text without named ones, which is the `first` or follows a named one.
    fn merge(&self, text: &str, first: bool, tokens: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let text = [if self.prefix && first { SPACE } else { "" }, &text.replace(' ', SPACE)].concat();
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                before: index.checked_sub(1),
                after: index + 1,
            })
            .collect();
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.pair(&text, &symbols, right - 1, right));
        }
        while let Some(Pair { left, right, end, .. }) = queue.pop() {
            // One of them may have become part of another meanwhile, or another part of the right one.
            if symbols[left].is_gone() || symbols[right].is_gone() || symbols[right].end != end {
                continue;
            }
            let after = symbols[right].after;
            symbols[right].end = symbols[right].start;
            (symbols[left].end, symbols[left].after) = (end, after);
            if let Some(next) = symbols.get_mut(after) {
                next.before = Some(left);
                queue.extend(self.pair(&text, &symbols, left, after));
            }
            if let Some(before) = symbols[left].before {
                queue.extend(self.pair(&text, &symbols, before, left));
            }
        }
        for symbol in symbols.iter().filter(|symbol| !symbol.is_gone()) {
            let piece = &text[symbol.start..symbol.end];
            match self.pieces.get(piece) {
                Some((id, _)) => tokens.push(*id),
                None => tokens.extend(piece.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }

    /// The neighbours `left` and `right`, if they make a piece together.
    fn pair(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        let (start, end) = (symbols[left].start, symbols[right].end);
        let piece = (end - start <= self.longest).then(|| self.pieces.get(&text[start..end]))??;
        Some(Pair { score: piece.1, left, right, end })
    }
}

/// A part of a text and its neighbours. It is gone when it has become part of the one before.
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: usize,
}

impl Symbol {
    fn is_gone(&self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours that make a piece together.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Where the right one ended when it was looked at.
    end: usize,
}

impl Ord for Pair {
    /// The better score is greater, and of two that are equal the one further left.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Pair {}

impl Names {
    fn of(vocabulary: &Vocabulary<'_>, strips: bool) -> Self {
        let mut names = Self::default();
        let control = vocabulary.of(Kind::Control).chain(vocabulary.of(Kind::Unknown));
        let control =
            control.map(|(id, name)| (name.to_owned(), Named { id, strips: strips && !KEEP_SPACE.contains(&name) }));
        // Users defined these by the text that they stand for.
        let defined = vocabulary.of(Kind::Defined).map(|(id, name)| (spaced(name), Named { id, strips }));
        for (name, named) in control.chain(defined).filter(|(name, _)| !name.is_empty()) {
            names.lengths.push(name.len());
            names.firsts.push(name.as_bytes()[0]);
            names.ids.insert(name.into(), named);
        }
        names.lengths.sort_unstable_by(|a, b| b.cmp(a));
        names.lengths.dedup();
        names.firsts.sort_unstable();
        names.firsts.dedup();
        names
    }

    /// The first name in `text`, and the longest that begins there: where it begins and ends, and which it is.
    fn find(&self, text: &str) -> Option<(usize, usize, Named)> {
        let starts = text.bytes().enumerate().filter(|(_, byte)| self.firsts.contains(byte));
        starts.map(|(at, _)| at).find_map(|at| {
            self.lengths.iter().find_map(|length| {
                let end = at + length;
                self.ids.get(text.get(at..end)?).map(|named| (at, end, *named))
            })
        })
    }
}

/// A piece as text.
pub(super) fn spaced(piece: &str) -> String {
    piece.replace(SPACE, " ")
}

/// The byte for which a token stands, such as 10 for `<0x0A>`.
pub(super) fn byte(word: &str) -> Option<u8> {
    let digits = word.strip_prefix("<0x")?.strip_suffix('>')?;
    let plain = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of these pieces, with tokens for bytes from 100 on.
    fn tokenizer(pieces: &[(&str, f32)], prefix: bool) -> Pieces {
        let pieces: HashMap<Box<str>, _> =
            (10..).zip(pieces).map(|(id, (piece, score))| ((*piece).into(), (id, *score))).collect();
        let words = ["<s>", "</s>", "<|user|>", "  "];
        let kinds = vec![Kind::Control, Kind::Control, Kind::Control, Kind::Defined];
        let names = Names::of(&Vocabulary { words: words.to_vec(), kinds }, true);
        let longest = pieces.keys().map(|piece| piece.len()).max().unwrap_or(0);
        Pieces { pieces, longest, bytes: (100..356).collect(), names, prefix }
    }

    #[test]
    fn the_best_pair_is_merged_first_and_the_left_one_of_equals() {
        // "bc" before "ab": of "abc" only "bc" is left to become a piece.
        let pieces = [("a", -3.0), ("b", -4.0), ("c", -5.0), ("ab", -2.0), ("bc", -1.0)];
        assert_eq!(tokenizer(&pieces, false).encode("abc"), [10, 14]);
        assert_eq!(tokenizer(&pieces, false).encode("abab"), [13, 13]);
        let equal = [("a", -3.0), ("b", -4.0), ("c", -5.0), ("ab", -1.0), ("bc", -1.0)];
        assert_eq!(tokenizer(&equal, false).encode("abc"), [13, 12]);
        // Of five there are two pairs, which make four together, and one left over.
        let powers = [("a", -3.0), ("aa", -1.0), ("aaaa", -2.0)];
        assert_eq!(tokenizer(&powers, false).encode("aaaaa"), [12, 10]);
        assert_eq!(tokenizer(&powers, false).encode("aaa"), [11, 10]);
        // A piece that no pair of pieces makes is not found.
        assert_eq!(
            tokenizer(&[("a", -1.0), ("b", -2.0), ("c", -3.0), ("abc", 5.0)], false).encode("abc"),
            [10, 11, 12]
        );
    }

    #[test]
    fn spaces_are_written_out_and_what_is_no_piece_becomes_bytes() {
        let pieces = [("\u{2581}", -1.0), ("h", -2.0), ("i", -3.0), ("\u{2581}h", -0.5), ("\u{2581}hi", -0.25)];
        let (with, without) = (tokenizer(&pieces, true), tokenizer(&pieces, false));
        assert_eq!(with.encode("hi hi"), [14, 14]);
        assert_eq!(without.encode("hi hi"), [11, 12, 14]);
        assert!(with.encode("").is_empty());
        // "é" has the bytes c3 and a9.
        assert_eq!(without.encode("hé\n"), [11, 100 + 0xc3, 100 + 0xa9, 100 + 10]);
        assert_eq!(spaced("\u{2581}hi"), " hi");
    }

    #[test]
    fn named_tokens_are_found_first_and_longest() {
        let pieces = [("\u{2581}", -1.0), ("h", -2.0), ("<", -3.0), ("s", -4.0), (">", -5.0)];
        let tokenizer = tokenizer(&pieces, true);
        // After a named token a text has its space again, and one that strips takes what white space follows.
        assert_eq!(tokenizer.encode("<s>h</s>\n h"), [0, 10, 11, 1, 10, 11]);
        assert_eq!(tokenizer.encode("<|user|>\nh"), [2, 10, 11]);
        assert_eq!(tokenizer.encode("<s> h"), [0, 10, 10, 11]);
        // Nearly a name, and a name that users defined.
        assert_eq!(tokenizer.encode("<s"), [10, 12, 13]);
        assert_eq!(tokenizer.encode("h  h"), [10, 11, 3, 10, 11]);
    }

    #[test]
    fn bytes_are_told_by_two_digits() {
        assert_eq!((byte("<0x0A>"), byte("<0xff>")), (Some(10), Some(255)));
        for word in ["<0xA>", "<0x00A>", "0x0A", "<0xGG>", "<0x+A>"] {
            assert_eq!(byte(word), None, "{word}");
        }
    }
}
