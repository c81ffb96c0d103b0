//! How orders of answering do in virtual time: the one of the gateway's policy, and the one of arrival. One answer and one model at a time.

use std::{collections::VecDeque, time::Duration};

use sutazai_llm::gateway::admission::policy::{Action, Limits, ModelView, Moment, Residence, View, Waiting, decide};

use crate::traffic::{AGE, Costs, Outcome, Request};

const LIMITS: Limits = Limits { parallel: 1, loaded: 1, memory: None, age: AGE };

/// As the gateway acts: the policy is asked again after a moment that it named, but not at once.
const TICK: Duration = Duration::from_millis(1);

/// The requests, which are in the order of their arrival, as the gateway's policy has them answered. It knows what things cost.
#[must_use]
pub fn admitted(requests: &[Request], models: usize, costs: Costs) -> Outcome {
    let mut coming: VecDeque<Request> = requests.iter().copied().collect();
    let mut backend = Backend::new(models, costs);
    loop {
        while coming.front().is_some_and(|next| next.at <= backend.now) {
            backend.waiting.extend(coming.pop_front().map(waiting));
        }
        let wake = backend.act().map(|wake| wake.max(backend.now + TICK));
        let next = [wake, backend.answers, backend.loads.map(|(end, _)| end), coming.front().map(|next| next.at)];
        // When there is nothing more to come, the last answer has ended.
        let Some(next) = next.into_iter().flatten().min() else { break };
        backend.until(next);
    }
    backend.outcome.makespan = backend.now;
    backend.outcome
}

/// The same requests one after the other.
#[must_use]
pub fn in_order(requests: &[Request], costs: Costs) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut now, mut inside) = (Duration::ZERO, None);
    for request in requests {
        now = now.max(request.at);
        if inside != Some(request.model) {
            inside = Some(request.model);
            now += costs.load;
            outcome.loads += 1;
        }
        outcome.waits.push((request.priority, now - request.at));
        now += costs.service;
    }
    outcome.makespan = now;
    outcome
}

fn waiting(request: Request) -> Waiting {
    let Request { model, at, priority } = request;
    Waiting { model, arrived: at, priority, deadline: None, had: 0.0 }
}

/// A backend that does what it is told.
struct Backend {
    now: Moment,
    models: Vec<ModelView>,
    waiting: Vec<Waiting>,
    /// When the answer that is being given ends.
    answers: Option<Moment>,
    /// When the model that is being loaded is there, and which one it is.
    loads: Option<(Moment, usize)>,
    outcome: Outcome,
}

impl Backend {
    fn new(models: usize, costs: Costs) -> Self {
        let model = ModelView { load: costs.load, service: costs.service, memory: 1, ..ModelView::default() };
        Self {
            now: Duration::ZERO,
            models: vec![model; models],
            waiting: Vec::new(),
            answers: None,
            loads: None,
            outcome: Outcome::default(),
        }
    }

    /// Does what the policy says until it says to wait.
    fn act(&mut self) -> Option<Moment> {
        loop {
            let view = View { now: self.now, limits: LIMITS, models: &self.models, waiting: &self.waiting };
            match decide(&view) {
                Action::Begin(place) => {
                    let request = self.waiting.swap_remove(place);
                    let model = &mut self.models[request.model];
                    model.running = 1;
                    self.answers = Some(self.now + model.service);
                    self.outcome.waits.push((request.priority, self.now - request.arrived));
                }
                Action::Load { model, instead } => {
                    instead.into_iter().for_each(|gone| self.models[gone].residence = Residence::Out);
                    self.models[model].residence = Residence::Loading;
                    self.loads = Some((self.now + self.models[model].load, model));
                    self.outcome.loads += 1;
                }
                Action::Wait(wake) => return wake,
            }
        }
    }

    /// Time passes until `moment`.
    fn until(&mut self, moment: Moment) {
        self.now = self.now.max(moment);
        if self.answers.take_if(|end| *end <= moment).is_some() {
            for model in self.models.iter_mut().filter(|model| model.running > 0) {
                model.running = 0;
                model.used = moment;
            }
        }
        if let Some((end, model)) = self.loads.take_if(|(end, _)| *end <= moment) {
            self.models[model].residence = Residence::In(end);
            self.models[model].used = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Traffic, bound};

    const COSTS: Costs = Costs { load: Duration::from_millis(450), service: Duration::from_millis(150) };

    #[test]
    fn alternating_requests_are_grouped() {
        let requests = Traffic::Alternating.requests(2, COSTS);
        let (ours, fifo) = (admitted(&requests, 2, COSTS), in_order(&requests, COSTS));
        assert_eq!((ours.loads, fifo.loads), (2, 160));
        assert_eq!(ours.makespan, bound(&requests, COSTS));
        assert_eq!((ours.waits.len(), ours.late()), (160, 0));
        assert_eq!(fifo.makespan, 160 * (COSTS.load + COSTS.service));
    }

    #[test]
    fn nobody_waits_too_long_and_everybody_is_answered() {
        for (traffic, models) in [(Traffic::Bursty, 3), (Traffic::Zipf, 4), (Traffic::Zipf, 2)] {
            let requests = traffic.requests(models, COSTS);
            let (ours, fifo) = (admitted(&requests, models, COSTS), in_order(&requests, COSTS));
            assert_eq!((ours.waits.len(), ours.late()), (requests.len(), 0), "{traffic:?}");
            assert!(ours.makespan >= bound(&requests, COSTS) && ours.makespan < fifo.makespan, "{traffic:?}");
        }
    }
}
