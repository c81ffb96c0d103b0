//! Who waits, who runs and what is in memory, and the doing of what the policy decides.

mod leave;
mod seen;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use sutazai_core::{
    Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    model::{Caller, ChatModel, EmbeddingModel, ModelInfo},
};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::Instant,
};

use super::{
    config::AdmissionConfig,
    estimate::{ANSWER, Mean, Reading, loading},
    permit::Permit,
    policy::{Action, Limits, ModelView, Moment, Residence, View, Waiting, decide},
};
use crate::gateway::observer::GatewayObserver;

/// After so long what a tenant had counts half.
const HALF_LIFE: f64 = 300.0;

/// Tenants that are remembered; beyond them those that had least are forgotten.
const TENANTS: usize = 1_000;

/// What admission brings into memory and out again.
#[derive(Clone)]
pub(super) enum Resident {
    Chat(Arc<dyn ChatModel>),
    Embedding(Arc<dyn EmbeddingModel>),
}

impl Resident {
    pub(super) fn info(&self) -> &ModelInfo {
        match self {
            Self::Chat(model) => model.info(),
            Self::Embedding(model) => model.info(),
        }
    }

    async fn load(&self) -> Result<()> {
        match self {
            Self::Chat(model) => model.load().await,
            Self::Embedding(model) => model.load().await,
        }
    }

    async fn unload(&self) -> Result<()> {
        match self {
            Self::Chat(model) => model.unload().await,
            Self::Embedding(model) => model.unload().await,
        }
    }
}

/// A model of the backend, and what it has cost so far.
struct Model {
    resident: Resident,
    load: Mean,
    service: Mean,
    /// From the beginning of a call to its first piece.
    prefill: Reading,
    /// Told when nothing of it runs any more, and when it has come or gone.
    changed: Arc<Notify>,
    /// Whether it is known to be in memory: where a model is that could not be loaded, the policy takes it to be, so that whoever waits for it is told.
    is_here: bool,
}

/// Someone who waits; stands at the same place as its [`Waiting`].
struct Seat {
    id: u64,
    tenant: Arc<str>,
    call: oneshot::Sender<Permit>,
}

#[derive(Default)]
struct Desk {
    models: Vec<Model>,
    views: Vec<ModelView>,
    waiting: Vec<Waiting>,
    seats: Vec<Seat>,
    /// Seconds of the backend that each tenant had, and as of when.
    had: HashMap<Arc<str>, (f64, Moment)>,
    next: u64,
    timer: Option<AbortHandle>,
}

/// The admission of one backend.
pub(super) struct Shared {
    pub(super) config: AdmissionConfig,
    pub(super) backend: String,
    pub(super) observer: Arc<dyn GatewayObserver>,
    began: Instant,
    /// Where loads run, known once somebody has come.
    runtime: OnceLock<Handle>,
    desk: Mutex<Desk>,
}

impl Shared {
    pub(super) fn new(backend: String, config: AdmissionConfig, observer: Arc<dyn GatewayObserver>) -> Self {
        Self { config, backend, observer, began: Instant::now(), runtime: OnceLock::new(), desk: Mutex::default() }
    }

    pub(super) fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a model; those of the same weights and context are one.
    pub(super) fn place(&self, resident: Resident) -> usize {
        let key = |info: &ModelInfo| (info.digest.clone().unwrap_or_else(|| info.name.clone()), info.context_length);
        let mut desk = self.desk();
        let wanted = key(resident.info());
        if let Some(place) = desk.models.iter().position(|model| key(model.resident.info()) == wanted) {
            return place;
        }
        let memory = resident.info().memory.unwrap_or(0);
        let model = Model {
            resident,
            load: Mean::default(),
            service: Mean::default(),
            prefill: Reading::default(),
            changed: Arc::default(),
            is_here: false,
        };
        desk.views.push(ModelView { load: loading(memory), service: ANSWER, memory, ..ModelView::default() });
        desk.models.push(model);
        desk.models.len() - 1
    }

