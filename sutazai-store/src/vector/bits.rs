//! A set of small numbers, one bit each.

use std::ops::Range;

/// Bits in a word.
const WORD: usize = u64::BITS as usize;

/// Which slots of a collection are meant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Bits {
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    /// `len` slots, all in or all out.
    pub(super) fn of(len: usize, all: bool) -> Self {
        let mut bits = Self { words: vec![if all { u64::MAX } else { 0 }; len.div_ceil(WORD)], len };
        bits.clip();
        bits
    }

    pub(super) fn contains(&self, slot: usize) -> bool {
        self.words.get(slot / WORD).is_some_and(|word| word >> (slot % WORD) & 1 == 1)
    }

    /// Adds a slot that is within the length.
    pub(super) fn insert(&mut self, slot: usize) {
        if slot < self.len {
            self.words[slot / WORD] |= 1 << (slot % WORD);
        }
    }

    /// Removes a slot; says whether it was in.
    pub(super) fn remove(&mut self, slot: usize) -> bool {
        let was = self.contains(slot);
        if was {
            self.words[slot / WORD] &= !(1 << (slot % WORD));
        }
        was
    }

    /// One more slot at the end, in or out.
    pub(super) fn push(&mut self, is: bool) {
        self.len += 1;
        self.words.resize(self.len.div_ceil(WORD), 0);
        if is {
            self.insert(self.len - 1);
        }
    }

    pub(super) fn and(&mut self, other: &Self) {
        self.words.iter_mut().enumerate().for_each(|(i, word)| *word &= other.words.get(i).copied().unwrap_or(0));
    }

    pub(super) fn or(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        self.clip();
    }

    pub(super) fn not(&mut self) {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clip();
    }

    /// How many slots below `end` are in.
    pub(super) fn below(&self, end: usize) -> usize {
        let whole: usize = self.words.iter().take(end / WORD).map(|word| word.count_ones() as usize).sum();
        let rest =
            self.words.get(end / WORD).map_or(0, |word| (word & ((1 << (end % WORD)) - 1)).count_ones() as usize);
        whole + rest
    }

    pub(super) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The slots within a range that are in, ascending.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        let (start, end) = (range.start, range.end.min(self.len));
        let words = self.words.iter().enumerate().take(end.div_ceil(WORD)).skip(start / WORD);
        words.flat_map(move |(i, word)| {
            let before = start.saturating_sub(i * WORD).min(WORD);
            let mut word = if before == WORD { 0 } else { word & u64::MAX << before };
            let after = (i + 1) * WORD;
            if after > end {
                word &= u64::MAX >> (after - end);
            }
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(i * WORD + bit)
            })
        })
    }

    /// Forgets the slots from `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.words.truncate(self.len.div_ceil(WORD));
        self.clip();
    }

    /// Bits beyond the length stay out.
    fn clip(&mut self) {
        if let Some(last) = self.words.last_mut().filter(|_| !self.len.is_multiple_of(WORD)) {
            *last &= (1 << (self.len % WORD)) - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_set() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bits = Bits::of(len, true);
            assert_eq!((bits.count(), bits.range(0..len).count()), (len, len));
            bits.not();
            assert_eq!(bits.count(), 0);
            let thirds: Vec<_> = (0..len).step_by(3).collect();
            thirds.iter().for_each(|slot| bits.insert(*slot));
            assert_eq!(bits.range(0..len).collect::<Vec<_>>(), thirds);
            (0..=len).for_each(|end| assert_eq!(bits.below(end), thirds.iter().filter(|slot| **slot < end).count()));
            bits.push(true);
            assert!(bits.contains(len) && bits.remove(len) && !bits.remove(len) && !bits.contains(len + 1));
            (0..=len).for_each(|start| {
                let ranged: Vec<_> = bits.range(start..len / 2).collect();
                assert_eq!(
                    ranged,
                    thirds.iter().copied().filter(|slot| (start..len / 2).contains(slot)).collect::<Vec<_>>()
                );
            });
            let mut cut = bits.clone();
            cut.truncate(len / 2);
            assert_eq!(cut.count(), bits.below(len / 2));
            let mut both = Bits::of(len + 1, true);
            both.and(&bits);
            assert_eq!(both, bits);
            both.or(&Bits::of(len + 1, true));
            assert_eq!(both.count(), len + 1);
        }
    }
}
