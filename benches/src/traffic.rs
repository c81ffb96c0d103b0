//! Requests for several models of which one at a time has room: what comes when, and how well an order of answering them does.

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;
use sutazai_core::task::Priority;

use crate::stats::quantile;

/// How long a request may wait while others are worth more: what the gateway's settings are by default.
pub const AGE: Duration = Duration::from_secs(30);

/// Requests at most.
const MOST: u32 = 200;

/// Requests of a burst, and how much later the next burst begins and the next of its requests comes, in answers.
const BURST: u32 = 8;
const BURST_EVERY: f64 = 6.0;
const GAP: f64 = 2.0;

/// One in so many is urgent.
const URGENT: u32 = 10;

const SEED: u64 = 42;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The model that it is for.
    pub model: usize,
    /// When it comes.
    pub at: Duration,
    /// How urgent it is.
    pub priority: Priority,
}

/// What a backend takes, whichever model it is.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Bringing a model into memory in place of another.
    pub load: Duration,
    /// One answer.
    pub service: Duration,
}

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// All at once, each for the next model in turn.
    Alternating,
    /// In bursts for one model each, of which one begins before the one before has ended.
    Bursty,
    /// At random, the second model half as often as the first, the third a third as often; some are urgent.
    Zipf,
}

impl Traffic {
    /// As many requests as could be answered in four fifths of the age limit if no model had ever to be loaded: so none need wait longer than it may.
    /// They come for `models` models of these costs; the same ones each time.
    #[must_use]
    pub fn requests(self, models: usize, costs: Costs) -> Vec<Request> {
        let fit = (0.8 * AGE.as_secs_f64() / costs.service.as_secs_f64()) as u32;
        let many = (fit.clamp(BURST, MOST) / BURST) * BURST;
        let mut random = Rng::with_seed(SEED);
        let mut requests = match self {
            Self::Alternating => (0..many as usize).map(|number| request(number % models, Duration::ZERO)).collect(),
            Self::Bursty => bursts(many / BURST, models, costs, &mut random),
            Self::Zipf => drawn(many, models, costs, &mut random),
        };
        requests.sort_by_key(|request| request.at);
        requests
    }
}

fn request(model: usize, at: Duration) -> Request {
    Request { model, at, priority: Priority::default() }
}

fn bursts(many: u32, models: usize, costs: Costs, random: &mut Rng) -> Vec<Request> {
    let mut requests = Vec::new();
    for burst in 0..many {
        let model = random.usize(..models);
        let answers = |number: u32| f64::from(burst) * BURST_EVERY + f64::from(number) * GAP;
        requests.extend((0..BURST).map(|number| request(model, costs.service.mul_f64(answers(number)))));
    }
    requests
}

/// On average one comes in the time of an answer.
fn drawn(many: u32, models: usize, costs: Costs, random: &mut Rng) -> Vec<Request> {
    let weights: Vec<f64> = (1..=models).map(|rank| 1.0 / rank as f64).collect();
    let mut at = Duration::ZERO;
    let draw = |_| {
        at += costs.service.mul_f64(-(1.0 - random.f64()).ln());
        let mut left = random.f64() * weights.iter().sum::<f64>();
        let below = |weight: &f64| {
            left -= weight;
            left < 0.0
        };
        let model = weights.iter().position(below).unwrap_or(0);
        let priority = if random.u32(..URGENT) == 0 { Priority::MAX } else { Priority::default() };
        Request { model, at, priority }
    };
    (0..many).map(draw).collect()
}

/// The shortest time in which anything could answer all of them, one after the other: every model must be loaded once, and none is answered before it comes.
#[must_use]
pub fn bound(requests: &[Request], costs: Costs) -> Duration {
    let models: BTreeSet<usize> = requests.iter().map(|request| request.model).collect();
    let times = |one: Duration, many: usize| one.mul_f64(many as f64);
    let working = times(costs.service, requests.len()) + times(costs.load, models.len());
    let since = |(place, request): (usize, &Request)| request.at + times(costs.service, requests.len() - place);
    requests.iter().enumerate().map(since).fold(working, Duration::max)
}

/// How requests fared.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// From the beginning to the end of the last answer.
    pub makespan: Duration,
    /// Models that were brought into memory.
    pub loads: usize,
    /// How urgent each request was, and how long it waited until its answer began.
    pub waits: Vec<(Priority, Duration)>,
}

impl Outcome {
    /// Seconds that 95 of 100 requests of these priorities waited at most.
    #[must_use]
    pub fn p95_wait(&self, of: impl Fn(Priority) -> bool) -> f64 {
        let waits = self.waits.iter().filter(|(priority, _)| of(*priority));
        quantile(waits.map(|(_, wait)| wait.as_secs_f64()).collect(), 0.95)
    }

    /// Fails unless all of the requests were answered, and in no less time than `least`.
    pub fn check(&self, requests: &[Request], least: Duration) -> Result<(), String> {
        let (answered, asked) = (self.waits.len(), requests.len());
        if answered != asked {
            return Err(format!("{answered} of {asked} requests were answered"));
        }
        if self.makespan < least {
            return Err(format!("{:?} is less than anything could take, {least:?}", self.makespan));
        }
        Ok(())
    }

    /// Requests that waited longer than [`AGE`].
    #[must_use]
    pub fn late(&self) -> usize {
        self.waits.iter().filter(|(_, wait)| *wait > AGE).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs = Costs { load: Duration::from_millis(450), service: Duration::from_millis(150) };

    #[test]
    fn traffic_is_the_same_each_time_and_in_order() {
        for traffic in [Traffic::Alternating, Traffic::Bursty, Traffic::Zipf] {
            let requests = traffic.requests(3, COSTS);
            assert_eq!(requests, traffic.requests(3, COSTS));
            assert_eq!(requests.len(), 160, "24 s of 150 ms each");
            assert!(requests.is_sorted_by_key(|request| request.at));
            assert_eq!(requests.iter().map(|request| request.model).collect::<BTreeSet<_>>(), [0, 1, 2].into());
        }
        let zipf = Traffic::Zipf.requests(3, COSTS);
        let many = |model| zipf.iter().filter(|request| request.model == model).count();
        assert!(many(0) > many(1) && many(1) > many(2));
        let urgent = zipf.iter().filter(|request| request.priority == Priority::MAX).count();
        assert!((8..=30).contains(&urgent), "{urgent}");
    }

    #[test]
    fn an_outcome_that_cannot_be_is_refused() {
        let second = Duration::from_secs(1);
        let requests = [request(0, Duration::ZERO), request(1, Duration::ZERO)];
        let wait = (Priority::default(), Duration::ZERO);
        let outcome = |waits| Outcome { makespan: 4 * second, loads: 2, waits: vec![wait; waits] };
        assert_eq!(outcome(2).check(&requests, 4 * second), Ok(()));
        assert!(outcome(1).check(&requests, Duration::ZERO).unwrap_err().starts_with("1 of 2"));
        assert!(outcome(2).check(&requests, 5 * second).unwrap_err().contains("5s"));
    }

    #[test]
    fn nothing_is_quicker_than_the_bound() {
        let second = Duration::from_secs(1);
        let costs = Costs { load: second, service: second };
        let two = [request(0, Duration::ZERO), request(1, Duration::ZERO)];
        assert_eq!(bound(&two, costs), 4 * second);
        let late = [request(0, Duration::ZERO), request(0, 9 * second)];
        assert_eq!(bound(&late, costs), 10 * second);
    }
}
