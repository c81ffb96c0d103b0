//! What is drawn, reserved and spent of every account, and who waits for more: computed, not done.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use sutazai_core::store::{Account, Amounts, Draw, Drawn, Limits};

use super::{block::Block, config::Wants, refusal::Refusal};

/// A block that nobody has used for so long goes back.
const IDLE: Duration = Duration::from_secs(60);

/// The blocks of this process. Moments are those of a clock that only grows.
#[derive(Debug, Default)]
pub(super) struct Book {
    blocks: HashMap<Account, Block>,
    /// Those that have little left for the next call.
    low: BTreeSet<Account>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    next: u64,
    closed: bool,
}

/// A call for which not enough is drawn.
#[derive(Debug)]
struct Waiting {
    id: u64,
    wants: Wants,
    need: Amounts,
}

/// What becomes of a call that wants to be made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It may be made: all it may take is reserved.
    Reserved,
    /// More has to be drawn first; it is known by this number.
    Waits(u64),
    Refused(Refusal),
}

/// What is to be drawn now.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) draws: Vec<Draw>,
    /// Calls of lower numbers wait for it.
    until: u64,
}

/// What became of a call that waited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Reserved,
    Refused(Refusal),
    /// The store did not say.
    Unknown,
}

/// What goes back to the store, and what was spent beyond what was drawn.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settlement {
    pub(super) unused: Vec<(Account, Amounts)>,
    pub(super) debts: Vec<Debt>,
}

/// What was spent of an account and never drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Debt {
    account: Account,
    amounts: Amounts,
    limits: Limits,
}

impl Debt {
    /// Writes it down, whatever the limits say: it is spent.
    pub(super) fn draw(&self) -> Draw {
        Draw { account: self.account.clone(), limits: Limits::NONE, wanted: self.amounts, least: self.amounts }
    }
}

