//! The PostgreSQL store against the suite of every task store, on a real server, and against what only servers can suffer.
#![cfg(feature = "postgres")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

mod budget;
mod restore;
mod share;

use std::{sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use sqlx::{Connection, Executor, PgConnection};
use sutazai_core::{
    ErrorKind, Payload,
    clock::Timestamp,
    conformance,
    engine::{self, ClaimPolicy, Command, QueueRule, Transition},
    store::{Claim, TaskStore, TaskWrite, WriteOutcome},
    task::{NodeId, TaskId, TaskRequest},
};
use sutazai_store::{PostgresConfig, PostgresStore};
use sutazai_testing::{Postgres, Proxy, Signal, TestDatabase, trial};
use tokio::{
    runtime::Builder,
    sync::Notify,
    time::{sleep, timeout},
};
use uuid::Uuid;

const NOW: Timestamp = Timestamp::from_millis(1_796_083_200_000);
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let shared = Postgres::shared();
    let mut trials: Vec<Trial> = Vec::new();
    for &(name, case) in conformance::budget::cases() {
        trials.push(trial(format!("budget_conformance::{name}"), shared.clone(), move |server| {
            let database = server.database();
            block_on(async {
                let store = PostgresStore::open(database.url()).await.map_err(|error| Failed::from(error.report()))?;
                let done = case(&store).await.map_err(|error| Failed::from(error.report()));
                store.close().await.map_err(|error| Failed::from(error.report()))?;
                done
            })
        }));
    }
    for &(name, case) in conformance::task::cases() {
        trials.push(trial(format!("conformance::{name}"), shared.clone(), move |server| {
            let database = server.database();
            block_on(async {
                let store = PostgresStore::open(database.url()).await.map_err(|error| Failed::from(error.report()))?;
                let done = case(&store).await.map_err(|error| Failed::from(error.report()));
                store.close().await.map_err(|error| Failed::from(error.report()))?;
                done
            })
        }));
    }
    let mut test = |name: &str, test: fn(&'static Postgres)| {
        trials.push(trial(name, shared.clone(), move |server| {
            test(server);
            Ok::<_, Failed>(())
        }));
    };
    test("many_processes_may_open_a_new_database_at_once", many_processes_may_open_a_new_database_at_once);
    test(
        "a_schema_is_waited_for_while_another_process_makes_it",
        a_schema_is_waited_for_while_another_process_makes_it,
    );
    test("a_newer_schema_is_used_if_it_admits_that", a_newer_schema_is_used_if_it_admits_that);
    test("another_program_s_schema_is_left_alone", another_program_s_schema_is_left_alone);
    test("who_is_refused_is_told_why_without_the_password", who_is_refused_is_told_why_without_the_password);
    test("the_feed_waits_for_what_is_under_way", the_feed_waits_for_what_is_under_way);
    test("the_feed_is_in_order_however_late_commits_come", the_feed_is_in_order_however_late_commits_come);
    test("another_process_is_heard_also_after_a_cut", another_process_is_heard_also_after_a_cut);
    test("no_statement_reads_a_whole_table", no_statement_reads_a_whole_table);
    test("a_silent_network_is_not_waited_for", a_silent_network_is_not_waited_for);
    test("what_was_acknowledged_is_there_after_a_crash", what_was_acknowledged_is_there_after_a_crash);
    test("processes_share_a_budget", budget::processes_share_a_budget);
    test("what_was_drawn_is_there_after_a_crash", budget::what_was_drawn_is_there_after_a_crash);
    test("the_budget_of_a_stored_task_stays", budget::the_budget_of_a_stored_task_stays);
    test("what_is_forgotten_is_found_behind_what_stays", budget::what_is_forgotten_is_found_behind_what_stays);
    test("a_backup_goes_on_in_another_cluster", restore::a_backup_goes_on_in_another_cluster);
    test("a_database_that_only_reads_is_tried_again", restore::a_database_that_only_reads_is_tried_again);
    test("lists_take_no_connection_from_leases_and_writes", share::lists_take_no_connection_from_leases_and_writes);
    test("a_step_costs_the_same_however_long_journals_are", share::a_step_costs_the_same_however_long_journals_are);
    test("a_purge_passes_over_what_others_hold", share::a_purge_passes_over_what_others_hold);
    test("lists_of_what_lives_leave_history_alone", share::lists_of_what_lives_leave_history_alone);
    test(
        "writers_that_want_the_same_never_wait_for_one_another",
        share::writers_that_want_the_same_never_wait_for_one_another,
    );
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn block_on<F: Future>(test: F) -> F::Output {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn open(database: &TestDatabase<'_>) -> PostgresStore {
    PostgresStore::open(database.url()).await.map_err(|error| error.report()).unwrap()
}

fn created() -> Transition {
    let id = TaskId::from_bytes(*Uuid::now_v7().as_bytes());
    engine::create(id, "echo".into(), "1.2.3".into(), TaskRequest::new("echo", Payload::null()), NOW)
}

fn insert(step: Transition) -> TaskWrite {
    TaskWrite::Insert { task: Arc::new(step.task), events: step.events, key: None, journal: None }
}

fn claim() -> Claim {
    let rule = QueueRule { agent: "echo".into(), concurrency: None, rate: None };
    let policy = ClaimPolicy { queues: [("echo@1".into(), rule)].into(), ..ClaimPolicy::default() };
    Claim { node: NodeId::new("node/1"), policy, now: NOW, limit: 100 }
}

fn many_processes_may_open_a_new_database_at_once(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let opened = futures_util::future::join_all((0..8).map(|_| open(&database))).await;
        for store in &opened {
            store.ping().await.unwrap();
        }
        assert_eq!(database.query("SELECT count(*) FROM sutazai.meta"), "3");
        // Another schema of the same database is another store.
        let mut config = PostgresConfig::from_url(database.url()).unwrap();
        config.schema = "other".into();
        let other = PostgresStore::connect(config).await.unwrap();
        other.write(&[insert(created())]).await.unwrap();
        assert_eq!((other.queued().await.unwrap(), opened[0].queued().await.unwrap()), (1, 0));
    });
}

