//! What writers, readers and processes do to one another.

use std::slice;

use futures_util::future::join_all;
use sutazai_core::{
    store::{NodeRecord, TaskQuery},
    task::{Entry, EntryId, EntryKind, IdempotencyKey, Outcome, Progress, Signal as Told, Task, TaskState},
};

use super::*;

fn apply(task: &Task, command: Command) -> (Task, TaskWrite) {
    let step = engine::apply(task, command, NOW).unwrap();
    let (expected, task) = (task.revision, Arc::new(step.task));
    (Task::clone(&task), TaskWrite::Update { task, expected, events: step.events, entries: Vec::new(), key: None })
}

/// What connections have counted is there once they are gone.
async fn until_gone(database: &TestDatabase<'_>) {
    let gone = async {
        let others =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        while database.query(others) != "0" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

pub(crate) fn lists_take_no_connection_from_leases_and_writes(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let mut config = PostgresConfig::from_url(database.url()).unwrap();
        config.max_connections = 4;
        let store = PostgresStore::connect(config).await.unwrap();
        let step = created();
        store.write(&[insert(step.clone())]).await.unwrap();
        let mut stranger = PgConnection::connect(&database.url()).await.unwrap();
        stranger.execute("BEGIN; LOCK TABLE sutazai.task_labels IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let query = TaskQuery { label: Some(("a".into(), "b".into())), limit: 1, ..TaskQuery::default() };
        let lists = join_all((0..20).map(|_| store.list(&query)));
        let others = async {
            // The lists stand still by then, each over a connection or waiting for one.
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while database.query(waiting) == "0" {
                sleep(Duration::from_millis(5)).await;
            }
            let node = node("node/1");
            store.join(&node, Duration::from_secs(5)).await.unwrap();
            assert!(store.renew(&node.id, 1, Duration::from_secs(5)).await.unwrap());
            assert_eq!(store.claim(&claim()).await.unwrap().tasks.len(), 1);
            assert_eq!(store.load(slice::from_ref(&step.task.id)).await.unwrap().len(), 1);
            assert_eq!(store.events(step.task.id, 0, 10).await.unwrap().len(), 3);
            store.ping().await.unwrap();
            stranger.execute("COMMIT").await.unwrap();
        };
        let (lists, ()) = timeout(PATIENCE, futures_util::future::join(lists, others)).await.unwrap();
        for list in lists {
            assert_eq!(list.unwrap().items, []);
        }
    });
}

pub(crate) fn a_step_costs_the_same_however_long_journals_are(server: &Postgres) {
    const TASKS: usize = 20;
    const STEPS: u64 = 100;
    let database = server.database();
    block_on(async {
        let store = open(&database).await;
        let steps: Vec<_> = (0..TASKS).map(|_| insert(created())).collect();
        store.write(&steps).await.unwrap();
        let granted = store.claim(&claim()).await.unwrap().tasks;
        assert_eq!(granted.len(), TASKS);
        for index in 0..STEPS {
            let append = |task: &Task| {
                let id =
                    EntryId { path: String::new(), name: "step".into(), occurrence: u32::try_from(index).unwrap() };
                let (epoch, outcome) = (task.revision.epoch, Outcome::Done(Payload::null()));
                let entry = Entry { index, id, kind: EntryKind::Step, outcome, epoch, at: NOW };
                TaskWrite::Append { task: task.id, epoch, era: 0, entries: vec![entry], children: Vec::new() }
            };
            let batch: Vec<_> = granted.iter().map(append).collect();
            assert!(store.write(&batch).await.unwrap().iter().all(|outcome| *outcome == WriteOutcome::Applied));
        }
        store.close().await.unwrap();
        until_gone(&database).await;
    });
    let read = "SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE schemaname = 'sutazai' AND relname = 'journal_entries'";
    let read: u64 = database.query(read).parse().unwrap();
    let (entries, each) = (TASKS as u64 * STEPS, TASKS as u64 * STEPS * 2);
    assert!((entries / 2..each).contains(&read), "{read} entries of indexes were read for {entries} steps");
}

pub(crate) fn a_purge_passes_over_what_others_hold(server: &Postgres) {
    let database = server.database();
    let ended = || {
        let mut step = created();
        step.apply(Command::Cancel, NOW).unwrap();
        step
    };
    block_on(async {
        let store = open(&database).await;
        let steps = [ended(), ended(), ended()];
        let ids: Vec<TaskId> = steps.iter().map(|step| step.task.id).collect();
        store.write(&steps.map(insert)).await.unwrap();
        let mut stranger = PgConnection::connect(&database.url()).await.unwrap();
        stranger.execute("BEGIN").await.unwrap();
        let held = format!("SELECT 1 FROM sutazai.tasks WHERE id = '{}' FOR UPDATE", ids[1]);
        stranger.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(held))).await.unwrap();
        // It does not wait: whoever holds the task would never let go in time.
        let now = NOW.plus(Duration::from_secs(3_600));
        assert_eq!(timeout(PATIENCE, store.purge(&ids, now)).await.unwrap().unwrap(), 2);
        stranger.execute("COMMIT").await.unwrap();
        assert_eq!(store.events(ids[1], 0, 10).await.unwrap().len(), 2, "it is left whole");
        assert_eq!(store.purge(&ids, now).await.unwrap(), 1);
        assert_eq!(store.load(&ids).await.unwrap(), [None, None, None]);
    });
}

fn node(id: &str) -> NodeRecord {
    NodeRecord {
        id: NodeId::new(id),
        name: "node".into(),
        role: "all".into(),
        version: "1".into(),
        address: None,
        started_at: NOW,
        seen_at: NOW,
        lease_until: NOW,
        running: 0,
        dead: false,
    }
}

