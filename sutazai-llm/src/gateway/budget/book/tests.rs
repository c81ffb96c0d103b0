//! Processes that draw on the same accounts, in whatever order things happen to them.

use proptest::prelude::*;
use sutazai_core::store::Day;

use super::{super::config::Want, *};

fn account(n: usize) -> Account {
    Account::Agent { name: n.to_string().into(), day: Day::from_number(0) }
}

/// The limits of three accounts.
fn limits() -> [Limits; 3] {
    [
        Limits { tokens: Some(1_000), calls: Some(12), ..Limits::NONE },
        Limits { tokens: Some(300), ..Limits::NONE },
        Limits { calls: Some(6), micros: Some(500), ..Limits::NONE },
    ]
}

/// The accounts of which `mask` has the bit.
fn wants(mask: usize) -> Wants {
    let of = |(n, limits)| Want { account: account(n), limits };
    limits().into_iter().enumerate().filter(|(n, _)| (mask >> n) & 1 == 1).map(of).collect()
}

/// Whether a store does what it is asked, and says so.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Works {
    Yes,
    No,
    /// It does, and nobody hears of it.
    Unheard,
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        mask: usize,
        tokens: u64,
        micros: u64,
    },
    Leave(prop::sample::Index),
    /// A call ends, and took so many hundredths of what it had reserved.
    Settle(prop::sample::Index, u64),
    Draw(Works),
    Tidy,
    Crash,
    Wait(u64),
}

