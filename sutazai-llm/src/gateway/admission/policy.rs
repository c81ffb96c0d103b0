//! Who is next, and which model is in memory: a pure function of what waits, what runs and what things cost.
//!
//! A backend holds few models at a time, often one, and bringing another one in costs as much as many answers. Served in the order of arrival,
//! requests `A B A B` pay that each time. So the model in memory is served until nothing waits for it or another one is worth more.
//!
//! **Worth.** The rate at which serving a model pays is the weight of what waits for it over the time that takes,
//!
//! ```text
//! rate(m) = Σ weight(i) / (setup(m) + Σ service(i) / parallel)        over the requests i that wait for m
//! weight(i) = 2^(priority(i) - 5)
//! setup(m) = 0 if m is in memory, else load(m), and load(v) on top where something waits for the model v that must go
//! ```
//!
//! and the model with the highest rate is next: the index rule for queues with set-up times of Duenyas and Van Oyen ("Heuristic scheduling of
//! parallel heterogeneous queues with set-ups", Management Science 42:6, 1996), with the way back paid by whoever goes. Among equals it is
//! exhaustive; an urgent request interrupts if its weight is worth two loads.
//!
//! **Age.** A request must begin by its *due*, the earlier of its arrival plus the age limit and its deadline less one answer. Models that are not in
//! memory are looked at in the order of their earliest due: if the loads of those before and its own would make one late after one more answer
//! of what is in memory, the first of them is next, whatever it is worth.
//!
//! **Turn.** A model that has come in answers one request at least, and stays for as long as its load took while something waits for it: no more
//! than half the time goes into loads, however much there is to do. Only when there is more work than time, and the limits of age cannot all be
//! kept, is one missed.
//!
//! **Order.** Within the models in memory: overdue before others, then by priority, deadline, what the tenant had lately, and arrival.
//!
//! What runs is never interrupted: a model goes when nothing of it runs any more, and gets nothing new before. Where there is room for one more model,
//! it is loaded beside what runs. A model that was told to leave makes room before any other has to.

use std::{cmp::Ordering, time::Duration};

use sutazai_core::task::Priority;

/// Time since some beginning.
pub type Moment = Duration;

/// What a backend can hold and do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests at a time.
    pub parallel: usize,
    /// Models in memory at a time.
    pub loaded: usize,
    /// Bytes of memory for models, where that is bounded.
    pub memory: Option<u64>,
    /// How long a request may wait while others are worth more.
    pub age: Duration,
}

/// Where a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Residence {
    /// Not in memory.
    #[default]
    Out,
    /// On its way into memory.
    Loading,
    /// In memory since then.
    In(Moment),
    /// On its way out, whatever waits for it: somebody has said so when nothing of it ran.
    Leaving,
}

/// A model as the policy sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelView {
    /// Where it is.
    pub residence: Residence,
    /// Requests that it answers now.
    pub running: usize,
    /// What bringing it in is expected to take.
    pub load: Duration,
    /// What one answer is expected to take.
    pub service: Duration,
    /// Bytes of memory that it takes.
    pub memory: u64,
    /// When it was last used.
    pub used: Moment,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// The model that it is for, by its place in [`View::models`].
    pub model: usize,
    /// When it came.
    pub arrived: Moment,
    /// How urgent it is.
    pub priority: Priority,
    /// When it is of no more use.
    pub deadline: Option<Moment>,
    /// What its tenant had lately, in seconds by its weight.
    pub had: f64,
}

impl Waiting {
    /// By when it must begin.
    fn due(&self, limits: &Limits, model: &ModelView) -> Moment {
        let old = self.arrived.saturating_add(limits.age);
        self.deadline.map_or(old, |deadline| old.min(deadline.saturating_sub(model.service)))
    }

    fn weight(&self) -> f64 {
        f64::from(1_u32 << self.priority.get()) / f64::from(1_u32 << Priority::default().get())
    }
}

/// All that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The time.
    pub now: Moment,
    /// What the backend can hold and do.
    pub limits: Limits,
    /// The backend's models.
    pub models: &'a [ModelView],
    /// What waits, in any order.
    pub waiting: &'a [Waiting],
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Let the request at this place in [`View::waiting`] begin.
    Begin(usize),
    /// Bring the model in after these have gone, which answer nothing.
    Load {
        /// The model that comes.
        model: usize,
        /// Those that go.
        instead: Vec<usize>,
    },
    /// Nothing, until something ends, comes or leaves, or until this moment.
    Wait(Option<Moment>),
}