pub(crate) fn lists_of_what_lives_leave_history_alone(server: &Postgres) {
    const ENDED: usize = 1_500;
    let database = server.database();
    let labelled = || {
        let id = TaskId::from_bytes(*Uuid::now_v7().as_bytes());
        let request = TaskRequest::new("echo", Payload::null()).label("kind", "nightly").tenant("t");
        engine::create(id, "echo".into(), "1.2.3".into(), request, NOW)
    };
    block_on(async {
        let store = open(&database).await;
        let running = labelled();
        store.write(&[insert(running.clone())]).await.unwrap();
        let running = store.claim(&claim()).await.unwrap().tasks.remove(0);
        for _ in 0..ENDED / 100 {
            let ended = (0..100).map(|_| {
                let mut step = labelled();
                step.apply(Command::Cancel, NOW).unwrap();
                insert(step)
            });
            store.write(&ended.collect::<Vec<_>>()).await.unwrap();
        }
        let created = labelled();
        store.write(&[insert(created.clone())]).await.unwrap();
        store.close().await.unwrap();
        until_gone(&database).await;
        database.query("ANALYZE sutazai.tasks; ANALYZE sutazai.task_labels; SELECT pg_stat_reset()");

        let store = open(&database).await;
        let label = Some(("kind".to_owned(), "nightly".to_owned()));
        let live = TaskQuery { live: true, limit: 10, ..TaskQuery::default() };
        let both = vec![created.task.id, running.id];
        let asked = [
            (live.clone(), both.clone()),
            (TaskQuery { agent: Some("echo".into()), ..live.clone() }, both.clone()),
            (TaskQuery { tenant: Some("t".into()), ..live.clone() }, both.clone()),
            (TaskQuery { label: label.clone(), ..live.clone() }, both),
            (TaskQuery { label: label.clone(), limit: 1, ..live.clone() }, vec![created.task.id]),
            (TaskQuery { label, before: Some(created.task.id), ..live.clone() }, vec![running.id]),
            (TaskQuery { state: Some(TaskState::Waiting), ..live.clone() }, vec![]),
            (TaskQuery { state: Some(TaskState::Running), live: false, ..live.clone() }, vec![running.id]),
            (TaskQuery { state: Some(TaskState::Created), agent: Some("echo".into()), ..live }, vec![created.task.id]),
        ];
        for (query, expected) in &asked {
            let page = store.list(query).await.unwrap();
            let found: Vec<_> = page.items.iter().map(|task| task.id).collect();
            assert_eq!((&found, page.more), (expected, expected.len() < 2 && query.limit == 1), "{query:?}");
        }
        store.close().await.unwrap();
        until_gone(&database).await;
        let read = "SELECT coalesce(sum(idx_tup_read), 0) FROM pg_stat_user_indexes WHERE schemaname = 'sutazai' AND relname = 'tasks'";
        let read: usize = database.query(read).parse().unwrap();
        assert!(read > 0 && read < 200, "{read} entries of indexes were read");
    });
}

pub(crate) fn writers_that_want_the_same_never_wait_for_one_another(server: &Postgres) {
    const TASKS: usize = 12;
    const ROUNDS: u64 = 60;
    let database = server.database();
    block_on(async {
        let stores = [open(&database).await, open(&database).await];
        let steps: Vec<_> = (0..2 * TASKS).map(|_| created()).collect();
        stores[0].write(&steps.iter().cloned().map(insert).collect::<Vec<_>>()).await.unwrap();
        let tasks = stores[0].claim(&claim()).await.unwrap().tasks;
        let applied = join_all(stores.iter().enumerate().map(|(me, store)| {
            // Each changes its own tasks, which lie between those of the other, and tells these something.
            let (mut own, foreign): (Vec<_>, Vec<_>) =
                tasks.iter().cloned().enumerate().partition(|(nth, _)| nth % 2 == me);
            async move {
                let mut applied = 0;
                for round in 0..ROUNDS {
                    let mut batch = Vec::new();
                    for (_, task) in &mut own {
                        let message = format!("{round}");
                        let write;
                        (*task, write) = apply(task, Command::Report(Progress { fraction: None, message }));
                        batch.push(write);
                    }
                    batch.extend(foreign.iter().map(|(_, task)| TaskWrite::Signal {
                        task: task.id,
                        signal: Told { name: format!("from {me}"), payload: Payload::null(), at: NOW },
                        key: None,
                    }));
                    let insert = |nth: usize| {
                        let key = IdempotencyKey {
                            tenant: "default".into(),
                            key: format!("{round} {nth}").into(),
                            fingerprint: [7; 32],
                        };
                        let step = created();
                        TaskWrite::Insert {
                            task: Arc::new(step.task),
                            events: step.events,
                            key: Some(key),
                            journal: None,
                        }
                    };
                    batch.extend((0..5).map(insert));
                    if me == 1 {
                        batch.reverse();
                    }
                    for outcome in store.write(&batch).await.unwrap() {
                        assert!(matches!(outcome, WriteOutcome::Applied | WriteOutcome::Replayed(_)), "{outcome:?}");
                        applied += u64::from(outcome == WriteOutcome::Applied);
                    }
                }
                applied
            }
        }));
        let applied: u64 = timeout(PATIENCE, applied).await.unwrap().into_iter().sum();
        assert_eq!(applied, ROUNDS * (4 * TASKS as u64 + 5), "each key once, and all the rest");
        for store in stores {
            store.close().await.unwrap();
        }
        until_gone(&database).await;
        assert_eq!(database.query("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"), "0");
    });
}
