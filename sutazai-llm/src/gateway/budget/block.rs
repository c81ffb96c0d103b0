//! A block: the part of an account that this process has drawn and may spend without asking.

use std::time::Duration;

use sutazai_core::store::{Amounts, Drawn, Limits, Measure};

/// For so long what a store said to be left is believed when calls are refused: others may give something back.
const BELIEVED: Duration = Duration::from_secs(1);

/// For so long nothing more is drawn ahead after there was nothing.
const DRY: Duration = Duration::from_secs(10);

/// One part of so many of a limit is drawn at a time, if that is enough for a few calls.
const PARTS: u64 = 64;

/// Never more than one part of so many, unless a call takes more.
const LARGEST: u64 = 8;

/// Calls that a block should be enough for.
const CALLS: u64 = 4;

/// Why a call cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    pub(super) measure: Measure,
    /// How much the call may take.
    pub(super) asked: u64,
    /// How much is left, here and in the store.
    pub(super) left: u64,
    /// How much there is at all.
    pub(super) limit: u64,
    /// Calls under way hold enough, and may give it back.
    pub(super) held: bool,
}

/// What was drawn from an account, and what has become of it.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) limits: Limits,
    /// What was drawn and not given back.
    pub(super) drawn: Amounts,
    /// What calls under way may take.
    pub(super) reserved: Amounts,
    /// What calls that are over took; more than was drawn if they took more than they had reserved.
    pub(super) spent: Amounts,
    /// Calls under way.
    pub(super) calls: usize,
    /// When it was last used.
    pub(super) used: Duration,
    /// What the last call wanted.
    usual: Amounts,
    /// What was left in the store, and as of when.
    left: Option<(Amounts, Duration)>,
}

impl Block {
    pub(super) fn new(limits: Limits, now: Duration) -> Self {
        Self {
            limits,
            drawn: Amounts::ZERO,
            reserved: Amounts::ZERO,
            spent: Amounts::ZERO,
            calls: 0,
            used: now,
            usual: Amounts::ZERO,
            left: None,
        }
    }

    /// What of a need is this account's concern. How long a call takes is a guess, and not to keep a call from being made that nothing else speaks against.
    pub(super) fn part(&self, need: Amounts) -> Amounts {
        let mut part = self.limits.of_limited(need);
        part.millis = part.millis.min(self.limits.millis.unwrap_or(0));
        part
    }

    /// What is drawn and free.
    pub(super) fn free(&self) -> Amounts {
        self.drawn.minus(self.reserved.plus(self.spent))
    }

    /// What would have to be drawn for so much to be free.
    pub(super) fn lacks(&self, part: Amounts) -> Amounts {
        self.reserved.plus(self.spent).plus(part).minus(self.drawn)
    }

    /// Reserves for a call.
    pub(super) fn reserve(&mut self, part: Amounts, now: Duration) {
        self.reserved = self.reserved.plus(part);
        self.calls += 1;
        (self.used, self.usual) = (now, part);
    }

    /// Whether more should be drawn before the next call comes.
    pub(super) fn is_low(&self, now: Duration) -> bool {
        let (free, size) = (self.free(), self.size());
        Measure::ALL.into_iter().any(|measure| {
            let enough = (size.of(measure) / 4).max(self.usual.of(measure));
            free.of(measure) < enough && !self.is_dry(measure, now)
        })
    }

    fn is_dry(&self, measure: Measure, now: Duration) -> bool {
        self.left.is_some_and(|(left, at)| left.of(measure) == 0 && now.saturating_sub(at) < DRY)
    }

    /// A call is over that had reserved `part`.
    pub(super) fn settle(&mut self, part: Amounts, spent: Amounts, now: Duration) {
        self.reserved = self.reserved.minus(part);
        self.calls = self.calls.saturating_sub(1);
        self.spent = self.spent.plus(self.limits.of_limited(spent));
        self.used = now;
    }

    /// How much is drawn at a time.
    fn size(&self) -> Amounts {
        Amounts::by(|measure| {
            let Some(limit) = self.limits.of(measure) else { return 0 };
            let usual = self.usual.of(measure);
            (limit / PARTS).max(usual.saturating_mul(CALLS)).min(limit / LARGEST).max(usual)
        })
    }

    /// What to draw so that these are served and a block is left after them.
    pub(super) fn wanted(&self, parts: Amounts) -> Amounts {
        self.lacks(parts.plus(self.size()))
    }