/// The sum of what waits for a model.
#[derive(Clone, Copy, Default)]
struct Batch {
    count: u32,
    weight: f64,
    due: Moment,
}

/// What is best now. To be asked again after what it says was done, until it says to wait.
#[must_use]
pub fn decide(view: &View<'_>) -> Action {
    let Some(batches) = batches(view) else { return Action::Wait(None) };
    let (swap, wake) = match next_model(view, &batches) {
        Next::Load { model, instead } => return Action::Load { model, instead },
        Next::Drain { leaving } => (leaving, None),
        Next::Stay { until } => (Vec::new(), until),
    };
    let running: usize = view.models.iter().map(|model| model.running).sum();
    if running >= view.limits.parallel {
        return Action::Wait(wake);
    }
    let can_begin = |waiting: &Waiting| {
        matches!(view.models[waiting.model].residence, Residence::In(_)) && !swap.contains(&waiting.model)
    };
    let ready = view.waiting.iter().enumerate().filter(|(_, waiting)| can_begin(waiting));
    match ready.min_by(|(_, one), (_, other)| order(view, one, other)) {
        Some((place, _)) => Action::Begin(place),
        None => Action::Wait(wake),
    }
}

/// What waits for each model; nothing if nothing waits at all.
fn batches(view: &View<'_>) -> Option<Vec<Batch>> {
    if view.waiting.is_empty() {
        return None;
    }
    let mut batches = vec![Batch { due: Moment::MAX, ..Batch::default() }; view.models.len()];
    for waiting in view.waiting {
        let batch = &mut batches[waiting.model];
        batch.count += 1;
        batch.weight += waiting.weight();
        batch.due = batch.due.min(waiting.due(&view.limits, &view.models[waiting.model]));
    }
    Some(batches)
}

/// Which of two requests is first.
fn order(view: &View<'_>, one: &Waiting, other: &Waiting) -> Ordering {
    let due = |waiting: &Waiting| waiting.due(&view.limits, &view.models[waiting.model]);
    let overdue = |waiting: &Waiting| due(waiting) <= view.now;
    let deadline = |waiting: &Waiting| waiting.deadline.unwrap_or(Moment::MAX);
    match (overdue(one), overdue(other)) {
        (true, true) => return due(one).cmp(&due(other)),
        (true, false) => return Ordering::Less,
        (false, true) => return Ordering::Greater,
        (false, false) => {}
    }
    other
        .priority
        .cmp(&one.priority)
        .then_with(|| deadline(one).cmp(&deadline(other)))
        .then_with(|| one.had.total_cmp(&other.had))
        .then_with(|| one.arrived.cmp(&other.arrived))
}

/// What becomes of the models in memory.
enum Next {
    /// They stay, at least until then.
    Stay { until: Option<Moment> },
    /// These get nothing new, since another model is to come.
    Drain { leaving: Vec<usize> },
    /// This one comes now instead of those.
    Load { model: usize, instead: Vec<usize> },
}

fn next_model(view: &View<'_>, batches: &[Batch]) -> Next {
    let fits = |model: &ModelView| view.limits.memory.is_none_or(|limit| model.memory <= limit);
    let is_wanted = |&model: &usize| {
        let view = &view.models[model];
        batches[model].count > 0 && view.residence == Residence::Out && fits(view)
    };
    let mut wanted: Vec<usize> = (0..view.models.len()).filter(is_wanted).collect();
    if wanted.is_empty() || view.models.iter().any(|model| model.residence == Residence::Loading) {
        return Next::Stay { until: None };
    }
    wanted.sort_unstable_by_key(|&model| (batches[model].due, model));
    let pressing = pressing(view, batches, &wanted);
    let best = match pressing {
        Pressing::Now(model) => model,
        Pressing::Not(_) => highest(wanted.iter().copied(), |model| rate(view, batches, model, load(view, model))),
    };
    let Some(leaving) = leaving(view, batches, best) else { return Next::Stay { until: None } };
    if leaving.iter().any(|&model| view.models[model].residence == Residence::Leaving) {
        return Next::Stay { until: None }; // it goes by itself
    }
    let turn = leaving.iter().map(|&model| turn_ends(view, batches, model)).max().unwrap_or_default();
    if turn > view.now {
        return Next::Stay { until: (turn < Moment::MAX).then_some(turn) };
    }
    let worth = || {
        let back: Duration =
            leaving.iter().filter(|&&model| batches[model].count > 0).map(|&model| load(view, model)).sum();
        let staying = leaving.iter().map(|&model| rate(view, batches, model, Duration::ZERO)).fold(0.0, f64::max);
        rate(view, batches, best, load(view, best) + back) > staying
    };
    match pressing {
        Pressing::Not(until) if !worth() => Next::Stay { until: Some(until) },
        _ if leaving.iter().any(|&model| view.models[model].running > 0) => Next::Drain { leaving },
        _ => Next::Load { model: best, instead: leaving },
    }
}