fn a_schema_is_waited_for_while_another_process_makes_it(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let mut maker = PgConnection::connect(&database.url()).await.unwrap();
        let turn = "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('sutazai schema sutazai', 0))";
        maker.execute(turn).await.unwrap();
        let mut config = PostgresConfig::from_url(database.url()).unwrap();
        // Only for an answer, not for its turn.
        config.acquire_timeout = Duration::from_millis(1_500);
        let (lock_timeout, statement_timeout) = (Duration::from_millis(50), Duration::from_secs(1));
        (config.lock_timeout, config.statement_timeout) = (lock_timeout, statement_timeout);
        let opening = tokio::spawn(PostgresStore::connect(config));
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        let waits = async {
            while database.query(waiting) == "0" {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, waits).await.unwrap();
        sleep(Duration::from_millis(2_000)).await;
        maker.execute("ROLLBACK").await.unwrap();
        let store = timeout(PATIENCE, opening).await.unwrap().unwrap().unwrap();
        store.ping().await.unwrap();
    });
}

fn a_newer_schema_is_used_if_it_admits_that(server: &Postgres) {
    let database = server.database();
    block_on(async {
        open(&database).await.close().await.unwrap();
        database.query("UPDATE sutazai.meta SET value = 99 WHERE key = 'schema_version'");
        let store = open(&database).await;
        assert_eq!(store.write(&[insert(created())]).await.unwrap(), [WriteOutcome::Applied]);
        database.query("UPDATE sutazai.meta SET value = 99 WHERE key = 'min_reader'");
        let error = PostgresStore::open(database.url()).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_version"));
        assert!(!error.is_temporary());
    });
}

fn another_program_s_schema_is_left_alone(server: &Postgres) {
    let database = server.database();
    for table in ["things (id int)", "meta (name text)"] {
        database.query(&format!(
            "DROP SCHEMA IF EXISTS sutazai CASCADE; CREATE SCHEMA sutazai; CREATE TABLE sutazai.{table}"
        ));
        let error = block_on(PostgresStore::open(database.url())).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Corrupt, "store_damaged"), "{error:?}");
        let tables = database.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'sutazai'");
        assert_eq!(tables, "1");
    }
}

