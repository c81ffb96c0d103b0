//! Budgets beside the tasks.

use super::*;

#[tokio::test]
async fn what_was_drawn_survives() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let open = async || SqliteStore::open(&path).await.unwrap();
    conformance::budget::what_was_drawn_survives(open, async |store: &SqliteStore| store.close().await).await.unwrap();
}

/// Draws tokens from an account that has a thousand.
fn draw(account: Account, tokens: u64) -> Draw {
    let tokens = Amounts { tokens, ..Amounts::ZERO };
    Draw { account, limits: Limits { tokens: Some(1_000), ..Limits::NONE }, wanted: tokens, least: tokens }
}

#[tokio::test]
async fn the_budget_of_a_stored_task_stays() {
    let store = Temporary::new().await;
    let step = created(&Payload::null());
    let (kept, gone) = (Account::Task(step.task.id), Account::Task(TaskId::from_bytes([9; 16])));
    store.write(&[insert(step)]).await.unwrap();
    let day = Day::of(NOW);
    store.draw(&[draw(kept.clone(), 7), draw(gone.clone(), 7)], day).await.unwrap();
    assert_eq!(store.forget(day.plus(1)).await.unwrap(), 1);
    let taken = store.taken(&[kept, gone]).await.unwrap();
    assert_eq!(taken.iter().map(|taken| taken.tokens).collect::<Vec<_>>(), [7, 0]);
}

#[tokio::test]
async fn what_is_forgotten_is_found_behind_what_stays() {
    let store = Temporary::new().await;
    let steps: Vec<_> = (0..1_100).map(|_| created(&Payload::null())).collect();
    let kept: Vec<_> = steps.iter().map(|step| draw(Account::Task(step.task.id), 7)).collect();
    store.write(&steps.into_iter().map(insert).collect::<Vec<_>>()).await.unwrap();
    let day = Day::of(NOW);
    let agent = |n: usize| draw(Account::Agent { name: n.to_string().into(), day }, 7);
    let gone: Vec<_> = (0..700).map(agent).collect();
    store.draw(&kept, day).await.unwrap();
    store.draw(&gone, day.plus(1)).await.unwrap();
    store.draw(&gone[..1], day.plus(2)).await.unwrap();
    for forgotten in [699, 0] {
        assert_eq!(store.forget(day.plus(2)).await.unwrap(), forgotten);
    }
    let accounts = |draws: &[Draw]| draws.iter().map(|draw| draw.account.clone()).collect::<Vec<_>>();
    assert!(store.taken(&accounts(&kept)).await.unwrap().iter().all(|taken| taken.tokens == 7));
    let taken: Vec<_> = store.taken(&accounts(&gone)).await.unwrap().iter().map(|taken| taken.tokens).collect();
    assert_eq!((taken[0], taken[1..].iter().sum::<u64>()), (14, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_that_share_a_file_share_its_budgets() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = SqliteConfig::new(folder.path().join("tasks.db"));
    config.shared = true;
    let mut drawing = Vec::new();
    for _ in 0..3 {
        let store = SqliteStore::connect(config.clone()).await.unwrap();
        drawing.push(tokio::spawn(async move {
            let account = Account::Agent { name: "a".into(), day: Day::of(NOW) };
            let mut granted = 0;
            while let Drawn::Granted(some) = store.draw(&[draw(account.clone(), 8)], Day::of(NOW)).await.unwrap()[0] {
                granted += some.tokens;
            }
            granted
        }));
    }
    let mut sum = 0;
    for granted in drawing {
        sum += granted.await.unwrap();
    }
    assert_eq!(sum, 1_000);
}
