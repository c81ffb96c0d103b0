//! What every [`BudgetStore`] must do. Each case wants an empty store of its own.

use std::{future::Future, pin::Pin};

use futures_util::future::join_all;

use crate::{
    error::{Error, Result},
    store::{Account, Amounts, BudgetStore, Day, Draw, Drawn, Limits},
    task::TaskId,
};

/// Every case as one `#[tokio::test]`, against the store that the expression makes (it may use `.await`), behind whatever pointer keeps it alive. Where
/// tests are made at run time, [`cases`](crate::conformance::budget::cases) has the same list.
///
/// ```ignore
/// sutazai_core::budget_conformance!(Box::new(MemoryBudgetStore::new()));
/// ```
///
/// A durable store also runs [`what_was_drawn_survives`](crate::conformance::budget::what_was_drawn_survives).
#[macro_export]
macro_rules! budget_conformance {
    (@list $rule:ident $($args:tt)*) => {
        $crate::budget_conformance! { @$rule [
            an_empty_batch_does_nothing, as_much_is_granted_as_is_left, less_than_the_least_is_refused,
            every_measure_counts_for_itself, what_has_no_limit_is_counted, draws_answer_in_order, batches_may_be_large,
            accounts_are_apart, names_may_be_anything, what_comes_back_is_granted_again, limits_may_change,
            racing_draws_keep_to_the_limit, racing_draws_of_many_accounts_end, what_comes_and_goes_adds_up,
            what_is_not_used_is_forgotten
        ] $($args)* }
    };
    (@tests [$($case:ident),*] $make:expr) => {
        mod budget_conformance {
            #[allow(unused_imports, reason = "the expression may name everything by its full path")]
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    let store = $make;
                    $crate::conformance::budget::$case(&*store).await.map_err(|error| error.report()).unwrap();
                }
            )*
        }
    };
    (@table [$($case:ident),*]) => {
        &[$((stringify!($case), |store| Box::pin($crate::conformance::budget::$case(store)))),*]
    };
    ($make:expr) => { $crate::budget_conformance!(@list tests $make); };
}

/// One case: a name and what to run against an empty store, on the thread that begins it.
pub type Case = (&'static str, for<'s> fn(&'s dyn BudgetStore) -> Pin<Box<dyn Future<Output = Result<()>> + 's>>);

/// Every case, by name.
#[must_use]
pub fn cases() -> &'static [Case] {
    const CASES: &[Case] = crate::budget_conformance!(@list table);
    CASES
}

/// The day of these stories: 2026-12-01.
fn today() -> Day {
    Day::from_number(20_788)
}

fn agent(name: &str) -> Account {
    Account::Agent { name: name.into(), day: today() }
}

fn tokens(tokens: u64) -> Amounts {
    Amounts { tokens, ..Amounts::ZERO }
}

/// Draws tokens from an account that has so many.
fn of(account: Account, limit: u64, wanted: u64, least: u64) -> Draw {
    let limits = Limits { tokens: Some(limit), ..Limits::NONE };
    Draw { account, limits, wanted: tokens(wanted), least: tokens(least) }
}

async fn draw(store: &dyn BudgetStore, draw: &Draw) -> Result<Drawn> {
    let drawn = store.draw(std::slice::from_ref(draw), today()).await?;
    assert_eq!(drawn.len(), 1, "one answer for each draw");
    Ok(drawn[0])
}

async fn taken(store: &dyn BudgetStore, account: &Account) -> Result<Amounts> {
    let taken = store.taken(std::slice::from_ref(account)).await?;
    assert_eq!(taken.len(), 1, "one answer for each account");
    Ok(taken[0])
}

/// Nothing is asked, nothing happens.
pub async fn an_empty_batch_does_nothing(store: &dyn BudgetStore) -> Result<()> {
    assert_eq!(store.draw(&[], today()).await?, []);
    store.give_back(&[]).await?;
    assert_eq!(store.taken(&[]).await?, []);
    assert_eq!(store.forget(today()).await?, 0);
    assert_eq!(taken(store, &agent("nobody")).await?, Amounts::ZERO);
    Ok(())
}

/// What is wanted, and in the end what is left.
pub async fn as_much_is_granted_as_is_left(store: &dyn BudgetStore) -> Result<()> {
    let wanting = of(agent("a"), 100, 40, 1);
    for (granted, sum) in [(40, 40), (40, 80), (20, 100)] {
        assert_eq!(draw(store, &wanting).await?, Drawn::Granted(tokens(granted)));
        assert_eq!(taken(store, &agent("a")).await?, tokens(sum));
    }
    assert_eq!(draw(store, &wanting).await?, Drawn::Refused { taken: tokens(100) });
    assert_eq!(draw(store, &of(agent("a"), 100, 40, 0)).await?, Drawn::Granted(Amounts::ZERO));
    assert_eq!(taken(store, &agent("a")).await?, tokens(100));
    Ok(())
}

