//! Processes that draw on the same accounts, in whatever order things happen to them.

use proptest::prelude::*;
use sutazai_core::{store::Measure, task::TaskId};

use super::{super::config::Want, *};

/// Nobody uses a block for longer than it is kept.
const LONG: Duration = Duration::from_secs(60);

/// No more time is reserved for a call, of the third account's limit.
const TIME: u64 = 20;

fn account(n: usize) -> Account {
    Account::Agent { name: n.to_string().into(), day: Day::from_number(0) }
}

/// The limits of three accounts.
fn limits() -> [Limits; 3] {
    [
        Limits { tokens: Some(1_000), calls: Some(12), ..Limits::NONE },
        Limits { tokens: Some(300), ..Limits::NONE },
        Limits { calls: Some(6), micros: Some(500), millis: Some(64 * TIME), ..Limits::NONE },
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
        millis: u64,
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
        6 => (1..8_usize, 0..400_u64, 0..3 * TIME, 0..90_u64)
            .prop_map(|(mask, tokens, millis, micros)| Step::Ask { mask, tokens, millis, micros }),
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

    fn give_back(&mut self, unused: Vec<(Account, Amounts)>) {
        for (account, unused) in unused {
            let taken = self.taken.entry(account).or_default();
            assert!(taken.covers(&unused), "more comes back than was taken");
            *taken = taken.minus(unused);
        }
    }

    fn write_down(&mut self, debts: &[Debt]) {
        let debts: Vec<_> = debts.iter().map(Debt::draw).collect();
        assert!(self.grant(&debts).iter().all(|drawn| matches!(drawn, Drawn::Granted(_))), "what is spent is spent");
    }

    /// What is owed is written down, and what is too much comes back. Whether anybody hears of it makes no difference: it is not said again.
    fn even_out(&mut self, process: usize) {
        let debts = self.processes[process].book.debts();
        self.write_down(&debts);
        self.processes[process].book.paid(&debts);
        let surplus = self.processes[process].book.surplus();
        self.give_back(surplus);
        self.check_even(process);
    }

    /// What is free of a block is not much more than what is drawn ahead.
    fn check_even(&self, process: usize) {
        let Process { book, waiting, .. } = &self.processes[process];
        for (account, block) in &book.blocks {
            assert!(block.debt().is_zero(), "{account} owes {:?}", block.debt());
            if waiting.values().any(|(wants, _)| wants.iter().any(|want| want.account == *account)) {
                continue;
            }
            for measure in Measure::ALL {
                let limit = block.limits.of(measure).unwrap_or(0);
                let free = block.free().of(measure);
                assert!(free <= limit / 4, "{free} of {limit} of {account} are free, in {measure:?}");
            }
        }
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
                    Outcome::Refused(Refusal { account, shortage, .. }) => {
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
            Step::Ask { mask, tokens, millis, micros } => {
                let (wants, need) = (wants(mask), Amounts { tokens, calls: 1, millis, micros });
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
            Step::Draw(works) => {
                self.draw(at, works);
                if works != Works::No {
                    self.even_out(at);
                }
            }
            Step::Tidy => {
                let unused = book.tidy(now);
                self.give_back(unused);
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
        // A guess of time that is cut short for the limit's sake says nothing of how long the call takes.
        let guessed = need.min(Amounts { millis: TIME, ..need });
        let took = Amounts::by(|measure| guessed.of(measure) * share / 100);
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
            let Settlement { unused, debts } = self.processes[process].book.close();
            self.give_back(unused);
            self.write_down(&debts);
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
    assert_eq!(book.tidy(LONG * 2), [], "a call is under way");
    book.settle(&wants(2), need, Amounts { tokens: 30, calls: 1, ..Amounts::ZERO }, LONG * 2);
    assert_eq!(book.tidy(LONG * 3 - Duration::from_millis(1)), []);
    assert_eq!(book.tidy(LONG * 3), [(account(1), Amounts { tokens: 50, ..Amounts::ZERO })]);
    assert_eq!(book.close(), Settlement::default());
    book.settle(&wants(2), need, need, LONG * 4);
    assert!(book.blocks.is_empty());
}

/// Draws for all who wait, and all that they want is there.
fn draw_all(book: &mut Book, now: Duration) -> Vec<(u64, Outcome)> {
    let round = book.round(now);
    let granted: Vec<_> = round.draws.iter().map(|draw| Drawn::Granted(draw.wanted.max(draw.least))).collect();
    book.drawn(&round, Some(&granted), now)
}

fn tokens(tokens: u64) -> Amounts {
    Amounts { tokens, ..Amounts::ZERO }
}

#[test]
fn who_is_refused_keeps_no_block_in_use() {
    let mut book = Book::default();
    book.ask(&wants(2), tokens(50), Duration::ZERO);
    draw_all(&mut book, Duration::ZERO);
    book.settle(&wants(2), tokens(50), tokens(48), Duration::ZERO);
    for second in 0..60 {
        let asked = book.ask(&wants(2), tokens(301), Duration::from_secs(second));
        assert!(matches!(asked, Asked::Refused(_)), "{asked:?}");
    }
    let unused = book.tidy(LONG);
    assert!(matches!(&unused[..], [(idle, _)] if *idle == account(1)), "{unused:?}");
}

#[test]
fn what_is_overspent_is_written_down_without_another_call() {
    let mut book = Book::default();
    book.ask(&wants(2), tokens(50), Duration::ZERO);
    draw_all(&mut book, Duration::ZERO);
    assert_eq!((book.is_uneven(), book.debts()), (false, Vec::new()));
    book.settle(&wants(2), tokens(50), tokens(290), Duration::ZERO);
    let drawn = book.blocks[&account(1)].drawn;
    let debts = book.debts();
    assert_eq!(debts, [Debt { account: account(1), amounts: tokens(290).minus(drawn) }]);
    assert_eq!(book.debts(), debts, "until it is paid it is owed");
    assert_eq!(book.tidy(LONG * 2), [], "and the block stays");
    book.paid(&debts);
    assert_eq!((book.debts(), book.surplus(), book.is_uneven()), (Vec::new(), Vec::new(), false));
    assert_eq!(book.close(), Settlement::default(), "it is not charged twice");
}

#[test]
fn what_a_block_in_use_holds_is_bounded() {
    let mut book = Book::default();
    book.ask(&wants(1), tokens(500), Duration::ZERO);
    draw_all(&mut book, Duration::ZERO);
    while book.has_work() {
        draw_all(&mut book, Duration::ZERO);
    }
    let drawn = book.blocks[&account(0)].drawn.tokens;
    assert_eq!(drawn, 500 + 125, "the call, and an eighth of the limit");
    book.settle(&wants(1), tokens(500), tokens(3), Duration::ZERO);
    assert!(book.is_uneven());
    assert_eq!(book.surplus(), [(account(0), tokens(497))]);
    assert_eq!((book.blocks[&account(0)].free(), book.is_uneven()), (tokens(125), false));
    // What somebody waits for stays.
    book.ask(&wants(1), tokens(500), Duration::ZERO);
    draw_all(&mut book, Duration::ZERO);
    book.settle(&wants(1), tokens(500), Amounts::ZERO, Duration::ZERO);
    let waits = book.ask(&wants(1), tokens(900), Duration::ZERO);
    assert!(matches!(waits, Asked::Waits(_)) && book.is_uneven(), "{waits:?}");
    assert_eq!((book.surplus(), book.is_uneven()), (Vec::new(), true));
}

#[test]
fn the_blocks_of_the_next_day_are_drawn_ahead() {
    let mut book = Book::default();
    book.ask(&wants(3), tokens(50), Duration::ZERO);
    draw_all(&mut book, Duration::ZERO);
    book.settle(&wants(1), tokens(50), tokens(9), Duration::ZERO);
    book.settle(&wants(2), tokens(50), tokens(9), LONG);
    let next = |n: usize| of_day(&account(n), Day::from_number(1)).unwrap();
    book.prepare(Day::from_number(1), LONG);
    assert!(book.has_work() && !book.blocks.contains_key(&next(0)), "nobody uses that one any more");
    draw_all(&mut book, LONG);
    let block = &book.blocks[&next(1)];
    assert!(block.free().tokens > 0 && !block.is_uneven(), "{block:?}");
    let free = block.free();
    book.prepare(Day::from_number(1), LONG);
    assert_eq!(book.blocks[&next(1)].free(), free);
    assert_eq!(of_day(&Account::Task(TaskId::from_bytes([1; 16])), Day::from_number(1)), None);
}

#[test]
fn a_task_waits_for_what_others_may_hold_and_not_for_ever() {
    let limits = Limits { tokens: Some(1_000), ..Limits::NONE };
    let wants: Wants = [Want { account: Account::Task(TaskId::from_bytes([1; 16])), limits }].into();
    let mut book = Book::default();
    let mut others = |taken, now| {
        assert!(matches!(book.ask(&wants, tokens(300), now), Asked::Waits(_)));
        let round = book.round(now);
        let answers = book.drawn(&round, Some(&[Drawn::Refused { taken: tokens(taken) }]), now);
        let [(_, Outcome::Refused(Refusal { others, .. }))] = &answers[..] else { panic!("{answers:?}") };
        *others
    };
    let after = Duration::from_secs;
    assert_eq!(others(800, after(0)), Some(ELSEWHERE));
    assert_eq!(others(900, after(30)), Some(ELSEWHERE - after(30)));
    assert_eq!(others(900, after(90)), None, "what is missing is spent");
    // Whoever gets something waits anew.
    assert!(matches!(book.ask(&wants, tokens(300), after(100)), Asked::Waits(_)));
    assert!(matches!(draw_all(&mut book, after(100))[..], [(_, Outcome::Reserved)]));
    book.settle(&wants, tokens(300), tokens(300), after(100));
    let mut refused = |asked| {
        let waits = book.ask(&wants, tokens(asked), after(200));
        if let Asked::Refused(refusal) = waits {
            return refusal.others;
        }
        let round = book.round(after(200));
        let answers = book.drawn(&round, Some(&[Drawn::Refused { taken: tokens(1_000) }]), after(200));
        let [(_, Outcome::Refused(refusal))] = &answers[..] else { panic!("{answers:?}") };
        refusal.others
    };
    assert_eq!(refused(700), Some(ELSEWHERE));
    assert_eq!([refused(701), refused(1_001)], [None; 2], "it was spent here, or there was never so much");
}
