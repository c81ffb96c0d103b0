//! Decisions one by one, and a simulated backend that follows them.

use proptest::prelude::*;

use super::*;

const AGE: Duration = Duration::from_secs(30);
const ONE: Limits = Limits { parallel: 1, loaded: 1, memory: None, age: AGE };

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn model(load: f64, service: f64) -> ModelView {
    ModelView { load: seconds(load), service: seconds(service), memory: 1, ..ModelView::default() }
}

fn inside(model: ModelView) -> ModelView {
    // Long ago, and used since.
    ModelView { residence: Residence::In(Duration::ZERO), used: Duration::from_millis(1), ..model }
}

fn request(model: usize, priority: u8, arrived: f64) -> Waiting {
    let priority = Priority::new(priority).unwrap();
    Waiting { model, arrived: seconds(arrived), priority, deadline: None, had: 0.0 }
}

fn at(now: f64, limits: Limits, models: &[ModelView], waiting: &[Waiting]) -> Action {
    decide(&View { now: seconds(now), limits, models, waiting })
}

#[test]
fn the_model_in_memory_is_served_first() {
    let models = [inside(model(5.0, 1.0)), model(5.0, 1.0)];
    let waiting = [request(1, 5, 0.0), request(0, 5, 1.0)];
    assert_eq!(at(10.0, ONE, &models, &waiting), Action::Begin(1));
    assert_eq!(at(10.0, ONE, &models, &waiting[..1]), Action::Load { model: 1, instead: vec![0] });
}

#[test]
fn an_urgent_request_interrupts_if_it_is_worth_two_loads() {
    let models = [inside(model(5.0, 2.0)), model(5.0, 2.0)];
    for (priority, swaps) in [(6, false), (7, false), (8, true), (9, true)] {
        // 2 s of 1 against 12 s of 2, 4, 8, 16.
        let waiting = [request(0, 5, 10.0), request(1, priority, 10.0)];
        let action = at(10.0, ONE, &models, &waiting);
        assert_eq!(matches!(action, Action::Load { model: 1, .. }), swaps, "{priority}: {action:?}");
    }
}

#[test]
fn what_runs_is_answered_before_its_model_goes() {
    let busy = ModelView { running: 1, ..inside(model(5.0, 2.0)) };
    let models = [busy, model(5.0, 2.0)];
    let waiting = [request(0, 5, 10.0), request(1, 9, 10.0)];
    let two = Limits { parallel: 2, ..ONE };
    assert_eq!(at(10.0, two, &models, &waiting), Action::Wait(None), "nothing new for who goes");
    let roomy = Limits { loaded: 2, ..two };
    assert_eq!(at(10.0, roomy, &models, &waiting), Action::Load { model: 1, instead: vec![] }, "beside what runs");
}

#[test]
fn what_is_told_to_leave_gets_nothing_new_and_goes_first() {
    let going = ModelView { residence: Residence::Leaving, running: 1, ..model(5.0, 2.0) };
    let models = [going, inside(model(5.0, 2.0)), model(5.0, 2.0)];
    let two = Limits { parallel: 2, loaded: 2, ..ONE };
    let (of_going, of_inside, of_another) = (request(0, 9, 0.0), request(1, 0, 9.0), request(2, 9, 0.0));
    assert_eq!(at(10.0, two, &models, &[of_going]), Action::Wait(None));
    assert_eq!(at(10.0, two, &models, &[of_going, of_inside]), Action::Begin(1));
    assert_eq!(at(10.0, two, &models, &[of_another]), Action::Wait(None), "its room comes free");
    let roomy = Limits { loaded: 3, ..two };
    assert_eq!(at(10.0, roomy, &models, &[of_another]), Action::Load { model: 2, instead: vec![] });
}

#[test]
fn memory_bounds_what_is_loaded_together() {
    let big = |bytes| ModelView { memory: bytes, ..inside(model(1.0, 1.0)) };
    let models = [
        ModelView { used: seconds(2.0), ..big(60) },
        ModelView { used: seconds(1.0), ..big(30) },
        ModelView { residence: Residence::Out, ..big(35) },
        ModelView { residence: Residence::Out, ..big(101) },
    ];
    let limits = Limits { memory: Some(100), loaded: 9, ..ONE };
    assert_eq!(
        at(3.0, limits, &models, &[request(2, 5, 3.0)]),
        Action::Load { model: 2, instead: vec![1] },
        "the one longest unused"
    );
    assert_eq!(at(3.0, limits, &models, &[request(3, 5, 3.0)]), Action::Wait(None), "never fits");
}

#[test]
fn the_order_is_overdue_priority_deadline_share_arrival() {
    let models = [inside(model(1.0, 1.0))];
    let plain = request(0, 5, 20.0);
    let sorted = [
        request(0, 0, 1.0),
        request(0, 0, 2.0),
        request(0, 6, 30.0),
        Waiting { deadline: Some(seconds(50.0)), ..plain },
        Waiting { deadline: Some(seconds(60.0)), ..plain },
        plain,
        request(0, 5, 21.0),
        Waiting { had: 1.0, ..plain },
        request(0, 4, 20.0),
    ];
    for first in 0..sorted.len() {
        let mut waiting = sorted[first..].to_vec();
        waiting.reverse();
        assert_eq!(at(32.5, ONE, &models, &waiting), Action::Begin(waiting.len() - 1), "{first}");
    }
}