/// A refusal takes nothing and says what was taken, of an account that nobody drew on too.
pub async fn less_than_the_least_is_refused(store: &dyn BudgetStore) -> Result<()> {
    assert_eq!(draw(store, &of(agent("a"), 9, 10, 10)).await?, Drawn::Refused { taken: Amounts::ZERO });
    assert_eq!(draw(store, &of(agent("a"), 100, 60, 10)).await?, Drawn::Granted(tokens(60)));
    assert_eq!(draw(store, &of(agent("a"), 100, 60, 41)).await?, Drawn::Refused { taken: tokens(60) });
    assert_eq!(draw(store, &of(agent("a"), 100, 60, 40)).await?, Drawn::Granted(tokens(40)));
    assert_eq!(draw(store, &of(agent("b"), 100, 5, 50)).await?, Drawn::Granted(tokens(50)), "the least is wanted too");
    Ok(())
}

/// Each measure is granted as far as it goes, and one that does not reach refuses all.
pub async fn every_measure_counts_for_itself(store: &dyn BudgetStore) -> Result<()> {
    let limits = Limits { tokens: Some(100), calls: Some(3), millis: Some(1_000), micros: Some(50) };
    let wanted = Amounts { tokens: 70, calls: 1, millis: 900, micros: 20 };
    let least = Amounts { tokens: 1, calls: 1, millis: 0, micros: 1 };
    let wanting = Draw { account: agent("a"), limits, wanted, least };
    assert_eq!(draw(store, &wanting).await?, Drawn::Granted(wanted));
    let rest = Amounts { tokens: 30, calls: 1, millis: 100, micros: 20 };
    assert_eq!(draw(store, &wanting).await?, Drawn::Granted(rest));
    let sum = wanted.plus(rest);
    assert_eq!(draw(store, &wanting).await?, Drawn::Refused { taken: sum });
    let free = Draw { least: Amounts { calls: 1, ..Amounts::ZERO }, ..wanting };
    let last = Amounts { calls: 1, micros: 10, ..Amounts::ZERO };
    assert_eq!(draw(store, &free).await?, Drawn::Granted(last));
    assert_eq!(draw(store, &free).await?, Drawn::Refused { taken: sum.plus(last) });
    assert_eq!(taken(store, &agent("a")).await?, sum.plus(last));
    Ok(())
}

/// Without a limit as much is granted as is wanted, and it is written down.
pub async fn what_has_no_limit_is_counted(store: &dyn BudgetStore) -> Result<()> {
    let much = Amounts { tokens: 1 << 40, calls: 2, millis: 1 << 50, micros: 3 };
    let wanting = Draw { account: agent("a"), limits: Limits::NONE, wanted: much, least: much };
    for _ in 0..2 {
        assert_eq!(draw(store, &wanting).await?, Drawn::Granted(much));
    }
    assert_eq!(taken(store, &agent("a")).await?, much.plus(much));
    let endless = Draw { wanted: Amounts::all(u64::MAX), least: Amounts::ZERO, ..wanting };
    let Drawn::Granted(granted) = draw(store, &endless).await? else { panic!("what has no limit is granted") };
    assert_eq!(granted.plus(much).plus(much), Amounts::all(Limits::MOST));
    assert_eq!(taken(store, &agent("a")).await?, Amounts::all(Limits::MOST));
    Ok(())
}

/// Answers stand where their draws stood, granted and refused alike.
pub async fn draws_answer_in_order(store: &dyn BudgetStore) -> Result<()> {
    let names = ["c", "a", "d", "b"];
    let draws: Vec<_> = names.iter().zip([5, 6, 7, 8]).map(|(name, limit)| of(agent(name), limit, 7, 6)).collect();
    for _ in 0..2 {
        store.draw(&draws[1..2], today()).await?;
    }
    let drawn = store.draw(&draws, today()).await?;
    let refused = |taken| Drawn::Refused { taken: tokens(taken) };
    assert_eq!(drawn, [refused(0), refused(6), Drawn::Granted(tokens(7)), Drawn::Granted(tokens(7))]);
    let accounts: Vec<_> = names.iter().map(|name| agent(name)).collect();
    assert_eq!(store.taken(&accounts).await?, [0, 6, 7, 7].map(tokens));
    Ok(())
}

