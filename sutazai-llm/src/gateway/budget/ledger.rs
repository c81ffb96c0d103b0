//! The ledger: the blocks of this process, and the one task that draws them from the store and gives them back.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sutazai_core::{
    Result,
    clock::{Clock, Timestamp},
    model::Caller,
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn, TaskStore},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{
    book::{Asked, Book, Debt, Outcome, Round, Settlement},
    config::{BudgetConfig, Want, Wants},
    families::Families,
    refusal::{Denied, unknown},
};

/// How often blocks that nobody uses are looked for.
const EVERY: Duration = Duration::from_secs(15);

/// How long a call waits for the store at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// Days that accounts are kept after their last use.
const KEPT: i64 = 32;

/// When old accounts are first forgotten, and how often then.
const FORGET_FIRST: Duration = Duration::from_secs(5 * 60);
const FORGET_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What a process may spend: blocks that it has drawn from the store, and spends in memory.
///
/// One for a process, which all its models share. A call that finds enough in the open blocks of its accounts waits for nothing; before they run out, more
/// is drawn beside the calls. Blocks that nobody uses for a minute go back, and all of them with [`Ledger::close`]. A process that dies without it takes
/// its open blocks along: a sixty-fourth of a limit each, or four calls of the last one's size, an eighth of the limit at most unless one call takes
/// more. As much of it is lost to the account, until the limit is raised or the day is over.
pub struct Ledger {
    shared: Arc<Shared>,
    driver: Mutex<Option<Driver>>,
}

/// The task that draws, which ends with whoever holds this.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Shared {
    config: BudgetConfig,
    store: Arc<dyn BudgetStore>,
    clock: Arc<dyn Clock>,
    families: Families,
    state: Mutex<State>,
    /// Wakes the one who draws.
    work: Notify,
    closing: AtomicBool,
}

#[derive(Default)]
struct State {
    book: Book,
    /// Those who wait, by their numbers.
    calls: HashMap<u64, Call>,
}

struct Call {
    wants: Wants,
    need: Amounts,
    answer: oneshot::Sender<Result<Hold, Denied>>,
}

impl Ledger {
    /// The ledger over this store, with days and deadlines by `clock`. `tasks` is where the ancestors of a task are looked up, once for each task that was
    /// called for; without it a child spends what its parent may spend, and no further.
    ///
    /// Must be called inside a Tokio runtime with time enabled.
    #[must_use]
    pub fn start(
        store: Arc<dyn BudgetStore>,
        tasks: Option<Arc<dyn TaskStore>>,
        config: BudgetConfig,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let shared = Arc::new(Shared {
            config,
            store,
            clock,
            families: Families::new(tasks),
            state: Mutex::default(),
            work: Notify::new(),
            closing: AtomicBool::new(false),
        });
        let driver = Driver(tokio::spawn(drive(Arc::clone(&shared))));
        Self { shared, driver: Mutex::new(Some(driver)) }
    }

    /// Gives back what was drawn and not spent, and makes no call any more: later ones fail as unavailable, with the code `budget_unavailable`. What calls
    /// under way have reserved is not given back, so it is for when none are. A second call does nothing.
    pub async fn close(&self) {
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut driver) = driver else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.work.notify_one();
        if let Err(error) = (&mut driver.0).await {
            tracing::error!(%error, "what draws on budgets broke off; what it had drawn is lost");
        }
    }

    pub(super) fn config(&self) -> &BudgetConfig {
        &self.shared.config
    }

    pub(super) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// The accounts that a caller's calls draw on today; none where nothing is limited.
    pub(super) async fn wants(&self, caller: &Caller) -> Result<Wants> {
        let Shared { config, families, .. } = &*self.shared;
        let task = match caller.task.filter(|_| !config.task.is_none()) {
            None => None,
            Some(task) => {
                let root = families.root(task, caller.parent).await;
                let root = root.map_err(|error| unknown(&error.report()))?;
                Want::of(Account::Task(root), config.task)
            }
        };
        let day = self.shared.today();
        let agent = caller.agent.as_ref().and_then(|agent| config.agent(agent, day));
        let tenant = caller.tenant.clone().unwrap_or_else(|| caller.tenant().into());
        Ok([task, agent, config.tenant(tenant, day)].into_iter().flatten().collect())
    }

    /// Reserves `need` in all of these accounts, once enough is drawn, by the caller's deadline.
    pub(super) async fn reserve(
        &self,
        wants: Wants,
        need: Amounts,
        deadline: Option<Timestamp>,
    ) -> Result<Hold, Denied> {
        let shared = &self.shared;
        let (called, _seat) = {
            let mut state = shared.state();
            if state.book.is_closed() {
                return Err(Denied::Unknown(unknown("the process is about to end")));
            }
            match state.book.ask(&wants, need, shared.clock.elapsed()) {
                Asked::Reserved => {
                    if state.book.has_work() {
                        shared.work.notify_one();
                    }
                    return Ok(Hold::new(shared, wants, need));
                }
                Asked::Refused(refusal) => return Err(Denied::Refused(refusal)),
                Asked::Waits(id) => {
                    let (answer, called) = oneshot::channel();
                    state.calls.insert(id, Call { wants, need, answer });
                    (called, Seat { shared, id })
                }
            }
        };
        shared.work.notify_one();
        let left = deadline.map_or(PATIENCE, |deadline| shared.clock.now().until(deadline));
        match timeout(left.min(PATIENCE), called).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Denied::Unknown(unknown("the process is about to end"))),
            Err(_) => Err(Denied::Unknown(unknown("the store does not answer in time"))),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// A call that waits until this is dropped.
