//! The executions of this process: who runs, and how to stop them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified},
    time::Instant,
};

use crate::task::{Progress, TaskId};

/// How often a drain looks whether anything can still come to an end.
const LOOK: Duration = Duration::from_millis(50);

/// Why an execution must stop before its agent is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its task has ended or is somebody else's: nothing it could write counts.
    Void,
    /// The process shuts down: the task goes back to the queue.
    Release,
}

/// What an execution shares with its agent's context and with those who may stop it.
pub(crate) struct Control {
    /// The epoch of the grant.
    epoch: u64,
    began: Instant,
    /// Wake-ups of the task that this execution was told of.
    wakes: AtomicU64,
    /// Whether the task was told something while this execution was there.
    told: AtomicBool,
    stop: AtomicU8,
    stopped: Notify,
    progress: Mutex<Option<Progress>>,
    pub(crate) reported: Notify,
    poked: Notify,
    slot: Mutex<Slot>,
    /// The right to run was given to this execution.
    held: Notify,
    slots: Arc<Semaphore>,
}

/// The right to run, given back while all the agent does is wait for another one.
struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    /// Branches of the agent that wait.
    waits: usize,
    /// Effects under way, in other branches.
    works: usize,
}

impl Control {
    /// Of the execution that was granted at `epoch`.
    pub(crate) fn new(permit: OwnedSemaphorePermit, slots: Arc<Semaphore>, epoch: u64) -> Arc<Self> {
        Self::with(Some(permit), slots, epoch)
    }

    /// Of a run that takes no slot and that nobody stops.
    pub(crate) fn detached() -> Arc<Self> {
        Self::with(None, Arc::new(Semaphore::new(0)), 0)
    }

    fn with(permit: Option<OwnedSemaphorePermit>, slots: Arc<Semaphore>, epoch: u64) -> Arc<Self> {
        Arc::new(Self {
            epoch,
            began: Instant::now(),
            wakes: AtomicU64::new(0),
            told: AtomicBool::new(false),
            stop: AtomicU8::new(0),
            stopped: Notify::new(),
            progress: Mutex::new(None),
            reported: Notify::new(),
            poked: Notify::new(),
            slot: Mutex::new(Slot { permit, waits: 0, works: 0 }),
            held: Notify::new(),
            slots,
        })
    }

    /// The first reason counts.
    pub(crate) fn stop(&self, why: Stop) {
        let why = if why == Stop::Void { 1 } else { 2 };
        let _ = self.stop.compare_exchange(0, why, Ordering::SeqCst, Ordering::SeqCst);
        self.stopped.notify_waiters();
    }

    pub(crate) fn stop_wanted(&self) -> Option<Stop> {
        match self.stop.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Stop::Void),
            _ => Some(Stop::Release),
        }
    }

    pub(crate) async fn stopped(&self) -> Stop {
        loop {
            let next = self.stopped.notified();
            tokio::pin!(next);
            next.as_mut().enable(); // from here on no call of `stop` is missed
            if let Some(why) = self.stop_wanted() {
                return why;
            }
            next.await;
        }
    }

    /// The task was told something.
    pub(crate) fn poke(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.poked.notify_waiters();
    }

    /// Whether the task was told something since this execution entered. Once it has left, nobody takes the task for running any more, so the answer is final.
    pub(crate) fn was_told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }

    /// The next time that the task is told something.
    pub(crate) fn poked(&self) -> Notified<'_> {
        self.poked.notified()
    }

    /// Keeps the newest report; the execution writes it when the last one is old enough.
    pub(crate) fn report(&self, progress: Progress) {
        *lock(&self.progress) = Some(progress);
        self.reported.notify_one();
    }

    pub(crate) fn take_report(&self) -> Option<Progress> {
        lock(&self.progress).take()
    }

    /// Gives the right to run back until the guard is [`Waiting::over`], or an effect of another branch needs it.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        let mut slot = lock(&self.slot);
        slot.waits += 1;
        if slot.works == 0 {
            slot.permit = None;
        }
        Waiting { control: Arc::clone(self) }
    }

    /// Returns when an effect may run: with the right to run, which stays while the guard does, although other branches wait.
    pub(crate) async fn work(self: &Arc<Self>) -> Working {
        lock(&self.slot).works += 1;
        let working = Working { control: Arc::clone(self) };
        self.hold(|_| true).await;
        working
    }

    /// Returns when the right to run is held, or not needed any more. Of several branches that want it, all have it when one gets it.
    async fn hold(&self, needed: impl Fn(&Slot) -> bool) {
        loop {
            let held = self.held.notified();
            tokio::pin!(held);
            held.as_mut().enable();
            {
                let slot = lock(&self.slot);
                if slot.permit.is_some() || !needed(&slot) {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = held => {}
                permit = Arc::clone(&self.slots).acquire_owned() => {
                    let Ok(permit) = permit else { return };
                    let mut slot = lock(&self.slot);
                    if needed(&slot) {
                        slot.permit.get_or_insert(permit);
                        self.held.notify_waiters();
                    }
                    return;
                }
            }
        }
    }

    /// Lets go of the right to run for good: the agent is done.
    pub(crate) fn leave(&self) {
        lock(&self.slot).permit = None;
    }
}