/// A thousand accounts in one call.
pub async fn batches_may_be_large(store: &dyn BudgetStore) -> Result<()> {
    let draws: Vec<_> = (0..1_000_u64).map(|n| of(agent(&n.to_string()), n, n, n)).collect();
    let drawn = store.draw(&draws, today()).await?;
    assert!(drawn.iter().zip(0..).all(|(drawn, n)| *drawn == Drawn::Granted(tokens(n))));
    let accounts: Vec<_> = draws.into_iter().map(|draw| draw.account).collect();
    let unused: Vec<_> = accounts.iter().cloned().zip(std::iter::repeat(tokens(10))).collect();
    store.give_back(&unused).await?;
    let taken = store.taken(&accounts).await?;
    assert!(taken.iter().zip(0_u64..).all(|(taken, n)| *taken == tokens(n.saturating_sub(10))));
    Ok(())
}

/// An agent, a tenant of its name and another day have nothing to do with one another.
pub async fn accounts_are_apart(store: &dyn BudgetStore) -> Result<()> {
    let accounts = [
        agent("a"),
        Account::Tenant { name: "a".into(), day: today() },
        Account::Agent { name: "a".into(), day: today().plus(1) },
        Account::Task(TaskId::from_bytes([1; 16])),
        Account::Task(TaskId::from_bytes([2; 16])),
    ];
    for (account, limit) in accounts.iter().zip(10..) {
        assert_eq!(draw(store, &of(account.clone(), limit, 99, 1)).await?, Drawn::Granted(tokens(limit)));
    }
    assert_eq!(store.taken(&accounts).await?, [10, 11, 12, 13, 14].map(tokens));
    Ok(())
}

/// Whatever a name holds, it is no other one.
pub async fn names_may_be_anything(store: &dyn BudgetStore) -> Result<()> {
    let names = ["", "a", "A", "a ", "ä", "a/b", "a\0b", "a\u{1}0b", "%", "'; --", "🦀"];
    let accounts: Vec<_> = names.iter().map(|name| agent(name)).collect();
    let draws: Vec<_> = accounts.iter().zip(1..).map(|(account, n)| of(account.clone(), 100, n, n)).collect();
    store.draw(&draws, today()).await?;
    let taken = store.taken(&accounts).await?;
    assert!(taken.iter().zip(1..).all(|(taken, n)| *taken == tokens(n)), "{taken:?}");
    Ok(())
}

/// What was not needed can be drawn by others, and no more than that.
pub async fn what_comes_back_is_granted_again(store: &dyn BudgetStore) -> Result<()> {
    let wanting = of(agent("a"), 100, 100, 1);
    draw(store, &wanting).await?;
    store.give_back(&[(agent("a"), tokens(30)), (agent("never seen"), tokens(5))]).await?;
    assert_eq!(draw(store, &wanting).await?, Drawn::Granted(tokens(30)));
    store.give_back(&[(agent("a"), Amounts { tokens: 500, calls: 7, millis: 0, micros: 1 })]).await?;
    assert_eq!(taken(store, &agent("a")).await?, Amounts::ZERO, "never less than nothing");
    assert_eq!(taken(store, &agent("never seen")).await?, Amounts::ZERO);
    assert_eq!(draw(store, &wanting).await?, Drawn::Granted(tokens(100)));
    Ok(())
}

/// The limits of each draw are its own: a lower one grants nothing more, a higher one the difference.
pub async fn limits_may_change(store: &dyn BudgetStore) -> Result<()> {
    assert_eq!(draw(store, &of(agent("a"), 100, 100, 1)).await?, Drawn::Granted(tokens(100)));
    assert_eq!(draw(store, &of(agent("a"), 50, 10, 1)).await?, Drawn::Refused { taken: tokens(100) });
    assert_eq!(draw(store, &of(agent("a"), 50, 10, 0)).await?, Drawn::Granted(Amounts::ZERO));
    assert_eq!(draw(store, &of(agent("a"), 105, 10, 1)).await?, Drawn::Granted(tokens(5)));
    Ok(())
}

/// However many draw at once, together they get what there is and not a token more.
pub async fn racing_draws_keep_to_the_limit(store: &dyn BudgetStore) -> Result<()> {
    const LIMIT: u64 = 1_000;
    let draws: Vec<_> = (0..64_u64).map(|n| of(agent("a"), LIMIT, 20 + n % 7, 1 + n % 13)).collect();
    let racing = join_all(draws.iter().map(|wanting| draw(store, wanting))).await;
    let mut sum = 0;
    for drawn in racing {
        if let Drawn::Granted(granted) = drawn? {
            sum += granted.tokens;
        }
    }
    assert_eq!(sum, LIMIT, "64 that want 20 each are more than there is");
    assert_eq!(taken(store, &agent("a")).await?, tokens(LIMIT));
    Ok(())
}

