//! What is drawn, reserved and spent of every account, and who waits for more: computed, not done.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use sutazai_core::store::{Account, Amounts, Day, Draw, Drawn, Limits};

use super::{block::Block, config::Wants, refusal::Refusal};

/// Within so long other processes give back what they have drawn of a task's account and do not use.
const ELSEWHERE: Duration = Duration::from_secs(90);

/// For so long it is remembered that a task's account was too small.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// The blocks of this process. Moments are those of a clock that only grows.
#[derive(Debug, Default)]
pub(super) struct Book {
    blocks: HashMap<Account, Block>,
    /// Those that have little left for the next call.
    low: BTreeSet<Account>,
    /// Those that hold more than they should, or owe something.
    uneven: BTreeSet<Account>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    next: u64,
    /// Accounts of tasks that are too small for a call, unless others give something back, and since when.
    short: HashMap<Account, Duration>,
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
            self.blocks.entry(want.account.clone()).or_insert_with(|| Block::new(want.limits, now));
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
            let Some(block) = self.blocks.get_mut(&want.account) else { continue };
            block.settle(block.part(need), spent, now);
            if block.is_uneven() {
                self.uneven.insert(want.account.clone());
            }
        }
    }

    /// A day is about to begin: of the accounts that are in use their next ones are drawn on ahead, so that not all wait at midnight.
    pub(super) fn prepare(&mut self, day: Day, now: Duration) {
        let today = day.plus(-1);
        let in_use = self.blocks.iter().filter(|(account, block)| account.day() == Some(today) && !block.is_idle(now));
        let next = in_use.filter_map(|(account, block)| Some((of_day(account, day)?, block.of_next_day(now))));
        for (account, block) in next.collect::<Vec<_>>() {
            self.low.insert(account.clone());
            self.blocks.entry(account).or_insert(block);
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
        let answers = self.answers(now);
        for Draw { account, .. } in &round.draws {
            // Who waited may have left.
            if self.blocks.get(account).is_some_and(Block::is_uneven) {
                self.uneven.insert(account.clone());
            }
        }
        answers
    }

    /// Those who wait no longer, with what became of them.
    fn answers(&mut self, now: Duration) -> Vec<(u64, Outcome)> {
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

    /// Whether a block should be looked at that holds too much, or owes something.
    pub(super) fn is_uneven(&self) -> bool {
        !self.uneven.is_empty()
    }

    /// What was spent and never drawn, to be written down.
    pub(super) fn debts(&self) -> Vec<Debt> {
        let owed = |account: &Account| {
            let amounts = self.blocks.get(account)?.debt();
            (!amounts.is_zero()).then(|| Debt { account: account.clone(), amounts })
        };
        self.uneven.iter().filter_map(owed).collect()
    }

    /// These are written down, or may be: they are not charged again.
    pub(super) fn paid(&mut self, debts: &[Debt]) {
        for Debt { account, amounts } in debts {
            if let Some(block) = self.blocks.get_mut(account) {
                block.paid(*amounts);
            }
        }
    }

    /// Takes out of blocks in use what they hold beyond what they should, unless somebody waits for it.
    pub(super) fn surplus(&mut self) -> Vec<(Account, Amounts)> {
        let awaited = awaited(&self.waiting);
        let mut surplus = Vec::new();
        for account in self.uneven.iter().filter(|account| !awaited.contains(*account)) {
            let Some(block) = self.blocks.get_mut(account) else { continue };
            let unused = block.surplus();
            if !unused.is_zero() {
                block.give_back(unused);
                surplus.push((account.clone(), unused));
            }
        }
        let blocks = &self.blocks;
        self.uneven.retain(|account| blocks.get(account).is_some_and(Block::is_uneven));
        surplus
    }

    /// Takes blocks out that nobody has used for long and that owe nothing, and says what of them was not spent.
    pub(super) fn tidy(&mut self, now: Duration) -> Vec<(Account, Amounts)> {
        self.short.retain(|_, since| now.saturating_sub(*since) < REMEMBERED);
        let awaited = awaited(&self.waiting);
        let is_done = |account: &Account, block: &Block| {
            block.is_idle(now) && block.debt().is_zero() && !awaited.contains(account)
        };
        let done = self.blocks.extract_if(|account, block| is_done(account, block));
        let unused = done.map(|(account, block)| (account, block.free()));
        unused.filter(|(_, unused)| !unused.is_zero()).collect()
    }

    /// Takes all blocks out, and has no more. What calls under way have reserved is as good as spent.
    pub(super) fn close(&mut self) -> Settlement {
        self.closed = true;
        self.waiting.clear();
        self.low.clear();
        self.uneven.clear();
        let mut settlement = Settlement::default();
        for (account, block) in self.blocks.drain() {
            settlement.add(account, &block);
        }
        settlement
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
            self.short.remove(&want.account);
        }
    }

    /// Why the call cannot be made, if that is known.
    fn refusal(&mut self, wants: &Wants, need: Amounts, now: Duration) -> Option<Refusal> {
        let (account, shortage) = wants.iter().find_map(|want| {
            let block = self.blocks.get(&want.account)?;
            Some((&want.account, block.shortage(block.part(need), now)?))
        })?;
        let mut others = None;
        if account.task().is_some() && shortage.elsewhere && !shortage.held {
            // What others draw they use or give back; what is missing after that is spent.
            let since = *self.short.entry(account.clone()).or_insert(now);
            others = ELSEWHERE.checked_sub(now.saturating_sub(since)).filter(|rest| !rest.is_zero());
        }
        Some(Refusal { account: account.clone(), shortage, others })
    }
}

/// The accounts that somebody waits for.
fn awaited(waiting: &VecDeque<Waiting>) -> BTreeSet<&Account> {
    waiting.iter().flat_map(|waiting| waiting.wants.iter().map(|want| &want.account)).collect()
}

/// The same account on another day.
fn of_day(account: &Account, day: Day) -> Option<Account> {
    match account {
        Account::Agent { name, .. } => Some(Account::Agent { name: Arc::clone(name), day }),
        Account::Tenant { name, .. } => Some(Account::Tenant { name: Arc::clone(name), day }),
        _ => None,
    }
}

impl Settlement {
    fn add(&mut self, account: Account, block: &Block) {
        let (unused, debt) = (block.free(), block.debt());
        if !debt.is_zero() {
            self.debts.push(Debt { account: account.clone(), amounts: debt });
        }
        if !unused.is_zero() {
            self.unused.push((account, unused));
        }
    }
}