/// Time in which an effect is under way.
pub(crate) struct Working {
    control: Arc<Control>,
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut slot = lock(&self.control.slot);
        slot.works -= 1;
        if slot.works == 0 && slot.waits > 0 {
            slot.permit = None;
        }
    }
}

/// Time in which an agent only waits for another one and holds no right to run.
pub(crate) struct Waiting {
    control: Arc<Control>,
}

impl Waiting {
    /// Waits for a free slot, unless the agent waits for something else still.
    pub(crate) async fn over(self) {
        let control = Arc::clone(&self.control);
        drop(self);
        // Another branch of the agent may wait again by then; the right is then for those whom it waits for.
        control.hold(|slot| slot.waits == 0).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut slot = lock(&self.control.slot);
        slot.waits -= 1;
        // Who gives up waiting goes on: with a slot, if one is free at once.
        if slot.waits == 0 && slot.permit.is_none() && self.control.stop_wanted().is_none() {
            slot.permit = Arc::clone(&self.control.slots).try_acquire_owned().ok();
            self.control.held.notify_waiters();
        }
    }
}

/// The executions of this process by task.
#[derive(Default)]
pub(crate) struct Executions {
    running: Mutex<BTreeMap<TaskId, Arc<Control>>>,
    idle: Notify,
    /// How many gave their task back.
    released: AtomicUsize,
}

impl Executions {
    pub(crate) fn enter(self: &Arc<Self>, id: TaskId, control: &Arc<Control>) -> Entered {
        lock(&self.running).insert(id, Arc::clone(control));
        Entered { executions: Arc::clone(self), id, control: Arc::clone(control) }
    }

    pub(crate) fn has_released(&self) {
        self.released.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn released(&self) -> usize {
        self.released.load(Ordering::SeqCst)
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.running).len()
    }

    /// Stops the execution of a task whose grant is older than `epoch`: nothing it could write counts. A later one is another's business.
    pub(crate) fn void(&self, id: TaskId, epoch: u64) {
        if let Some(control) = lock(&self.running).get(&id).filter(|control| control.epoch < epoch) {
            control.stop(Stop::Void);
        }
    }

    /// The tasks of executions that have gone on for so long.
    pub(crate) fn older_than(&self, age: Duration) -> Vec<TaskId> {
        lock(&self.running).iter().filter(|(_, control)| control.began.elapsed() >= age).map(|(id, _)| *id).collect()
    }

    /// Pokes an execution whose task has had more wake-ups than it was told of.
    pub(crate) fn woken(&self, id: TaskId, wakes: u64) {
        if let Some(control) = lock(&self.running).get(&id)
            && control.wakes.fetch_max(wakes, Ordering::SeqCst) < wakes
        {
            control.poke();
        }
    }

    pub(crate) fn contains(&self, id: TaskId) -> bool {
        lock(&self.running).contains_key(&id)
    }

    /// Tells an execution here that its task was told something; false if there is none.
    pub(crate) fn poke(&self, id: TaskId) -> bool {
        lock(&self.running).get(&id).map(|control| control.poke()).is_some()
    }

    /// Notes that a child of a task has ended, which its execution here sees by itself unless it is on its way out; false if there is none.
    pub(crate) fn told(&self, id: TaskId) -> bool {
        lock(&self.running).get(&id).map(|control| control.told.store(true, Ordering::SeqCst)).is_some()
    }

    /// Whether all that is left waits for tasks that nobody here executes.
    fn is_stuck(&self) -> bool {
        let waits = |control: &Arc<Control>| {
            let slot = lock(&control.slot);
            slot.waits > 0 && slot.works == 0
        };
        lock(&self.running).values().all(waits)
    }

    pub(crate) fn stop_all(&self, why: Stop) {
        for control in lock(&self.running).values() {
            control.stop(why);
        }
    }

    /// Returns when nothing runs.
    pub(crate) async fn idle(&self) {
        loop {
            let next = self.idle.notified();
            tokio::pin!(next);
            next.as_mut().enable();
            if self.len() == 0 {
                return;
            }
            next.await;
        }
    }

    /// Returns when nothing runs, or when what runs only waits for tasks that will not be begun any more.
    pub(crate) async fn drained(&self) {
        let mut stuck = 0;
        while stuck < 3 {
            if tokio::time::timeout(LOOK, self.idle()).await.is_ok() {
                return;
            }
            // Between two calls an agent waits for nothing, if only for a moment: one look could be wrong.
            stuck = if self.is_stuck() { stuck + 1 } else { 0 };
        }
    }
}

/// One execution's place in the list; leaves it when dropped.
pub(crate) struct Entered {
    executions: Arc<Executions>,
    id: TaskId,
    control: Arc<Control>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // What the agent handed to threads learns that nobody waits for it any more.
        self.control.stop(Stop::Void);
        self.control.leave();
        let mut running = lock(&self.executions.running);
        // The task's next execution may have entered already.
        if running.get(&self.id).is_some_and(|control| Arc::ptr_eq(control, &self.control)) {
            running.remove(&self.id);
        }
        if running.is_empty() {
            self.executions.idle.notify_waiters();
        }
    }
}

/// These locks guard plain data that no panic leaves half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
