//! The ledger: the blocks of this process, and the calls that reserve in them.

use std::{
    collections::HashMap,
    fmt, mem,
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
    store::{Account, Amounts, BudgetStore, Day, TaskStore},
};
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{
    book::{Asked, Book},
    config::{BudgetConfig, Want, Wants},
    driver::Driver,
    families::Families,
    refusal::{Denied, unknown},
};

/// How long a call waits for the store at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process may spend: blocks that it has drawn from the store, and spends in memory.
///
/// One for a process, which all its models share. A call that finds enough in the open blocks of its accounts waits for nothing; before they run out, more
/// is drawn beside the calls, and shortly before midnight the blocks of the next day. Only the first call on an account waits for the store, once for all
/// that come meanwhile, and one that takes more than is drawn ahead: that is a sixty-fourth of the limit, or four calls of the last one's size, an eighth of
/// the limit at most. So where a limit is good for less than eight calls, each of them waits.
///
/// What is free of a block beyond twice that goes back, blocks that nobody uses for a minute go back whole, and all of them with [`Ledger::close`]. A process
/// that dies without it takes its open blocks along: what its calls under way have reserved, and what is drawn ahead, or up to twice as much. As much of it is
/// lost to the account, until the limit is raised or the day is over.
///
/// What was spent beyond what was drawn is written down at once, whatever the limit says. Where the store does not say whether it was, it is not written
/// again.
pub struct Ledger {
    shared: Arc<Shared>,
    driver: Mutex<Option<Driver>>,
}

pub(super) struct Shared {
    config: BudgetConfig,
    pub(super) store: Arc<dyn BudgetStore>,
    pub(super) clock: Arc<dyn Clock>,
    families: Families,
    state: Mutex<State>,
    /// Wakes the one who draws.
    pub(super) work: Notify,
    pub(super) closing: AtomicBool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) book: Book,
    /// Those who wait, by their numbers.
    pub(super) calls: HashMap<u64, Call>,
}

/// A call that waits until more is drawn.
pub(super) struct Call {
    pub(super) wants: Wants,
    pub(super) need: Amounts,
    pub(super) answer: oneshot::Sender<Result<Hold, Denied>>,
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
        let driver = Driver::start(&shared);
        Self { shared, driver: Mutex::new(Some(driver)) }
    }

    /// Gives back what was drawn and not spent, and makes no call any more: later ones fail as unavailable, with the code `budget_unavailable`. What calls
    /// under way have reserved is not given back, so it is for when none are. A second call does nothing.
    pub async fn close(&self) {
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(driver) = driver else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.work.notify_one();
        driver.end().await;
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

    /// How long a call may wait for the store.
    fn patience(&self, deadline: Option<Timestamp>) -> Duration {
        deadline.map_or(PATIENCE, |deadline| self.shared.clock.now().until(deadline)).min(PATIENCE)
    }

    /// The accounts that a caller's calls draw on today, found out by the caller's deadline; none where nothing is limited.
    pub(super) async fn wants(&self, caller: &Caller) -> Result<Wants> {
        let Shared { config, families, .. } = &*self.shared;
        let task = match caller.task.filter(|_| !config.task.is_none()) {
            None => None,
            Some(task) => {
                let root = families.root(task, caller.parent, self.patience(caller.deadline)).await;
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
        match timeout(self.patience(deadline), called).await {
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
    pub(super) fn new(shared: &Arc<Shared>, wants: Wants, need: Amounts) -> Self {
        Self { shared: Arc::clone(shared), wants, need, open: true }
    }

    /// The call is over, and took so much.
    pub(super) fn settle(mut self, spent: Amounts) {
        self.end(spent);
    }

    fn end(&mut self, spent: Amounts) {
        if !mem::replace(&mut self.open, false) {
            return;
        }
        let now = self.shared.clock.elapsed();
        let is_uneven = {
            let mut state = self.shared.state();
            state.book.settle(&self.wants, self.need, spent, now);
            state.book.is_uneven()
        };
        if is_uneven {
            self.shared.work.notify_one();
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

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn today(&self) -> Day {
        Day::of(self.clock.now())
    }
}