    /// Waits for the turn of a request for the model at `place`.
    pub(super) async fn enter(self: &Arc<Self>, place: usize, caller: &Caller) -> Result<Permit> {
        let _ = self.runtime.set(Handle::current());
        let now = self.now();
        let left = caller.deadline.map(|deadline| SystemClock.now().until(deadline));
        if left == Some(Duration::ZERO) {
            return Err(late());
        }
        let tenant: Arc<str> = caller.tenant.clone().unwrap_or_else(|| caller.tenant().into());
        let (call, called) = oneshot::channel();
        let id = {
            let mut desk = self.desk();
            self.has_room(&desk, place)?;
            let id = desk.next;
            desk.next += 1;
            let had = desk.had(&tenant, now);
            let deadline = left.map(|left| now.saturating_add(left));
            desk.waiting.push(Waiting { model: place, arrived: now, priority: caller.priority, deadline, had });
            desk.seats.push(Seat { id, tenant, call });
            self.drive(desk);
            id
        };
        let _seat = Seated { shared: self, id };
        let patience = self.config.queue_timeout;
        match tokio::time::timeout(left.map_or(patience, |left| left.min(patience)), called).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => {
                Err(Error::new(ErrorKind::Unavailable, "the model's queue is gone").with_code("model_unavailable"))
            }
            Err(_) if left.is_some_and(|left| left <= patience) => Err(late()),
            Err(_) => Err(full(format!("no turn came within {} s; try again later", patience.as_secs()))),
        }
    }

    fn has_room(&self, desk: &Desk, place: usize) -> Result<()> {
        let memory = desk.views.get(place).map_or(0, |view| view.memory);
        if let Some(limit) = self.config.memory.filter(|limit| memory > *limit) {
            let message = format!("the model takes {memory} bytes of memory, and {limit} are there for models");
            // As of every backend that says so: to ask again brings no memory.
            return Err(Error::new(ErrorKind::Failed, message).with_code("out_of_memory"));
        }
        if desk.waiting.len() >= self.config.max_waiting {
            return Err(full(format!("{} requests wait for this backend; try again later", desk.waiting.len())));
        }
        Ok(())
    }

    /// Does what the policy says until it says to wait. Loads begin after the desk is free again: a runtime that ends drops at once what it is given, and
    /// a load that is dropped comes back to the desk.
    fn drive(self: &Arc<Self>, mut guard: MutexGuard<'_, Desk>) {
        let desk = &mut *guard;
        let mut loads = Vec::new();
        let limits = Limits {
            parallel: self.config.max_parallel,
            loaded: self.config.max_loaded_models,
            memory: self.config.memory,
            age: self.config.age_limit,
        };
        let wake = loop {
            let view = View { now: self.now(), limits, models: &desk.views, waiting: &desk.waiting };
            match decide(&view) {
                Action::Begin(place) => self.begin(desk, place),
                Action::Load { model, instead } => loads.push(self.load(desk, model, &instead)),
                Action::Wait(until) => break until,
            }
        };
        if let Some(timer) = desk.timer.take() {
            timer.abort();
        }
        if let (Some(until), Some(runtime)) = (wake, self.runtime.get()) {
            let shared = Arc::clone(self);
            let at = self.began + until.max(self.now() + Duration::from_millis(1));
            let timer = runtime.spawn(async move {
                tokio::time::sleep_until(at).await;
                shared.drive(shared.desk());
            });
            desk.timer = Some(timer.abort_handle());
        }
        self.observer.queued(&self.backend, desk.waiting.len());
        drop(guard);
        if let Some(runtime) = self.runtime.get() {
            loads.into_iter().for_each(|load| drop(runtime.spawn(load)));
        }
    }

    fn begin(self: &Arc<Self>, desk: &mut Desk, place: usize) {
        let waiting = desk.waiting.swap_remove(place);
        let seat = desk.seats.swap_remove(place);
        let now = self.now();
        let view = &mut desk.views[waiting.model];
        view.running += 1;
        let permit = Permit::new(Arc::clone(self), waiting.model, seat.tenant, now);
        match seat.call.send(permit) {
            Ok(()) => {
                let name = &desk.models[waiting.model].resident.info().name;
                self.observer.admitted(name, waiting.priority, now.saturating_sub(waiting.arrived));
            }
            // Whoever waited has just left; to drop the permit would ask for the desk again.
            Err(permit) => {
                permit.forget();
                view.running -= 1;
            }
        }
    }

    /// The load of a model, instead of others.
    fn load(self: &Arc<Self>, desk: &mut Desk, model: usize, instead: &[usize]) -> impl Future<Output = ()> + use<> {
        let leaving: Vec<Resident> = instead.iter().map(|&model| desk.models[model].resident.clone()).collect();
        for &model in instead {
            desk.views[model].residence = Residence::Out;
            desk.models[model].is_here = false;
            self.observer.unloaded(desk.models[model].resident.info());
        }
        desk.views[model].residence = Residence::Loading;
        let (coming, silence) = (desk.models[model].resident.clone(), self.config.silence);
        let loading = Loading { shared: Arc::clone(self), model, took: None };
        async move {
            let mut loading = loading; // the whole of it, and not the field that is set
            for resident in leaving {
                let unloaded = tokio::time::timeout(silence, resident.unload()).await;
                if let Err(error) = unloaded.unwrap_or_else(|_| Err(silent(silence))) {
                    tracing::warn!(model = resident.info().name, error = %error.report(), "a model could not be unloaded");
                }
            }
            let began = Instant::now();
            match loading.shared.load_at(model).await {
                Ok(()) => loading.took = Some(began.elapsed()),
                // Whoever waits for it meets the fault itself and is told.
                Err(error) => {
                    tracing::warn!(model = coming.info().name, error = %error.report(), "a model could not be loaded");
                }
            }
        }
    }

    /// How long the first piece of an answer may take that the model at `place` gives to a prompt of so many bytes.
    pub(super) fn first_within(&self, place: usize, bytes: u64) -> Duration {
        let desk = self.desk();
        let (model, view) = (&desk.models[place], &desk.views[place]);
        // A backend that loads when it is first asked does so now.
        let is_new = matches!(view.residence, Residence::In(since) if view.used <= since);
        let load = if is_new { view.load } else { Duration::ZERO };
        self.config.silence.saturating_add(model.prefill.of(bytes)).saturating_add(load)
    }

    /// How long loading the model at `place` may take: it is not measured alike on every day, and to give it up loses what was read.
    fn loaded_within(&self, place: usize) -> Duration {
        self.config.silence.saturating_add(self.desk().views[place].load * 4)
    }

    /// Loads the model at `place`, in bounded time.
    pub(super) async fn load_at(&self, place: usize) -> Result<()> {
        let limit = self.loaded_within(place);
        let resident = self.desk().models[place].resident.clone();
        tokio::time::timeout(limit, resident.load()).await.unwrap_or_else(|_| Err(silent(limit)))?;
        self.desk().models[place].is_here = true;
        Ok(())
    }

    /// The first piece of an answer has come.
    pub(super) fn first_piece(&self, place: usize, bytes: u64, took: Duration) {
        let mut desk = self.desk();
        let model = &mut desk.models[place];
        model.prefill.add(bytes, took);
        model.is_here = true;
        self.observer.first_piece(&model.resident.info().name, took);
    }

    /// Texts of so many bytes have been embedded.
    pub(super) fn embedded(&self, place: usize, bytes: u64, took: Duration) {
        let mut desk = self.desk();
        let model = &mut desk.models[place];
        model.prefill.add(bytes, took);
        model.is_here = true;
    }

    /// A permit comes back; `answered` says whether the answer ended as it should.
    pub(super) fn release(self: &Arc<Self>, permit: &Permit, answered: bool) {
        let now = self.now();
        let took = now.saturating_sub(permit.began);
        let mut guard = self.desk();
        let desk = &mut *guard;
        let (model, view) = (&mut desk.models[permit.model], &mut desk.views[permit.model]);
        view.running -= 1;
        view.used = now;
        if answered {
            model.service.add(took.as_secs_f64());
            view.service = model.service.or(ANSWER);
            self.observer.answered(&model.resident.info().name, took);
        }
        let idle = (view.running == 0).then(|| Arc::clone(&model.changed));
        desk.charge(&permit.tenant, took, now);
        self.drive(guard);
        idle.into_iter().for_each(|idle| idle.notify_waiters());
    }
}

