//! Budgets: what may be spent on models, by whom, and how much of that is taken.

mod account;
mod amounts;

use async_trait::async_trait;

pub use self::{
    account::{Account, Day},
    amounts::{Amounts, Limits, Measure},
};
use crate::error::Result;

/// Asks for a part of what is left of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The account.
    pub account: Account,
    /// Up to where it may be drawn on, by everybody together. The limits are the caller's to know: a store keeps none.
    pub limits: Limits,
    /// How much is wanted.
    pub wanted: Amounts,
    /// Less than this is of no use.
    pub least: Amounts,
}

/// What became of a [`Draw`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// So much is the caller's now.
    Granted(Amounts),
    /// There was too little, and nothing was taken.
    Refused {
        /// What was taken before.
        taken: Amounts,
    },
}

impl Draw {
    /// The rule of every store: what is granted of an account from which so much was `taken`.
    ///
    /// Of each measure as much as is wanted, or what is left if that is less. If what is left of any measure is less than the least, nothing of none.
    #[must_use]
    pub fn grant(&self, taken: Amounts) -> Drawn {
        let left = self.limits.left(taken);
        if left.covers(&self.least) {
            Drawn::Granted(self.wanted.max(self.least).min(left))
        } else {
            Drawn::Refused { taken }
        }
    }
}

/// Where it is written down how much was taken from which account.
///
/// Whoever spends draws a block beforehand and spends it in memory; what is not needed is given back. So a store always knows at least as much as was
/// spent, and whoever dies takes no more than its open blocks along.
///
/// Every method may be called from many tasks, and where processes share a store, from many processes at once. No account may stand twice in one call.
#[async_trait]
pub trait BudgetStore: Send + Sync + 'static {
    /// Takes from each account what [`Draw::grant`] says, and answers each draw in order.
    ///
    /// *Exclusion*: whatever runs beside it, no more is granted from an account than its limits say, as long as all callers give the same ones.
    /// *Atomicity*: a draw is granted whole or refused, each for itself. *Durability*: that of the store; what was granted is still taken after a
    /// restart. After a temporary error the outcome is unknown: what may have been granted is lost, as if it were spent. An empty batch does nothing.
    ///
    /// `today` is noted as the last day on which the accounts were used.
    async fn draw(&self, draws: &[Draw], today: Day) -> Result<Vec<Drawn>>;

    /// Gives back what was drawn and not spent; an account never has less than nothing taken. After an error the outcome is unknown, and nobody may give the
    /// same back again.
    async fn give_back(&self, unused: &[(Account, Amounts)]) -> Result<()>;

    /// How much is taken from each account, in order: what was spent, and the blocks that are open. Nothing of one that nobody drew on.
    async fn taken(&self, accounts: &[Account]) -> Result<Vec<Amounts>>;

    /// Forgets accounts that were last used before this day, and says how many there were. The account of a task stays while the store keeps the task, if
    /// it keeps tasks.
    async fn forget(&self, before: Day) -> Result<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_gets_what_is_left_or_nothing() {
        let tokens = |tokens| Amounts { tokens, calls: 1, ..Amounts::ZERO };
        let draw = Draw {
            account: Account::Agent { name: "a".into(), day: Day::from_number(0) },
            limits: Limits { tokens: Some(100), calls: Some(3), ..Limits::NONE },
            wanted: tokens(40),
            least: tokens(10),
        };
        assert_eq!(draw.grant(Amounts::ZERO), Drawn::Granted(tokens(40)));
        assert_eq!(draw.grant(tokens(90)), Drawn::Granted(tokens(10)));
        assert_eq!(draw.grant(tokens(91)), Drawn::Refused { taken: tokens(91) });
        let calls = Amounts { calls: 3, ..Amounts::ZERO };
        assert_eq!(draw.grant(calls), Drawn::Refused { taken: calls }, "one measure is enough");
        let ahead = Draw { least: Amounts::ZERO, ..draw.clone() };
        assert_eq!(ahead.grant(Amounts { calls: 9, ..tokens(150) }), Drawn::Granted(Amounts::ZERO));
        let more = Draw { least: tokens(50), ..draw };
        assert_eq!(more.grant(Amounts::ZERO), Drawn::Granted(tokens(50)), "the least is wanted too");
    }
}