/// Whether a model outside memory must come now.
#[derive(Clone, Copy)]
enum Pressing {
    Now(usize),
    /// No; if nothing changes, then.
    Not(Moment),
}

/// `wanted` is sorted by due.
fn pressing(view: &View<'_>, batches: &[Batch], wanted: &[usize]) -> Pressing {
    let mut begins = view.now;
    let mut one_more = Duration::ZERO;
    for (index, (model, batch)) in view.models.iter().zip(batches).enumerate() {
        if !matches!(model.residence, Residence::In(_)) {
            continue;
        }
        if batch.count > 0 || model.running > 0 {
            one_more = one_more.max(model.service);
        }
        // A turn that has not begun yet begins now.
        begins = begins.max(turn_ends(view, batches, index).min(view.now.saturating_add(model.load)));
    }
    begins = begins.saturating_add(one_more);
    let mut slack = Duration::MAX;
    for &model in wanted {
        let cost = view.models[model].load;
        begins = begins.saturating_add(cost);
        match batches[model].due.checked_sub(begins).filter(|left| !left.is_zero()) {
            Some(left) => slack = slack.min(left),
            // Too late or nearly so: whoever is due first goes first.
            None => return Pressing::Now(wanted[0]),
        }
        begins = begins.saturating_add(cost.max(view.models[model].service));
    }
    Pressing::Not(view.now.saturating_add(slack))
}

/// Until when a model that has come in stays, if anything waits for it: for as long as its load took, and until it was used at all.
fn turn_ends(view: &View<'_>, batches: &[Batch], model: usize) -> Moment {
    let (batch, model) = (&batches[model], &view.models[model]);
    match model.residence {
        Residence::In(since) if batch.count > 0 => {
            let unused = model.running == 0 && model.used <= since;
            if unused { Moment::MAX } else { since.saturating_add(model.load) }
        }
        _ => Moment::ZERO,
    }
}

/// Who must go so that `model` can come: none if there is room, nothing at all if there never will be.
fn leaving(view: &View<'_>, batches: &[Batch], model: usize) -> Option<Vec<usize>> {
    let mut inside: Vec<usize> =
        (0..view.models.len()).filter(|&inside| view.models[inside].residence != Residence::Out).collect();
    // The last is the first to go.
    let value = |&inside: &usize| rate(view, batches, inside, Duration::ZERO);
    let stays = |&inside: &usize| view.models[inside].residence != Residence::Leaving;
    inside.sort_unstable_by(|one, other| {
        stays(other)
            .cmp(&stays(one))
            .then_with(|| value(other).total_cmp(&value(one)))
            .then_with(|| view.models[*other].used.cmp(&view.models[*one].used))
    });
    let mut leaving = Vec::new();
    loop {
        let bytes = inside.iter().chain([&model]).map(|&model| view.models[model].memory).fold(0, u64::saturating_add);
        if inside.len() < view.limits.loaded && view.limits.memory.is_none_or(|limit| bytes <= limit) {
            return Some(leaving);
        }
        leaving.push(inside.pop()?);
    }
}

fn load(view: &View<'_>, model: usize) -> Duration {
    view.models[model].load
}

/// What serving a model pays a second, after `setup`.
fn rate(view: &View<'_>, batches: &[Batch], model: usize, setup: Duration) -> f64 {
    let batch = &batches[model];
    if batch.count == 0 {
        return 0.0;
    }
    let parallel = u32::try_from(view.limits.parallel).unwrap_or(u32::MAX).clamp(1, batch.count);
    let work = view.models[model].service * batch.count / parallel;
    batch.weight / (setup + work).max(Duration::from_micros(1)).as_secs_f64()
}

fn highest(models: impl Iterator<Item = usize>, rate: impl Fn(usize) -> f64) -> usize {
    // Of equals the one that is due first, which comes first.
    let best = models.map(|model| (model, rate(model))).reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(model, _)| model)
}

#[cfg(test)]
mod tests;