fn who_is_refused_is_told_why_without_the_password(server: &Postgres) {
    let at = server.address();
    for (url, kind, code) in [
        (format!("postgres://nobody:s3cret@{at}/postgres"), ErrorKind::Invalid, "store_denied"),
        (format!("postgres://test:s3cret@{at}/nothing"), ErrorKind::Invalid, "store_missing"),
        ("postgres://test:s3cret@127.0.0.1:1/postgres".to_owned(), ErrorKind::Unavailable, "store_unavailable"),
    ] {
        let error = block_on(PostgresStore::open(url)).unwrap_err();
        assert_eq!((error.kind(), error.code()), (kind, code), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }
}

fn the_feed_waits_for_what_is_under_way(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let store = open(&database).await;
        let mut stranger = PgConnection::connect(&database.url()).await.unwrap();
        stranger.execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
        let step = created();
        store.write(&[insert(step.clone())]).await.unwrap();
        assert_eq!(store.feed(0, 10).await.unwrap(), []);
        stranger.execute("COMMIT").await.unwrap();
        // Transactions of other tests may be under way as well.
        let look = async {
            loop {
                let shown = store.feed(0, 10).await.unwrap();
                if !shown.is_empty() {
                    break shown;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let shown = timeout(PATIENCE, look).await.unwrap();
        assert_eq!(
            shown.iter().map(|numbered| &numbered.event).collect::<Vec<_>>(),
            step.events.iter().collect::<Vec<_>>()
        );
        assert!(shown[0].number < 1 << 53);
    });
}

/// Transactions sleep for different times just before they commit, so they commit in another order than they began.
fn the_feed_is_in_order_however_late_commits_come(server: &Postgres) {
    const WRITERS: usize = 8;
    const WRITES: usize = 25;
    let database = server.database();
    block_on(async {
        let store = Arc::new(open(&database).await);
        database.query(
            "CREATE FUNCTION sutazai.late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(random() / 50); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON sutazai.task_events DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION sutazai.late()",
        );
        let writers = (0..WRITERS).map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..WRITES {
                    let mut step = created();
                    store.write(&[insert(step.clone())]).await.unwrap();
                    let expected = step.task.revision;
                    step.events.clear();
                    step.apply(Command::Cancel, NOW).unwrap();
                    let write = TaskWrite::Update {
                        task: Arc::new(step.task),
                        expected,
                        events: step.events,
                        entries: Vec::new(),
                        key: None,
                    };
                    assert_eq!(store.write(&[write]).await.unwrap(), [WriteOutcome::Applied]);
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let (mut seen, mut after) = (Vec::new(), 0);
        let reading = async {
            while seen.len() < 2 * WRITERS * WRITES {
                for numbered in store.feed(after, 7).await.unwrap() {
                    assert!(numbered.number > after, "{} after {after}", numbered.number);
                    after = numbered.number;
                    seen.push((numbered.event.task_id, numbered.event.seq));
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, reading).await.expect("every event is shown");
        for writer in writers {
            writer.await.unwrap();
        }
        for (place, (task, seq)) in seen.iter().enumerate() {
            let before = seen[..place].iter().filter(|(other, _)| other == task).count();
            assert_eq!(u64::try_from(before).unwrap() + 1, *seq, "a task's events come in their own order");
        }
    });
}

fn another_process_is_heard_also_after_a_cut(server: &Postgres) {
    let database = server.database();
    let proxy = Proxy::start(server.address());
    block_on(async {
        let writer = open(&database).await;
        let listener = PostgresStore::open(database.url_through(&proxy)).await.unwrap();
        let runnable = Arc::new(Notify::new());
        let told = Arc::clone(&runnable);
        listener.watch(Arc::new(move || told.notify_one()));
        // Once when it begins to listen, and once for the task.
        timeout(PATIENCE, runnable.notified()).await.unwrap();
        writer.write(&[insert(created())]).await.unwrap();
        timeout(PATIENCE, runnable.notified()).await.unwrap();
        proxy.cut();
        timeout(PATIENCE, runnable.notified()).await.unwrap();
        writer.write(&[insert(created())]).await.unwrap();
        timeout(PATIENCE, runnable.notified()).await.unwrap();
    });
}

fn no_statement_reads_a_whole_table(server: &Postgres) {
    let database = server.database();
    block_on(async {
        let store = open(&database).await;
        for _ in 0..20 {
            let batch: Vec<_> = (0..50).map(|_| insert(created())).collect();
            store.write(&batch).await.unwrap();
            let granted = store.claim(&claim()).await.unwrap();
            assert_eq!(granted.tasks.len(), 50);
            let end = |task: sutazai_core::task::Task| {
                let step = engine::apply(&task, Command::Complete { output: Payload::null() }, NOW).unwrap();
                let (expected, task) = (task.revision, Arc::new(step.task));
                TaskWrite::Update { task, expected, events: step.events, entries: Vec::new(), key: None }
            };
            let ends: Vec<_> = granted.tasks.into_iter().map(end).collect();
            assert!(store.write(&ends).await.unwrap().iter().all(|outcome| *outcome == WriteOutcome::Applied));
        }
        store.close().await.unwrap();
    });
    // The counts come with the end of the connections.
    let scans = "SELECT coalesce(sum(seq_scan), 0), coalesce(sum(n_tup_upd), 0) FROM pg_stat_user_tables WHERE schemaname = 'sutazai' \
                 AND relname IN ('tasks', 'task_events')";
    let began = std::time::Instant::now();
    let counted = loop {
        let counted = database.query(scans);
        if counted.ends_with("|2000") || began.elapsed() > PATIENCE {
            break counted;
        }
        block_on(sleep(Duration::from_millis(50)));
    };
    // One for each of the indexes that were built.
    let built = database.query(
        "SELECT count(*) FROM pg_indexes WHERE schemaname = 'sutazai' AND tablename IN ('tasks', 'task_events')",
    );
    assert_eq!(counted, format!("{built}|2000"));
}

fn a_silent_network_is_not_waited_for(server: &Postgres) {
    let database = server.database();
    let proxy = Proxy::start(server.address());
    block_on(async {
        let mut config = PostgresConfig::from_url(database.url_through(&proxy)).unwrap();
        config.acquire_timeout = Duration::from_secs(1);
        config.statement_timeout = Duration::from_secs(1);
        let store = PostgresStore::connect(config).await.unwrap();
        store.write(&[insert(created())]).await.unwrap();
        proxy.stall(true);
        let error = timeout(PATIENCE, store.write(&[insert(created())])).await.expect("it gives up").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.is_temporary());
        proxy.stall(false);
        proxy.cut();
        timeout(PATIENCE, async { while store.ping().await.is_err() {} }).await.unwrap();
        assert_eq!(store.write(&[insert(created())]).await.unwrap(), [WriteOutcome::Applied]);
    });
}

fn what_was_acknowledged_is_there_after_a_crash(_: &Postgres) {
    let mut server = Postgres::start();
    let url = server.create_database("crash");
    block_on(async {
        let store = PostgresStore::open(url).await.unwrap();
        assert!(store.info().durable && store.info().shared);
        for signal in [Signal::Quit, Signal::Kill, Signal::Interrupt] {
            let steps: Vec<_> = (0..20).map(|_| created()).collect();
            for step in &steps {
                store.write(&[insert(step.clone())]).await.unwrap();
            }
            server.stop(signal);
            let error = store.write(&[insert(created())]).await.unwrap_err();
            assert!(error.is_temporary(), "{error:?}");
            server.start_again();
            let ids: Vec<_> = steps.iter().map(|step| step.task.id).collect();
            let found = store.load(&ids).await.unwrap();
            assert_eq!(found, steps.into_iter().map(|step| Some(step.task)).collect::<Vec<_>>());
        }
    });
}