impl Desk {
    fn had(&mut self, tenant: &Arc<str>, now: Moment) -> f64 {
        // Who is new has had as much as whoever had least of those that wait: no credit for having been away.
        let least = self.waiting.iter().map(|waiting| waiting.had).fold(f64::INFINITY, f64::min);
        let had = self.had.get(tenant).map_or(0.0, |(had, at)| decayed(*had, *at, now));
        if least.is_finite() { had.max(least) } else { had }
    }

    fn charge(&mut self, tenant: &Arc<str>, took: Duration, now: Moment) {
        if self.had.len() >= TENANTS && !self.had.contains_key(tenant) {
            self.had.retain(|_, (had, at)| decayed(*had, *at, now) > 1.0);
        }
        let entry = self.had.entry(Arc::clone(tenant)).or_insert((0.0, now));
        *entry = (decayed(entry.0, entry.1, now) + took.as_secs_f64(), now);
        let had = entry.0;
        for (waiting, seat) in self.waiting.iter_mut().zip(&self.seats) {
            if seat.tenant == *tenant {
                waiting.had = waiting.had.max(had);
            }
        }
    }
}

fn decayed(had: f64, at: Moment, now: Moment) -> f64 {
    had * (-now.saturating_sub(at).as_secs_f64() / HALF_LIFE).exp2()
}

