//! What draws blocks from the store and gives them back: one task, beside the calls. Another one has the store forget old accounts.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sutazai_core::{
    Result,
    store::{Account, Amounts, Day, Draw, Drawn},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    book::{Debt, Outcome, Round, Settlement},
    ledger::{Call, Hold, Shared, State},
    refusal::{Denied, unknown},
};

/// How often blocks that nobody uses are looked for.
const EVERY: Duration = Duration::from_secs(15);

/// So long before a day begins its blocks are drawn; less than a block may lie idle, and more than passes between two turns.
const AHEAD: Duration = Duration::from_secs(30);

/// Days that accounts are kept after their last use.
const KEPT: i64 = 32;

/// When old accounts are first forgotten, and how often then.
const FORGET_FIRST: Duration = Duration::from_secs(5 * 60);
const FORGET_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// The tasks beside the calls, which end with whoever holds this.
pub(super) struct Driver {
    drawing: JoinHandle<()>,
    forgetting: JoinHandle<()>,
}

impl Driver {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        Self { drawing: tokio::spawn(drive(Arc::clone(shared))), forgetting: tokio::spawn(forget(Arc::clone(shared))) }
    }

    /// Waits until everything is given back, after the ledger has been told to close.
    pub(super) async fn end(mut self) {
        self.forgetting.abort();
        // Until it has let go of the store. That it was cut short is no news.
        let _ = (&mut self.forgetting).await;
        if let Err(error) = (&mut self.drawing).await {
            tracing::error!(%error, "what draws on budgets broke off; what it had drawn is lost");
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.drawing.abort();
        self.forgetting.abort();
    }
}

/// What came of a turn to draw.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There was nothing to do, or all of it is done.
    Done,
    /// More is to be drawn at once.
    More,
    /// The store does not work.
    Failed,
}

/// Draws whenever somebody needs it, and looks after the blocks in between, until the ledger is closed. However much is drawn, each turn draws once, and
/// everything else has its place in it.
async fn drive(shared: Arc<Shared>) {
    let (mut tidied, mut prepared) = (shared.clock.elapsed(), shared.today());
    let mut turn = Turn::Done;
    loop {
        if turn != Turn::More {
            let _ = timeout(EVERY, shared.work.notified()).await;
        }
        shared.prepare(&mut prepared);
        turn = shared.draw().await;
        // A store that does not work would leave it open whether debts are written down.
        if turn != Turn::Failed {
            shared.even_out().await;
        }
        if shared.closing.load(Ordering::SeqCst) {
            return shared.close().await;
        }
        let now = shared.clock.elapsed();
        if now.saturating_sub(tidied) >= EVERY {
            tidied = now;
            let unused = shared.state().book.tidy(now);
            shared.give_back(&unused).await;
        }
    }
}

/// Has the store forget old accounts now and then, however long that takes.
async fn forget(shared: Arc<Shared>) {
    let mut pause = FORGET_FIRST;
    loop {
        sleep(pause).await;
        pause = FORGET_EVERY;
        match shared.store.forget(shared.today().plus(-KEPT)).await {
            Ok(0) => {}
            Ok(accounts) => tracing::debug!(accounts, "forgot budgets that were not used for long"),
            Err(error) => tracing::warn!(error = %error.report(), "old budgets cannot be forgotten"),
        }
    }
}

impl Shared {
    /// Has the blocks of the next day drawn, once, when it is about to begin.
    fn prepare(&self, prepared: &mut Day) {
        let soon = Day::of(self.clock.now().plus(AHEAD));
        if soon > *prepared {
            *prepared = soon;
            self.state().book.prepare(soon, self.clock.elapsed());
        }
    }

    /// Draws once, for all who wait and for every block that is low.
    async fn draw(self: &Arc<Self>) -> Turn {
        if !self.state().book.has_work() {
            return Turn::Done;
        }
        let round = self.state().book.round(self.clock.elapsed());
        let draws = &round.draws;
        let drawn = if draws.is_empty() { Ok(Vec::new()) } else { self.store.draw(draws, self.today()).await };
        if let Err(error) = &drawn {
            tracing::warn!(error = %error.report(), "budgets cannot be drawn on; calls that need it are refused");
        }
        let works = drawn.is_ok();
        let told = self.answer(&round, drawn);
        if !works {
            return Turn::Failed;
        }
        // Where nothing was drawn and nobody told, another round would be the same.
        let goes_on = !round.draws.is_empty() || told > 0;
        if goes_on && self.state().book.has_work() { Turn::More } else { Turn::Done }
    }

    /// Tells those who waited, and says how many they were. Not under the lock: who has left meanwhile gives back what was reserved, and takes it for that.
    fn answer(self: &Arc<Self>, round: &Round, drawn: Result<Vec<Drawn>>) -> usize {
        let (drawn, why) = match drawn {
            Ok(drawn) => (Some(drawn), String::new()),
            Err(error) => (None, error.report()),
        };
        let answers: Vec<_> = {
            let mut state = self.state();
            let State { book, calls } = &mut *state;
            let answers = book.drawn(round, drawn.as_deref(), self.clock.elapsed());
            answers.into_iter().filter_map(|(id, outcome)| Some((calls.remove(&id)?, outcome))).collect()
        };
        let told = answers.len();
        for (Call { wants, need, answer }, outcome) in answers {
            let outcome = match outcome {
                Outcome::Reserved => Ok(Hold::new(self, wants, need)),
                Outcome::Refused(refusal) => Err(Denied::Refused(refusal)),
                Outcome::Unknown => Err(Denied::Unknown(unknown(&why))),
            };
            drop(answer.send(outcome));
        }
        told
    }

    /// Writes down what is owed, and gives back what blocks in use hold beyond what they should.
    async fn even_out(&self) {
        let debts = self.state().book.debts();
        if self.write_down(&debts).await {
            self.state().book.paid(&debts);
        }
        let surplus = self.state().book.surplus();
        self.give_back(&surplus).await;
    }

    /// Takes out of the store what was spent and never drawn, and says whether that is done or may be: what may be written down is not written again.
    async fn write_down(&self, debts: &[Debt]) -> bool {
        if debts.is_empty() {
            return true;
        }
        let draws: Vec<Draw> = debts.iter().map(Debt::draw).collect();
        let Err(error) = self.store.draw(&draws, self.today()).await else { return true };
        let accounts = debts.len();
        tracing::warn!(accounts, error = %error.report(), "what was spent beyond what was drawn may not be written down");
        error.is_temporary()
    }

    async fn give_back(&self, unused: &[(Account, Amounts)]) {
        if unused.is_empty() {
            return;
        }
        if let Err(error) = self.store.give_back(unused).await {
            // It may have come back: to say it again could give back what was spent.
            let accounts = unused.len();
            tracing::warn!(accounts, error = %error.report(), "parts of budgets may not have come back and are lost");
        }
    }

    async fn close(&self) {
        let (Settlement { unused, debts }, calls) = {
            let mut state = self.state();
            (state.book.close(), mem::take(&mut state.calls))
        };
        drop(calls);
        self.give_back(&unused).await;
        self.write_down(&debts).await;
    }
}