struct Seat<'l> {
    shared: &'l Shared,
    id: u64,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let call = {
            let mut state = self.shared.state();
            state.book.leave(self.id);
            state.calls.remove(&self.id)
        };
        drop(call);
    }
}

/// What is reserved for a call, until it is settled. Dropped, all of it comes back.
pub(super) struct Hold {
    shared: Arc<Shared>,
    wants: Wants,
    need: Amounts,
    open: bool,
}

impl Hold {
    fn new(shared: &Arc<Shared>, wants: Wants, need: Amounts) -> Self {
        Self { shared: Arc::clone(shared), wants, need, open: true }
    }

    /// The call is over, and took so much.
    pub(super) fn settle(mut self, spent: Amounts) {
        self.end(spent);
    }

    fn end(&mut self, spent: Amounts) {
        if std::mem::replace(&mut self.open, false) {
            let now = self.shared.clock.elapsed();
            self.shared.state().book.settle(&self.wants, self.need, spent, now);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.end(Amounts::ZERO);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("need", &self.need).finish_non_exhaustive()
    }
}

/// Draws whenever somebody needs it, and looks after the blocks in between, until the ledger is closed.
async fn drive(shared: Arc<Shared>) {
    let began = shared.clock.elapsed();
    let (mut tidied, mut forget_at) = (began, began.saturating_add(FORGET_FIRST));
    loop {
        let _ = timeout(EVERY, shared.work.notified()).await;
        shared.draw().await;
        if shared.closing.load(Ordering::SeqCst) {
            return shared.close().await;
        }
        let now = shared.clock.elapsed();
        if now.saturating_sub(tidied) >= EVERY {
            tidied = now;
            shared.tidy(now).await;
        }
        if now >= forget_at {
            forget_at = now.saturating_add(FORGET_EVERY);
            shared.forget().await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn today(&self) -> Day {
        Day::of(self.clock.now())
    }

    /// Draws until nobody waits and no block is low.
    async fn draw(self: &Arc<Self>) {
        while self.state().book.has_work() {
            let round = self.state().book.round(self.clock.elapsed());
            if round.draws.is_empty() {
                if self.answer(&round, Ok(Vec::new())) == 0 {
                    return;
                }
                continue;
            }
            let drawn = self.store.draw(&round.draws, self.today()).await;
            if let Err(error) = &drawn {
                tracing::warn!(error = %error.report(), "budgets cannot be drawn on; calls that need it are refused");
            }
            self.answer(&round, drawn);
        }
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

    async fn tidy(&self, now: Duration) {
        let settlement = self.state().book.tidy(now);
        self.settle_up(settlement).await;
    }

    async fn close(&self) {
        let (settlement, calls) = {
            let mut state = self.state();
            (state.book.close(), std::mem::take(&mut state.calls))
        };
        drop(calls);
        self.settle_up(settlement).await;
    }

    async fn settle_up(&self, Settlement { unused, debts }: Settlement) {
        if !unused.is_empty()
            && let Err(error) = self.store.give_back(&unused).await
        {
            // It may have come back: to say it again could give back what was spent.
            let accounts = unused.len();
            tracing::warn!(accounts, error = %error.report(), "parts of budgets may not have come back and are lost");
        }
        if debts.is_empty() {
            return;
        }
        let draws: Vec<Draw> = debts.iter().map(Debt::draw).collect();
        if let Err(error) = self.store.draw(&draws, self.today()).await {
            tracing::warn!(error = %error.report(), "what was spent beyond what was drawn cannot be written down yet");
            let (mut state, now) = (self.state(), self.clock.elapsed());
            debts.into_iter().for_each(|debt| state.book.owe(debt, now));
        }
    }

    async fn forget(&self) {
        match self.store.forget(self.today().plus(-KEPT)).await {
            Ok(0) => {}
            Ok(accounts) => tracing::debug!(accounts, "forgot budgets that were not used for long"),
            Err(error) => tracing::warn!(error = %error.report(), "old budgets cannot be forgotten"),
        }
    }
}
