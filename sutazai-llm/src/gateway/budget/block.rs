//! A block: the part of an account that this process has drawn and may spend without asking.

use std::time::Duration;

use sutazai_core::store::{Amounts, Drawn, Limits, Measure};

/// For so long what a store said to be left is believed when calls are refused: others may give something back.
const BELIEVED: Duration = Duration::from_secs(1);

/// For so long nothing more is drawn ahead after there was nothing.
const DRY: Duration = Duration::from_secs(10);

/// A block that nobody has used for so long goes back.
const IDLE: Duration = Duration::from_secs(60);

/// One part of so many of a limit is drawn at a time, if that is enough for a few calls.
const PARTS: u64 = 64;

/// Never more than one part of so many is drawn ahead, however much a call takes.
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
    /// Calls of this process have not spent what is missing: others have drawn it, and may give it back.
    pub(super) elsewhere: bool,
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
    /// When a call was last made or over.
    used: Duration,
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

    /// The block of the next day's account, of which nothing is drawn yet.
    pub(super) fn of_next_day(&self, now: Duration) -> Self {
        Self { usual: self.usual, ..Self::new(self.limits, now) }
    }

    /// What of a need is this account's concern. How long a call takes is a guess, and no more than a small part of the limit is reserved for one: it is not
    /// to keep a call from being made that nothing else speaks against. Where there is any time left, it may be made.
    pub(super) fn part(&self, need: Amounts) -> Amounts {
        let mut part = self.limits.of_limited(need);
        if let Some(limit) = self.limits.millis {
            part.millis = part.millis.min(limit / PARTS).max(1);
        }
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
            let limit = self.limits.of(measure).unwrap_or(0);
            let enough = (size.of(measure) / 4).max(self.usual.of(measure).min(limit / LARGEST));
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

    /// How much is drawn ahead.
    fn size(&self) -> Amounts {
        Amounts::by(|measure| {
            let limit = self.limits.of(measure).unwrap_or(0);
            (limit / PARTS).max(self.usual.of(measure).saturating_mul(CALLS)).min(limit / LARGEST)
        })
    }

    /// What of it should go back while it is in use: of what is free twice what is drawn ahead, all beyond that once.
    pub(super) fn surplus(&self) -> Amounts {
        let (free, size) = (self.free(), self.size());
        Amounts::by(|measure| {
            let (free, size) = (free.of(measure), size.of(measure));
            if free > size.saturating_mul(2) { free - size } else { 0 }
        })
    }

    /// Whether it holds more than it should, or owes something.
    pub(super) fn is_uneven(&self) -> bool {
        !self.surplus().is_zero() || !self.debt().is_zero()
    }

    /// Whether nobody has used it for long.
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        self.calls == 0 && now.saturating_sub(self.used) >= IDLE
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

    /// So much of it goes back.
    pub(super) fn give_back(&mut self, unused: Amounts) {
        self.drawn = self.drawn.minus(unused);
        self.left = self.left.map(|(left, at)| (left.plus(unused), at));
    }

    /// So much of its debt is written down.
    pub(super) fn paid(&mut self, debt: Amounts) {
        self.drawn = self.drawn.plus(debt);
        self.left = self.left.map(|(left, at)| (left.minus(debt), at));
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
            let elsewhere = self.spent.plus(part).of(measure) <= limit;
            Some(Shortage { measure, asked, left, limit, held, elsewhere })
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
        for (usual, size) in [(0, 100), (10, 100), (50, 200), (300, 800), (900, 800), (6_400, 800)] {
            block.usual = tokens(usual);
            assert_eq!(block.size().tokens, size, "{usual}");
        }
        assert_eq!((block.size().calls, block.size().millis), (0, 1));
    }

    #[test]
    fn of_a_large_call_no_more_than_a_part_is_drawn_ahead() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        block.take(tokens(3_300), Drawn::Granted(tokens(3_300)), Duration::ZERO);
        block.reserve(tokens(3_200), Duration::ZERO);
        assert_eq!((block.free().tokens, block.wanted(Amounts::ZERO).tokens), (100, 700));
        assert!(block.is_low(Duration::ZERO));
        block.take(tokens(700), Drawn::Granted(tokens(700)), Duration::ZERO);
        assert!(!block.is_low(Duration::ZERO), "an eighth of the limit is enough");
    }

    #[test]
    fn what_a_block_in_use_does_not_need_goes_back() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        block.take(tokens(4_000), Drawn::Granted(tokens(4_000)), Duration::ZERO);
        block.reserve(tokens(3_200), Duration::ZERO);
        assert!(block.surplus().is_zero() && !block.is_uneven());
        block.settle(tokens(3_200), tokens(20), Duration::ZERO);
        assert_eq!((block.surplus(), block.is_uneven()), (tokens(3_180), true));
        block.give_back(block.surplus());
        assert_eq!((block.free(), block.spent, block.is_uneven()), (tokens(800), tokens(20), false));
        // Of a limit of which nothing is drawn ahead, all that is free goes back.
        let mut block = Block::new(Limits { calls: Some(7), ..Limits::NONE }, Duration::ZERO);
        let call = Amounts { calls: 1, ..Amounts::ZERO };
        block.take(call, Drawn::Granted(call), Duration::ZERO);
        block.reserve(call, Duration::ZERO);
        assert!(!block.is_low(Duration::ZERO) && !block.is_uneven());
        block.settle(call, Amounts::ZERO, Duration::ZERO);
        assert_eq!(block.surplus(), call);
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
        assert!(block.is_uneven());
        block.paid(block.debt());
        assert_eq!((block.debt(), block.lacks(tokens(5)), block.is_uneven()), (Amounts::ZERO, tokens(5), false));
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
        block.paid(tokens(3));
        assert_eq!(short(&block, 21, later).map(|(left, _)| left), Some(20), "what is paid for was taken there");
        block.give_back(tokens(5));
        assert_eq!(short(&block, 21, later).map(|(left, _)| left), Some(20), "what went back is still there");
    }

    #[test]
    fn what_others_hold_is_told_from_what_is_spent_here() {
        let mut block = Block::new(LIMITS, Duration::ZERO);
        block.take(tokens(400), Drawn::Granted(tokens(400)), Duration::ZERO);
        block.reserve(tokens(400), Duration::ZERO);
        block.settle(tokens(400), tokens(400), Duration::ZERO);
        block.take(tokens(100), Drawn::Refused { taken: tokens(6_390) }, Duration::ZERO);
        let elsewhere = |asked| block.shortage(tokens(asked), Duration::ZERO).map(|short| short.elsewhere);
        assert_eq!([10, 11, 6_000, 6_001].map(elsewhere), [None, Some(true), Some(true), Some(false)]);
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
        let limits = Limits { millis: Some(300_000), ..LIMITS };
        let mut block = Block::new(limits, Duration::ZERO);
        let need = Amounts { tokens: 70, calls: 1, millis: 600_000, micros: 5 };
        let part = block.part(need);
        assert_eq!(part, Amounts { tokens: 70, millis: 4_687, ..Amounts::ZERO });
        block.take(part, Drawn::Granted(part), Duration::ZERO);
        block.reserve(part, Duration::ZERO);
        block.settle(part, Amounts { millis: 3_000, ..tokens(6) }, Duration::ZERO);
        let taken = block.spent;
        block.take(part, Drawn::Refused { taken }, Duration::ZERO);
        assert_eq!(block.shortage(block.part(need), Duration::ZERO), None, "nearly all of the time is left");
        assert_eq!(Block::new(LIMITS, Duration::ZERO).part(need).millis, 1, "of 100 ms");
        let none = Block::new(Limits { millis: Some(0), ..Limits::NONE }, Duration::ZERO);
        let shortage = none.shortage(none.part(Amounts::ZERO), Duration::ZERO).unwrap();
        assert_eq!(
            (shortage.measure, shortage.asked, shortage.limit),
            (Measure::Time, 1, 0),
            "no time lets none through"
        );
        assert_eq!(Block::new(Limits::NONE, Duration::ZERO).part(need), Amounts::ZERO);
    }
}