/// A closed world of requests that come at given moments: when each began, and what was loaded.
fn simulate(
    limits: Limits,
    costs: &[(f64, f64)],
    mut coming: Vec<Waiting>,
    due_of: impl Fn(usize, Duration),
) -> (Duration, usize) {
    let mut models: Vec<ModelView> = costs.iter().map(|(load, service)| model(*load, *service)).collect();
    coming.sort_by_key(|waiting| std::cmp::Reverse(waiting.arrived));
    let (mut now, mut loads) = (Duration::ZERO, 0);
    let mut waiting: Vec<Waiting> = Vec::new();
    let mut running: Vec<(Duration, usize)> = Vec::new();
    let mut loading: Option<(Duration, usize)> = None;
    let total = coming.len();
    let mut begun = 0;
    loop {
        while coming.last().is_some_and(|next| next.arrived <= now) {
            waiting.extend(coming.pop());
        }
        let wake = loop {
            match decide(&View { now, limits, models: &models, waiting: &waiting }) {
                Action::Begin(place) => {
                    let request = waiting.swap_remove(place);
                    assert!(matches!(models[request.model].residence, Residence::In(_)));
                    models[request.model].running += 1;
                    running.push((now + models[request.model].service, request.model));
                    due_of(request.model, now.saturating_sub(request.arrived));
                    begun += 1;
                }
                Action::Load { model, instead } => {
                    for gone in instead {
                        assert_eq!(models[gone].running, 0, "nothing in flight is killed by a swap");
                        models[gone].residence = Residence::Out;
                    }
                    assert!(loading.is_none());
                    models[model].residence = Residence::Loading;
                    let inside = models.iter().filter(|model| model.residence != Residence::Out).count();
                    assert!(inside <= limits.loaded);
                    loading = Some((now + models[model].load, model));
                    loads += 1;
                }
                Action::Wait(wake) => break wake,
            }
        };
        let running_now: usize = models.iter().map(|model| model.running).sum();
        assert!(running_now <= limits.parallel);
        if begun == total && running.is_empty() {
            return (now, loads);
        }
        let next = running.iter().map(|(ends, _)| *ends).chain(loading.map(|(ends, _)| ends)).chain(wake);
        let next = next.chain(coming.last().map(|next| next.arrived)).min();
        let next = next.unwrap_or_else(|| panic!("nothing would ever happen again: {models:?} {waiting:?}"));
        assert!(next > now || running.iter().any(|(ends, _)| *ends <= now), "time stands still at {now:?}");
        now = next.max(now);
        running.retain(|(ends, model)| {
            let over = *ends <= now;
            if over {
                models[*model].running -= 1;
                models[*model].used = now;
            }
            !over
        });
        if let Some((ends, model)) = loading.filter(|(ends, _)| *ends <= now) {
            models[model].residence = Residence::In(ends);
            loading = None;
        }
    }
}

#[test]
fn alternating_requests_are_grouped() {
    let coming: Vec<_> = (0..200).map(|n| request(n % 2, 5, 0.0)).collect();
    let patient = Limits { age: Duration::from_secs(1_000), ..ONE };
    let (took, loads) = simulate(patient, &[(5.0, 1.0), (5.0, 1.0)], coming, |_, _| ());
    assert_eq!((took, loads), (seconds(210.0), 2), "in the order of arrival it is 1,200 s");
}

proptest! {
    /// Everything is served, by the rules that `simulate` asserts, and where there is time enough nobody waits beyond the age limit by more
    /// than the loads that came between.
    #[test]
    fn everything_is_served_and_no_limit_is_passed(
        costs in proptest::collection::vec((0.1_f64..4.0, 0.05_f64..1.0), 1..4),
        requests in proptest::collection::vec((0_usize..4, 0_u8..10, 0.0_f64..20.0), 1..60),
        parallel in 1_usize..4,
        loaded in 1_usize..3,
    ) {
        let limits = Limits { parallel, loaded, ..ONE };
        let coming: Vec<_> = requests.iter().map(|(model, priority, at)| request(model % costs.len(), *priority, *at)).collect();
        simulate(limits, &costs, coming, |_, _| ());
    }

    /// Few requests for any model, of which one waits on: however much comes for the other one, it begins within its limit.
    #[test]
    fn a_lone_request_begins_within_its_age_limit(load in 0.1_f64..6.0, service in 0.05_f64..1.5, every in 0.5_f64..1.0, at in 0.0_f64..60.0) {
        let mut coming: Vec<_> = (0..120_u32).map(|n| request(0, 9, f64::from(n) * service * every)).collect();
        coming.push(request(1, 0, at));
        let limits = Limits { age: seconds(25.0), ..ONE };
        let longest = std::cell::Cell::new(Duration::ZERO);
        simulate(limits, &[(load, service), (load, service)], coming, |model, waited| {
            if model == 1 {
                longest.set(waited);
            }
        });
        prop_assert!(longest.get() <= limits.age, "{:?}", longest.get());
    }
}