fn steps(most: u64, crashes: bool) -> impl Strategy<Value = Vec<(usize, Step)>> {
    let works = prop_oneof![8 => Just(Works::Yes), 1 => Just(Works::No), 1 => Just(Works::Unheard)];
    let index = any::<prop::sample::Index>;
    let crash = if crashes { Step::Crash } else { Step::Tidy };
    let step = prop_oneof![
        6 => (1..8_usize, 0..400_u64, 0..90_u64).prop_map(|(mask, tokens, micros)| Step::Ask { mask, tokens, micros }),
        1 => index().prop_map(Step::Leave),
        5 => (index(), 0..=most).prop_map(|(call, share)| Step::Settle(call, share)),
        5 => works.prop_map(Step::Draw),
        1 => Just(Step::Tidy),
        1 => Just(crash),
        2 => (0..90_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec((0..3_usize, step), 0..80)
}

#[derive(Default)]
struct Process {
    book: Book,
    waiting: HashMap<u64, (Wants, Amounts)>,
    under_way: Vec<(Wants, Amounts)>,
}

#[derive(Default)]
struct World {
    processes: [Process; 3],
    /// What the store says.
    taken: HashMap<Account, Amounts>,
    /// What calls really took.
    spent: HashMap<Account, Amounts>,
    /// What nobody can give back any more.
    lost: HashMap<Account, Amounts>,
    now: Duration,
}

fn add(to: &mut HashMap<Account, Amounts>, account: &Account, amounts: Amounts) {
    let sum = to.entry(account.clone()).or_default();
    *sum = sum.plus(amounts);
}

fn of(sums: &HashMap<Account, Amounts>, account: &Account) -> Amounts {
    sums.get(account).copied().unwrap_or_default()
}

impl World {
    fn grant(&mut self, draws: &[Draw]) -> Vec<Drawn> {
        let grant = |draw: &Draw| {
            let drawn = draw.grant(of(&self.taken, &draw.account));
            if let Drawn::Granted(granted) = drawn {
                add(&mut self.taken, &draw.account, granted);
            }
            drawn
        };
        draws.iter().map(grant).collect()
    }

    fn settle_up(&mut self, settlement: Settlement) {
        for (account, unused) in settlement.unused {
            let taken = self.taken.entry(account).or_default();
            assert!(taken.covers(&unused), "more comes back than was taken");
            *taken = taken.minus(unused);
        }
        let debts: Vec<_> = settlement.debts.iter().map(Debt::draw).collect();
        assert!(self.grant(&debts).iter().all(|drawn| matches!(drawn, Drawn::Granted(_))), "what is spent is spent");
    }

    fn draw(&mut self, process: usize, works: Works) {
        for turn in 0.. {
            if !self.processes[process].book.has_work() {
                return;
            }
            assert!(turn < 200, "whoever waits comes to an end");
            let round = self.processes[process].book.round(self.now);
            let drawn = if works == Works::No { Vec::new() } else { self.grant(&round.draws) };
            if works == Works::Unheard {
                for (draw, drawn) in round.draws.iter().zip(&drawn) {
                    if let Drawn::Granted(granted) = drawn {
                        add(&mut self.lost, &draw.account, *granted);
                    }
                }
            }
            let heard = (works == Works::Yes).then_some(&*drawn);
            let Process { book, waiting, under_way } = &mut self.processes[process];
            for (id, outcome) in book.drawn(&round, heard, self.now) {
                let (wants, need) = waiting.remove(&id).expect("it waited");
                match outcome {
                    Outcome::Reserved => under_way.push((wants, need)),
                    // What another account was known to have left may be old by now.
                    Outcome::Refused(Refusal { account, .. })
                        if round.draws.iter().all(|draw| draw.account != account) => {}
                    Outcome::Refused(Refusal { account, shortage }) => {
                        let block = &book.blocks[&account];
                        let lacks = block.lacks(block.part(need)).of(shortage.measure);
                        let left = block.limits.left(of(&self.taken, &account)).of(shortage.measure);
                        assert!(shortage.asked > shortage.limit || lacks > left, "{shortage:?}: {lacks} of {left}");
                    }
                    Outcome::Unknown => assert_ne!(works, Works::Yes),
                }
            }
            if works != Works::Yes {
                return;
            }
        }
    }

    fn step(&mut self, at: usize, step: Step) {
        let now = self.now;
        let Process { book, waiting, under_way } = &mut self.processes[at];
        match step {
            Step::Ask { mask, tokens, micros } => {
                let (wants, need) = (wants(mask), Amounts { tokens, calls: 1, millis: 0, micros });
                match book.ask(&wants, need, now) {
                    Asked::Reserved => under_way.push((wants, need)),
                    Asked::Waits(id) => drop(waiting.insert(id, (wants, need))),
                    Asked::Refused(_) => {}
                }
            }
            Step::Leave(who) => {
                let mut ids: Vec<_> = waiting.keys().copied().collect();
                ids.sort_unstable();
                if !ids.is_empty() {
                    let id = *who.get(&ids);
                    book.leave(id);
                    waiting.remove(&id);
                }
            }
            Step::Settle(who, share) => {
                if !under_way.is_empty() {
                    let call = who.index(under_way.len());
                    self.end(at, call, share);
                }
            }
            Step::Draw(works) => self.draw(at, works),
            Step::Tidy => {
                let settlement = book.tidy(now);
                self.settle_up(settlement);
            }
            Step::Crash => {
                for (account, block) in &book.blocks {
                    add(&mut self.lost, account, block.drawn.minus(block.spent));
                }
                self.processes[at] = Process::default();
            }
            Step::Wait(millis) => self.now += Duration::from_millis(millis),
        }
    }

    /// Call number `call` has ended, and took so many hundredths of what it had reserved.
    fn end(&mut self, at: usize, call: usize, share: u64) {
        let Process { book, under_way, .. } = &mut self.processes[at];
        let (wants, need) = under_way.swap_remove(call);
        let took = Amounts::by(|measure| need.of(measure) * share / 100);
        book.settle(&wants, need, took, self.now);
        for want in wants.iter() {
            add(&mut self.spent, &want.account, want.limits.of_limited(took));
        }
    }

    /// Every book holds what its calls have reserved and no more than it has drawn.
    fn check_books(&self) {
        for Process { book, under_way, .. } in &self.processes {
            for (account, block) in &book.blocks {
                let its = under_way.iter().filter(|(wants, _)| wants.iter().any(|want| want.account == *account));
                let parts: Vec<_> = its.map(|(_, need)| block.part(*need)).collect();
                assert_eq!(block.reserved, parts.iter().copied().fold(Amounts::ZERO, Amounts::plus));
                assert_eq!(block.calls, parts.len());
            }
        }
    }

    /// Whatever is spent and may still be is taken in the store, and within the limits.
    fn check_limits(&self) {
        for (n, limits) in limits().into_iter().enumerate() {
            let account = account(n);
            let mut open = of(&self.spent, &account).plus(of(&self.lost, &account));
            for Process { book, .. } in &self.processes {
                let block = book.blocks.get(&account);
                open = open.plus(block.map_or(Amounts::ZERO, |block| block.reserved.plus(block.free())));
            }
            let taken = of(&self.taken, &account);
            assert_eq!(open, taken, "{account}");
            assert!(limits.ends().covers(&taken), "{account}: {taken:?} of {limits:?}");
        }
    }

    /// Ends all calls, and closes.
    fn close(&mut self) {
        for process in 0..self.processes.len() {
            while !self.processes[process].under_way.is_empty() {
                self.end(process, 0, 100);
            }
            let settlement = self.processes[process].book.close();
            self.settle_up(settlement);
        }
        for n in 0..3 {
            let account = account(n);
            let expected = of(&self.spent, &account).plus(of(&self.lost, &account));
            assert_eq!(of(&self.taken, &account), expected, "what is taken is what was spent or lost");
        }
    }
}

proptest! {
    #[test]
    fn no_more_is_spent_than_there_is(steps in steps(100, true)) {
        let mut world = World::default();
        for (process, step) in steps {
            world.step(process, step);
            world.check_books();
            world.check_limits();
        }
        world.close();
    }

    #[test]
    fn whatever_calls_take_is_written_down(steps in steps(250, false)) {
        let mut world = World::default();
        for (process, step) in steps {
            world.step(process, step);
            world.check_books();
        }
        world.close();
    }
}

#[test]
fn what_is_not_enough_alone_is_drawn_for_all_who_wait() {
    let mut book = Book::default();
    let need = |tokens| Amounts { tokens, calls: 1, ..Amounts::ZERO };
    assert_eq!(book.ask(&wants(1), need(600), Duration::ZERO), Asked::Waits(0));
    assert_eq!(book.ask(&wants(1), need(300), Duration::ZERO), Asked::Waits(1));
    assert_eq!(book.ask(&wants(1), need(200), Duration::ZERO), Asked::Waits(2));
    let round = book.round(Duration::ZERO);
    assert_eq!(round.draws.len(), 1);
    assert_eq!((round.draws[0].least, round.draws[0].wanted.covers(&need(1_100))), (need(600), true));
    let granted = Drawn::Granted(Amounts { tokens: 1_000, calls: 8, ..Amounts::ZERO });
    let answers = book.drawn(&round, Some(&[granted]), Duration::ZERO);
    assert_eq!(answers[..2], [(0, Outcome::Reserved), (1, Outcome::Reserved)]);
    let (2, Outcome::Refused(Refusal { shortage, .. })) = &answers[2] else { panic!("{answers:?}") };
    assert_eq!((shortage.asked, shortage.left, shortage.held), (200, 100, true));
    assert!(matches!(book.ask(&wants(1), need(100), Duration::ZERO), Asked::Reserved), "it is enough for less");
}

#[test]
fn a_call_that_takes_more_than_there_is_asks_nobody() {
    let mut book = Book::default();
    let need = Amounts { tokens: 301, calls: 1, ..Amounts::ZERO };
    let Asked::Refused(refusal) = book.ask(&wants(3), need, Duration::ZERO) else { panic!("it is refused") };
    assert_eq!((refusal.account, refusal.shortage.limit, refusal.shortage.held), (account(1), 300, false));
    assert!(!book.has_work());
}

#[test]
fn idle_blocks_go_back_and_those_in_use_stay() {
    let mut book = Book::default();
    let need = Amounts { tokens: 50, calls: 1, ..Amounts::ZERO };
    book.ask(&wants(2), need, Duration::ZERO);
    let round = book.round(Duration::ZERO);
    book.drawn(&round, Some(&[Drawn::Granted(Amounts { tokens: 80, ..Amounts::ZERO })]), Duration::ZERO);
    assert_eq!(book.tidy(IDLE * 2), Settlement::default(), "a call is under way");
    book.settle(&wants(2), need, Amounts { tokens: 30, calls: 1, ..Amounts::ZERO }, IDLE * 2);
    assert_eq!(book.tidy(IDLE * 3 - Duration::from_millis(1)), Settlement::default());
    let unused = vec![(account(1), Amounts { tokens: 50, ..Amounts::ZERO })];
    assert_eq!(book.tidy(IDLE * 3), Settlement { unused, debts: Vec::new() });
    assert_eq!(book.close(), Settlement::default());
    book.settle(&wants(2), need, need, IDLE * 4);
    assert!(book.blocks.is_empty());
}
