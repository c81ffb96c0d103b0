//! Budgets that processes share, and what a crash leaves of them.

use futures_util::future::join_all;
use sutazai_core::store::{Account, Amounts, BudgetStore, Day, Draw, Drawn, Limits};

use super::*;

/// Draws tokens from an account that has a thousand.
fn draw(account: Account, tokens: u64) -> Draw {
    let tokens = Amounts { tokens, ..Amounts::ZERO };
    Draw { account, limits: Limits { tokens: Some(1_000), ..Limits::NONE }, wanted: tokens, least: tokens }
}

fn agent() -> Account {
    Account::Agent { name: "a".into(), day: Day::of(NOW) }
}

pub(crate) fn processes_share_a_budget(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let stores = join_all((0..4).map(|_| open(&database))).await;
        let drawing = (0..16).map(|n| {
            let store = &stores[n % stores.len()];
            async move {
                let mut granted = 0;
                while let Drawn::Granted(some) = store.draw(&[draw(agent(), 8)], Day::of(NOW)).await.unwrap()[0] {
                    granted += some.tokens;
                }
                granted
            }
        });
        assert_eq!(join_all(drawing).await.into_iter().sum::<u64>(), 1_000);
    });
}

pub(crate) fn what_was_drawn_is_there_after_a_crash(_: &Postgres) {
    let mut server = Postgres::start();
    let url = server.create_database("budgets");
    block_on(async {
        let store = PostgresStore::open(url).await.unwrap();
        store.draw(&[draw(agent(), 600)], Day::of(NOW)).await.unwrap();
        server.stop(Signal::Quit);
        assert!(store.draw(&[draw(agent(), 1)], Day::of(NOW)).await.unwrap_err().is_temporary());
        server.start_again();
        let taken = Amounts { tokens: 600, ..Amounts::ZERO };
        assert_eq!(store.taken(&[agent()]).await.unwrap(), [taken]);
        assert_eq!(store.draw(&[draw(agent(), 401)], Day::of(NOW)).await.unwrap(), [Drawn::Refused { taken }]);
    });
}

pub(crate) fn the_budget_of_a_stored_task_stays(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let store = open(&database).await;
        let step = created();
        let (kept, gone) = (Account::Task(step.task.id), Account::Task(TaskId::from_bytes([9; 16])));
        store.write(&[insert(step)]).await.unwrap();
        let day = Day::of(NOW);
        store.draw(&[draw(kept.clone(), 7), draw(gone.clone(), 7)], day).await.unwrap();
        assert_eq!(store.forget(day.plus(1)).await.unwrap(), 1);
        let taken = store.taken(&[kept, gone]).await.unwrap();
        assert_eq!(taken.iter().map(|taken| taken.tokens).collect::<Vec<_>>(), [7, 0]);
    });
}

pub(crate) fn what_is_forgotten_is_found_behind_what_stays(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let store = open(&database).await;
        let steps: Vec<_> = (0..600).map(|_| created()).collect();
        let kept: Vec<_> = steps.iter().map(|step| draw(Account::Task(step.task.id), 7)).collect();
        store.write(&steps.into_iter().map(insert).collect::<Vec<_>>()).await.unwrap();
        let day = Day::of(NOW);
        let odd = |n: usize| draw(Account::Agent { name: format!("a\0{n}").into(), day }, 7);
        let gone: Vec<_> = (0..600).map(odd).collect();
        store.draw(&kept, day).await.unwrap();
        store.draw(&gone, day.plus(1)).await.unwrap();
        store.draw(&gone[..1], day.plus(2)).await.unwrap();
        for forgotten in [599, 0] {
            assert_eq!(store.forget(day.plus(2)).await.unwrap(), forgotten);
        }
        let accounts = |draws: &[Draw]| draws.iter().map(|draw| draw.account.clone()).collect::<Vec<_>>();
        assert!(store.taken(&accounts(&kept)).await.unwrap().iter().all(|taken| taken.tokens == 7));
        let taken = store.taken(&accounts(&gone)).await.unwrap();
        assert_eq!(taken.iter().map(|taken| taken.tokens).sum::<u64>(), 14);
    });
}
