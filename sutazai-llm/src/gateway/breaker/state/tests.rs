//! The rules one by one, and what holds in whatever order calls begin and end.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn state(failures: u32) -> State {
    State::new(BreakerConfig { failures, pause: 10 * SECOND, max_pause: 35 * SECOND })
}

fn granted(state: &mut State, now: Instant) -> Ticket {
    match state.call(now) {
        Decision::Call(ticket) => ticket,
        Decision::Refuse(rest) => panic!("refused for {rest:?}"),
    }
}

fn refused(state: &mut State, now: Instant) -> Duration {
    match state.call(now) {
        Decision::Call(_) => panic!("granted"),
        Decision::Refuse(rest) => rest,
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_begins_a_new_row() {
    let (mut state, now) = (state(2), Instant::now());
    for _ in 0..5 {
        let ticket = granted(&mut state, now);
        state.failure(ticket, now);
        let ticket = granted(&mut state, now);
        state.success(ticket, now);
        let ticket = granted(&mut state, now);
        state.nothing(ticket, now);
    }
    assert_eq!(state.state(), BreakerState::Closed);
    for _ in 0..2 {
        let ticket = granted(&mut state, now);
        state.failure(ticket, now);
    }
    assert_eq!((state.state(), state.rest(now)), (BreakerState::Open, Some(10 * SECOND)));
    assert_eq!(refused(&mut state, now + 9 * SECOND), SECOND);
}

#[test]
fn the_pause_doubles_while_the_backend_stays_ill_and_begins_anew_when_it_was_well() {
    let (mut state, mut now) = (state(1), Instant::now());
    let ticket = granted(&mut state, now);
    state.failure(ticket, now);
    for pause in [10, 20, 35, 35] {
        assert_eq!(refused(&mut state, now), pause * SECOND);
        now += pause * SECOND;
        let ticket = granted(&mut state, now);
        assert_eq!((state.state(), refused(&mut state, now)), (BreakerState::HalfOpen, TRYING));
        state.failure(ticket, now);
    }
    now += 35 * SECOND;
    let ticket = granted(&mut state, now);
    state.success(ticket, now);
    assert_eq!(state.state(), BreakerState::Closed);
    let ticket = granted(&mut state, now);
    state.failure(ticket, now);
    assert_eq!(refused(&mut state, now), 10 * SECOND);
}

#[test]
fn what_began_before_has_no_say_after() {
    let (mut state, mut now) = (state(1), Instant::now());
    let late: Vec<_> = (0..3).map(|_| granted(&mut state, now)).collect();
    let ticket = granted(&mut state, now);
    state.failure(ticket, now);
    now += 10 * SECOND;
    let trying = granted(&mut state, now);
    let [success, failure, nothing]: [Ticket; 3] = late.try_into().unwrap();
    state.success(success, now);
    state.failure(failure, now);
    state.nothing(nothing, now);
    assert_eq!((state.state(), refused(&mut state, now)), (BreakerState::HalfOpen, TRYING));
    state.nothing(trying, now);
    let trying = granted(&mut state, now);
    state.success(trying, now);
    assert_eq!(state.state(), BreakerState::Closed);
}

#[test]
fn a_call_that_takes_as_long_as_the_pause_makes_way_for_another_and_still_decides() {
    let (mut state, mut now) = (state(1), Instant::now());
    let ticket = granted(&mut state, now);
    state.failure(ticket, now);
    now += 10 * SECOND;
    let long = granted(&mut state, now);
    assert_eq!(refused(&mut state, now + 19 * SECOND / 2), SECOND / 2);
    now += 10 * SECOND;
    let other = granted(&mut state, now);
    state.nothing(long, now);
    assert_eq!(refused(&mut state, now), TRYING, "the other one still tries");
    state.nothing(other, now);
    let long = granted(&mut state, now);
    now += 10 * SECOND;
    let _unread = granted(&mut state, now);
    state.success(long, now);
    assert_eq!(state.state(), BreakerState::Closed);
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Call,
    Success(prop::sample::Index),
    Failure(prop::sample::Index),
    Nothing(prop::sample::Index),
    Pass(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => Just(Move::Call),
        1 => any::<prop::sample::Index>().prop_map(Move::Success),
        3 => any::<prop::sample::Index>().prop_map(Move::Failure),
        1 => any::<prop::sample::Index>().prop_map(Move::Nothing),
        1 => (0..40_000_u64).prop_map(Move::Pass),
    ];
    prop::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn whatever_happens_one_call_tries_in_a_pause_and_no_pause_is_for_ever(moves in moves(), failures in 1..4_u32) {
        let (mut state, mut now) = (state(failures), Instant::now());
        // The calls under way, and whether each is one that tries the backend.
        let mut calls: Vec<(Ticket, bool)> = Vec::new();
        let mut row = 0;
        for step in moves {
            let before = state.state();
            match step {
                Move::Pass(millis) => now += Duration::from_millis(millis),
                Move::Call => match state.call(now) {
                    Decision::Call(ticket) => {
                        let tries = before != BreakerState::Closed;
                        let young = |other: &Ticket| other.phase == ticket.phase && now - other.at < 10 * SECOND;
                        prop_assert!(!tries || !calls.iter().any(|(other, _)| young(other)), "one in a pause");
                        calls.push((ticket, tries));
                    }
                    Decision::Refuse(rest) => {
                        prop_assert!(before != BreakerState::Closed && !rest.is_zero() && rest <= 35 * SECOND);
                        let tries = calls.iter().any(|(other, tries)| *tries && other.phase == state.number);
                        prop_assert!(before == BreakerState::Open || tries, "because of somebody");
                    }
                },
                Move::Success(at) | Move::Failure(at) | Move::Nothing(at) if !calls.is_empty() => {
                    let (ticket, _) = calls.swap_remove(at.index(calls.len()));
                    let counts = ticket.phase == state.number;
                    let expected = match (step, before) {
                        _ if !counts => before,
                        (Move::Success(_), _) => BreakerState::Closed,
                        (Move::Failure(_), BreakerState::Closed) if row + 1 < failures => before,
                        (Move::Failure(_), _) => BreakerState::Open,
                        _ => before,
                    };
                    if counts && !matches!(step, Move::Nothing(_)) {
                        row = if matches!(step, Move::Success(_)) { 0 } else { row + 1 };
                    }
                    match step {
                        Move::Success(_) => state.success(ticket, now),
                        Move::Failure(_) => state.failure(ticket, now),
                        _ => state.nothing(ticket, now),
                    }
                    prop_assert_eq!(state.state(), expected);
                }
                _ => {}
            }
        }
        calls.into_iter().for_each(|(ticket, _)| state.nothing(ticket, now));
        let ticket = granted(&mut state, now + 35 * SECOND);
        state.success(ticket, now);
        prop_assert_eq!(state.state(), BreakerState::Closed);
    }
}