    /// Takes in what a draw brought that wanted so much.
    pub(super) fn take(&mut self, wanted: Amounts, drawn: Drawn, now: Duration) {
        let left = match drawn {
            Drawn::Granted(granted) => {
                self.drawn = self.drawn.plus(granted);
                // Who is granted less than wanted has the last of it.
                Amounts::by(|measure| if granted.of(measure) < wanted.of(measure) { 0 } else { u64::MAX })
            }
            Drawn::Refused { taken } => self.limits.left(taken),
        };
        self.left = Some((left, now));
    }

    /// Why a call cannot be made, if that is known: it takes more than there is at all, or than was left a moment ago.
    pub(super) fn shortage(&self, part: Amounts, now: Duration) -> Option<Shortage> {
        let believed = self.left.filter(|(_, at)| now.saturating_sub(*at) < BELIEVED);
        let stored = believed.map_or(Amounts::all(Limits::MOST), |(left, _)| left);
        let (lacks, owed) = (self.lacks(part), self.lacks(Amounts::ZERO));
        let without_others = self.spent.plus(part).minus(self.drawn);
        Measure::ALL.into_iter().find_map(|measure| {
            let (limit, asked, stored) = (self.limits.of(measure)?, part.of(measure), stored.of(measure));
            if asked <= limit && lacks.of(measure) <= stored {
                return None;
            }
            let left = self.free().of(measure).saturating_add(stored).saturating_sub(owed.of(measure));
            let left = left.min(limit.saturating_sub(self.reserved.plus(self.spent).of(measure)));
            let held = asked <= limit && without_others.of(measure) <= stored;
            Some(Shortage { measure, asked, left, limit, held })
        })
    }

    /// What was spent and never drawn.
    pub(super) fn debt(&self) -> Amounts {
        self.spent.minus(self.drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { tokens: Some(6_400), millis: Some(100), ..Limits::NONE };

    fn tokens(tokens: u64) -> Amounts {
        Amounts { tokens, ..Amounts::ZERO }
    }

    #[test]
    fn a_block_is_a_part_of_the_limit_or_enough_for_a_few_calls() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        for (usual, size) in [(0, 100), (10, 100), (50, 200), (300, 800), (900, 900), (6_400, 6_400)] {
            block.usual = tokens(usual);
            assert_eq!(block.size().tokens, size, "{usual}");
        }
        assert_eq!((block.size().calls, block.size().millis), (0, 1));
    }

    #[test]
    fn what_is_overspent_is_missing_from_the_next_draw() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        block.take(tokens(100), Drawn::Granted(tokens(100)), Duration::ZERO);
        block.reserve(tokens(40), Duration::ZERO);
        assert!(!block.is_low(Duration::ZERO) && block.free() == tokens(60));
        block.settle(tokens(40), Amounts { calls: 1, ..tokens(130) }, Duration::ZERO);
        assert_eq!((block.free(), block.debt(), block.spent), (Amounts::ZERO, tokens(30), tokens(130)));
        assert_eq!(block.lacks(tokens(5)), tokens(35));
        assert_eq!(block.wanted(tokens(5)).tokens, 35 + 160);
    }

    #[test]
    fn what_is_left_is_believed_for_a_while() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        let short =
            |block: &Block, asked, now| block.shortage(tokens(asked), now).map(|short| (short.left, short.held));
        assert_eq!(short(&block, 6_400, Duration::ZERO), None);
        assert_eq!(short(&block, 6_401, Duration::ZERO), Some((6_400, false)), "there are no more");
        block.take(tokens(100), Drawn::Granted(tokens(60)), Duration::ZERO);
        assert_eq!((short(&block, 60, Duration::ZERO), short(&block, 61, Duration::ZERO)), (None, Some((60, false))));
        block.take(tokens(100), Drawn::Refused { taken: tokens(6_390) }, Duration::ZERO);
        let later = Duration::from_millis(999);
        assert_eq!((short(&block, 70, later), short(&block, 71, later)), (None, Some((70, false))));
        block.reserve(tokens(50), later);
        assert_eq!((short(&block, 21, later), short(&block, 71, later)), (Some((20, true)), Some((20, false))));
        assert_eq!(short(&block, 71, BELIEVED), None, "others may have given something back");
    }

    #[test]
    fn a_dry_account_is_not_drawn_ahead_again_and_again() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        block.take(tokens(100), Drawn::Granted(tokens(60)), Duration::ZERO);
        block.reserve(tokens(60), Duration::ZERO);
        assert!(!block.is_low(Duration::ZERO) && block.is_low(DRY));
    }

    #[test]
    fn a_guess_of_time_is_no_reason_to_refuse() {
        let block = Block::new(LIMITS, Duration::ZERO);
        let need = Amounts { tokens: 7_000, calls: 1, millis: 2_000, micros: 5 };
        assert_eq!(block.part(need), Amounts { tokens: 7_000, millis: 100, ..Amounts::ZERO });
    }
}