impl Book {
    /// A call wants to be made that may take `need`.
    pub(super) fn ask(&mut self, wants: &Wants, need: Amounts, now: Duration) -> Asked {
        for want in wants.iter() {
            let block = self.blocks.entry(want.account.clone()).or_insert_with(|| Block::new(want.limits, now));
            block.used = now;
        }
        if let Some(refusal) = self.refusal(wants, need, now) {
            return Asked::Refused(refusal);
        }
        if self.suffices(wants, need) {
            self.reserve(wants, need, now);
            return Asked::Reserved;
        }
        let id = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting { id, wants: Arc::clone(wants), need });
        Asked::Waits(id)
    }

    /// A call that waited does so no more.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// A call is over that had reserved `need`.
    pub(super) fn settle(&mut self, wants: &Wants, need: Amounts, spent: Amounts, now: Duration) {
        if self.closed {
            return; // what it had reserved was not given back
        }
        for want in wants.iter() {
            if let Some(block) = self.blocks.get_mut(&want.account) {
                block.settle(block.part(need), spent, now);
            }
        }
    }

    /// Whether something should be drawn.
    pub(super) fn has_work(&self) -> bool {
        !self.low.is_empty() || !self.waiting.is_empty()
    }

    /// What to draw: enough for all who wait, the first of each account before all others, and for whoever comes next. Where nothing is to be drawn,
    /// those who wait have enough by now, and [`drawn`](Self::drawn) says so.
    pub(super) fn round(&mut self, now: Duration) -> Round {
        // What the first one lacks, and what all of them want.
        let mut needs: BTreeMap<&Account, (Amounts, Amounts)> = BTreeMap::new();
        for Waiting { wants, need, .. } in &self.waiting {
            for want in wants.iter() {
                let Some(block) = self.blocks.get(&want.account) else { continue };
                let part = block.part(*need);
                let (least, all) = needs.entry(&want.account).or_default();
                *all = all.plus(part);
                if least.is_zero() {
                    *least = block.lacks(part);
                }
            }
        }
        for account in &self.low {
            needs.entry(account).or_default();
        }
        let draws = needs.into_iter().filter_map(|(account, (least, all))| {
            let block = self.blocks.get(account)?;
            let wanted = block.wanted(all);
            let is_short = block.is_low(now) || !block.lacks(all).is_zero();
            let draw = || Draw { account: account.clone(), limits: block.limits, wanted, least };
            (is_short && !wanted.is_zero()).then(draw)
        });
        let draws = draws.collect();
        self.low.clear();
        Round { draws, until: self.next }
    }

    /// Takes in what a round brought, nothing if the store did not say, and answers those who waited for it.
    pub(super) fn drawn(&mut self, round: &Round, drawn: Option<&[Drawn]>, now: Duration) -> Vec<(u64, Outcome)> {
        let Some(drawn) = drawn else {
            let (failed, rest) = mem::take(&mut self.waiting).into_iter().partition(|waiting| waiting.id < round.until);
            self.waiting = rest;
            return failed.into_iter().map(|waiting: Waiting| (waiting.id, Outcome::Unknown)).collect();
        };
        for (draw, drawn) in round.draws.iter().zip(drawn) {
            let block = self.blocks.entry(draw.account.clone()).or_insert_with(|| Block::new(draw.limits, now));
            block.take(draw.wanted, *drawn, now);
        }
        let mut answers = Vec::new();
        for waiting in mem::take(&mut self.waiting) {
            let Waiting { id, wants, need } = &waiting;
            if self.suffices(wants, *need) {
                self.reserve(wants, *need, now);
                answers.push((*id, Outcome::Reserved));
            } else if let Some(refusal) = self.refusal(wants, *need, now) {
                answers.push((*id, Outcome::Refused(refusal)));
            } else {
                self.waiting.push_back(waiting);
            }
        }
        answers
    }

    /// Takes blocks out that nobody has used for long.
    pub(super) fn tidy(&mut self, now: Duration) -> Settlement {
        let awaited = self.waiting.iter().flat_map(|waiting| waiting.wants.iter().map(|want| &want.account));
        let awaited: BTreeSet<_> = awaited.collect();
        let is_idle = |block: &Block| block.calls == 0 && now.saturating_sub(block.used) >= IDLE;
        let idle = self.blocks.iter().filter(|(account, block)| is_idle(block) && !awaited.contains(*account));
        let idle: Vec<Account> = idle.map(|(account, _)| account.clone()).collect();
        let mut settlement = Settlement::default();
        for account in idle {
            if let Some(block) = self.blocks.remove(&account) {
                settlement.add(account, &block);
            }
        }
        settlement
    }

    /// Takes all blocks out, and has no more. What calls under way have reserved is as good as spent.
    pub(super) fn close(&mut self) -> Settlement {
        self.closed = true;
        self.waiting.clear();
        self.low.clear();
        let mut settlement = Settlement::default();
        for (account, block) in self.blocks.drain() {
            settlement.add(account, &block);
        }
        settlement
    }

    /// A debt that could not be written down stays one.
    pub(super) fn owe(&mut self, Debt { account, amounts, limits }: Debt, now: Duration) {
        if !self.closed {
            let block = self.blocks.entry(account).or_insert_with(|| Block::new(limits, now));
            block.spent = block.spent.plus(amounts);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    fn suffices(&self, wants: &Wants, need: Amounts) -> bool {
        let of = |account: &Account| self.blocks.get(account);
        wants.iter().all(|want| of(&want.account).is_some_and(|block| block.lacks(block.part(need)).is_zero()))
    }

    fn reserve(&mut self, wants: &Wants, need: Amounts, now: Duration) {
        for want in wants.iter() {
            let Some(block) = self.blocks.get_mut(&want.account) else { continue };
            block.reserve(block.part(need), now);
            if block.is_low(now) {
                self.low.insert(want.account.clone());
            }
        }
    }

    /// Why the call cannot be made, if that is known.
    fn refusal(&self, wants: &Wants, need: Amounts, now: Duration) -> Option<Refusal> {
        wants.iter().find_map(|want| {
            let block = self.blocks.get(&want.account)?;
            let shortage = block.shortage(block.part(need), now)?;
            Some(Refusal { account: want.account.clone(), shortage })
        })
    }
}

impl Settlement {
    fn add(&mut self, account: Account, block: &Block) {
        let (unused, debt) = (block.free(), block.debt());
        if !debt.is_zero() {
            self.debts.push(Debt { account: account.clone(), amounts: debt, limits: block.limits });
        }
        if !unused.is_zero() {
            self.unused.push((account, unused));
        }
    }
}
