//! What is counted, and up to where.

/// One of the things that a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Tokens, of prompts and answers together.
    Tokens,
    /// Calls.
    Calls,
    /// Milliseconds from a call to the end of its answer.
    Time,
    /// Millionths of the operator's currency.
    Cost,
}

impl Measure {
    /// All of them, in the order in which they stand in [`Amounts`].
    pub const ALL: [Self; 4] = [Self::Tokens, Self::Calls, Self::Time, Self::Cost];

    /// `tokens`, `calls`, `time` or `cost`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Calls => "calls",
            Self::Time => "time",
            Self::Cost => "cost",
        }
    }
}

/// So much of each measure. Arithmetic saturates: nothing is less than 0 or more than a `u64` holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Amounts {
    /// Tokens.
    pub tokens: u64,
    /// Calls.
    pub calls: u64,
    /// Milliseconds.
    pub millis: u64,
    /// Millionths of the operator's currency.
    pub micros: u64,
}

impl Amounts {
    /// Nothing.
    pub const ZERO: Self = Self { tokens: 0, calls: 0, millis: 0, micros: 0 };

    /// So much of every measure.
    #[must_use]
    pub const fn all(amount: u64) -> Self {
        Self { tokens: amount, calls: amount, millis: amount, micros: amount }
    }

    /// What `amount` says of each measure.
    #[must_use]
    pub fn by(amount: impl Fn(Measure) -> u64) -> Self {
        Self {
            tokens: amount(Measure::Tokens),
            calls: amount(Measure::Calls),
            millis: amount(Measure::Time),
            micros: amount(Measure::Cost),
        }
    }

    /// How much of one measure.
    #[must_use]
    pub fn of(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Tokens => self.tokens,
            Measure::Calls => self.calls,
            Measure::Time => self.millis,
            Measure::Cost => self.micros,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self::by(|measure| self.of(measure).saturating_add(other.of(measure)))
    }

    /// What is left of this without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self::by(|measure| self.of(measure).saturating_sub(other.of(measure)))
    }

    /// The smaller one of each measure.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        Self::by(|measure| self.of(measure).min(other.of(measure)))
    }

    /// The larger one of each measure.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self::by(|measure| self.of(measure).max(other.of(measure)))
    }

    /// Whether there is at least as much of every measure as in the other.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        Measure::ALL.iter().all(|measure| self.of(*measure) >= other.of(*measure))
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

/// Up to where an account may be drawn on, by measure; without a limit as far as it is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Tokens.
    pub tokens: Option<u64>,
    /// Calls.
    pub calls: Option<u64>,
    /// Milliseconds.
    pub millis: Option<u64>,
    /// Millionths of the operator's currency.
    pub micros: Option<u64>,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { tokens: None, calls: None, millis: None, micros: None };

    /// The most that is counted of anything, whatever the limit: what every store can keep.
    pub const MOST: u64 = i64::MAX.cast_unsigned();

    /// The limit of one measure.
    #[must_use]
    pub fn of(&self, measure: Measure) -> Option<u64> {
        match measure {
            Measure::Tokens => self.tokens,
            Measure::Calls => self.calls,
            Measure::Time => self.millis,
            Measure::Cost => self.micros,
        }
    }

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Of these amounts what is limited at all.
    #[must_use]
    pub fn of_limited(&self, amounts: Amounts) -> Amounts {
        Amounts::by(|measure| self.of(measure).map_or(0, |_| amounts.of(measure)))
    }

    /// Up to where each measure goes: its limit, at most [`Limits::MOST`].
    #[must_use]
    pub fn ends(&self) -> Amounts {
        Amounts::by(|measure| self.of(measure).unwrap_or(Self::MOST).min(Self::MOST))
    }

    /// What is left once so much was taken.
    #[must_use]
    pub fn left(&self, taken: Amounts) -> Amounts {
        self.ends().minus(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_measure_counts_for_itself() {
        let some = Amounts { tokens: 5, calls: 1, millis: 0, micros: 9 };
        let more = Amounts { tokens: 7, calls: 1, millis: 3, micros: 2 };
        assert_eq!(some.plus(more), Amounts { tokens: 12, calls: 2, millis: 3, micros: 11 });
        assert_eq!(some.minus(more), Amounts { tokens: 0, calls: 0, millis: 0, micros: 7 });
        assert!(!some.covers(&more) && !more.covers(&some) && some.max(more).covers(&some));
        assert!(some.covers(&some.min(more)) && Amounts::ZERO.is_zero());
        assert_eq!(Amounts::by(|measure| some.of(measure)), some);
    }

    #[test]
    fn what_has_no_limit_is_counted_as_far_as_it_goes() {
        let limits = Limits { tokens: Some(10), calls: Some(u64::MAX), ..Limits::NONE };
        let taken = Amounts { tokens: 12, calls: 1, millis: 5, micros: 0 };
        let most = Limits::MOST;
        assert_eq!(limits.left(taken), Amounts { tokens: 0, calls: most - 1, millis: most - 5, micros: most });
        assert_eq!(limits.of_limited(taken), Amounts { tokens: 12, calls: 1, ..Amounts::ZERO });
        assert!(Limits::default().is_none() && !limits.is_none());
    }
}