/// Leaves the queue when the wait ends in whatever way.
struct Seated<'a> {
    shared: &'a Arc<Shared>,
    id: u64,
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let mut desk = self.shared.desk();
        // Not there any more if its turn came.
        if let Some(place) = desk.seats.iter().position(|seat| seat.id == self.id) {
            desk.waiting.swap_remove(place);
            desk.seats.swap_remove(place);
            self.shared.drive(desk);
        }
    }
}

/// A model on its way in. Whatever becomes of that, those who wait for it go on when it ends.
struct Loading {
    shared: Arc<Shared>,
    model: usize,
    took: Option<Duration>,
}

impl Drop for Loading {
    fn drop(&mut self) {
        let now = self.shared.now();
        let mut guard = self.shared.desk();
        let desk = &mut *guard;
        let (model, view) = (&mut desk.models[self.model], &mut desk.views[self.model]);
        view.residence = Residence::In(now);
        view.used = now;
        model.is_here = self.took.is_some();
        if let Some(took) = self.took {
            model.load.add(took.as_secs_f64());
            view.load = model.load.or(took);
            self.shared.observer.loaded(model.resident.info(), took);
        }
        // The local backend knows what a model takes once it is read.
        view.memory = model.resident.info().memory.unwrap_or(view.memory);
        let changed = Arc::clone(&model.changed);
        self.shared.drive(guard);
        changed.notify_waiters();
    }
}

fn full(message: String) -> Error {
    Error::new(ErrorKind::Full, message).with_code("queue_full").retry_after(Duration::from_secs(1))
}

/// The error of a model that has said nothing for so long.
pub(super) fn silent(waited: Duration) -> Error {
    Error::new(ErrorKind::Timeout, format!("the model has said nothing for {} s", waited.as_secs()))
        .with_code("model_timeout")
}

pub(super) fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the caller's deadline came before the answer").with_code("model_timeout")
}