/// Draws of the same accounts in different orders wait for one another and come to an end.
pub async fn racing_draws_of_many_accounts_end(store: &dyn BudgetStore) -> Result<()> {
    // Not everybody sorts such names alike.
    let names: Vec<_> = (0..10).map(|n| if n % 2 == 0 { format!("Agent {n}") } else { format!("agent_{n}") }).collect();
    let batch = |shift: usize| {
        let (after, before) = names.split_at(shift % names.len());
        let draws = before.iter().chain(after).map(|name| of(agent(name), 200, 9, 9));
        draws.collect::<Vec<_>>()
    };
    let batches: Vec<_> = (0..24).map(batch).collect();
    let drawing = batches.iter().map(|batch| async move {
        let drawn = store.draw(batch, today()).await?;
        let back = batch.iter().zip(&drawn).filter(|(_, drawn)| matches!(drawn, Drawn::Granted(_)));
        let back: Vec<_> = back.map(|(draw, _)| (draw.account.clone(), tokens(1))).collect();
        store.give_back(&back).await?;
        Ok::<_, Error>(())
    });
    join_all(drawing).await.into_iter().collect::<Result<()>>()?;
    let accounts: Vec<_> = names.iter().map(|name| agent(name)).collect();
    for taken in store.taken(&accounts).await? {
        assert!(taken.tokens <= 200 && taken.tokens % 8 == 0, "{taken:?}");
    }
    Ok(())
}

/// What many take and give back is what is written down in the end.
pub async fn what_comes_and_goes_adds_up(store: &dyn BudgetStore) -> Result<()> {
    let spending = (0..16_u64).map(|n| async move {
        let mut spent = 0;
        for round in 0..8 {
            let Drawn::Granted(granted) = draw(store, &of(agent("a"), 500, 12, 1)).await? else { continue };
            let unused = granted.tokens * ((n + round) % 4) / 4;
            store.give_back(&[(agent("a"), tokens(unused))]).await?;
            spent += granted.tokens - unused;
        }
        Ok::<_, Error>(spent)
    });
    let spent = join_all(spending).await.into_iter().sum::<Result<u64>>()?;
    assert!(spent <= 500, "{spent} of 500 were spent");
    assert_eq!(taken(store, &agent("a")).await?, tokens(spent));
    Ok(())
}

/// Accounts go when they were not used for long, whatever they are for.
pub async fn what_is_not_used_is_forgotten(store: &dyn BudgetStore) -> Result<()> {
    let task = Account::Task(TaskId::from_bytes([1; 16]));
    let old = [agent("old"), task.clone(), Account::Tenant { name: "old".into(), day: today() }];
    let draws: Vec<_> = old.iter().map(|account| of(account.clone(), 10, 1, 1)).collect();
    store.draw(&draws, today()).await?;
    let later = today().plus(30);
    store.draw(&[of(agent("used again"), 10, 1, 1)], today()).await?;
    store.draw(&[of(agent("used again"), 10, 1, 1)], later).await?;
    assert_eq!(store.forget(today()).await?, 0, "they were used on this day");
    assert_eq!(store.forget(later).await?, 3);
    assert_eq!(store.forget(later).await?, 0);
    assert_eq!(store.taken(&old).await?, [Amounts::ZERO; 3]);
    assert_eq!(taken(store, &agent("used again")).await?, tokens(2));
    assert_eq!(draw(store, &of(task, 10, 10, 10)).await?, Drawn::Granted(tokens(10)));
    Ok(())
}

/// What was drawn is taken after the store was opened again. `open` opens the same store each time, and `close` closes it.
pub async fn what_was_drawn_survives<S: BudgetStore>(
    open: impl AsyncFn() -> S,
    close: impl AsyncFn(&S) -> Result<()>,
) -> Result<()> {
    let store = open().await;
    draw(&store, &of(agent("a"), 100, 70, 70)).await?;
    store.give_back(&[(agent("a"), tokens(20))]).await?;
    close(&store).await?;
    drop(store);

    let store = open().await;
    assert_eq!(taken(&store, &agent("a")).await?, tokens(50));
    assert_eq!(draw(&store, &of(agent("a"), 100, 70, 51)).await?, Drawn::Refused { taken: tokens(50) });
    close(&store).await
}

#[cfg(test)]
crate::budget_conformance!(Box::new(crate::memory::MemoryBudgetStore::new()));
