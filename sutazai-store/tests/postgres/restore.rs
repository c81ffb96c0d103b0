//! A backup goes on where it was, whatever cluster it is put into.

use super::*;

pub(crate) fn a_backup_goes_on_in_another_cluster(server: &Postgres) {
    let database = server.database();
    // Another cluster has not come as far.
    server
        .query("postgres", "DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    let other = Postgres::start();
    block_on(async {
        let store = open(&database).await;
        let before: Vec<_> = (0..3).map(|_| created()).collect();
        store.write(&before.iter().cloned().map(insert).collect::<Vec<_>>()).await.unwrap();
        store.close().await.unwrap();
        let url = database.restore_into(&other, "restored");
        let stored: u64 = other.query("restored", "SELECT max(number) FROM sutazai.task_events").parse().unwrap();

        let opened = futures_util::future::join_all((0..4).map(|_| PostgresStore::open(url.clone()))).await;
        let opened: Vec<_> = opened.into_iter().map(Result::unwrap).collect();
        let mut after = Vec::new();
        for store in &opened {
            let step = created();
            assert_eq!(store.write(&[insert(step.clone())]).await.unwrap(), [WriteOutcome::Applied]);
            after.push(step);
        }
        let feed = opened[1].feed(0, 100).await.unwrap();
        let shown: Vec<_> = feed.iter().map(|numbered| numbered.event.task_id).collect();
        let expected: Vec<_> = before.iter().chain(&after).map(|step| step.task.id).collect();
        assert_eq!(shown, expected, "what was there, then what is new");
        assert!(feed[3].number > stored && feed.is_sorted_by(|a, b| a.number < b.number));
        assert_eq!(opened[2].claim(&claim()).await.unwrap().tasks.len(), 7);
        // A program that numbers as before the restore is kept out.
        assert_eq!(other.query("restored", "SELECT value FROM sutazai.meta WHERE key = 'min_reader'"), "2");
        let shift = "SELECT value FROM sutazai.meta WHERE key = 'feed_shift'";
        let shifted = other.query("restored", shift);
        PostgresStore::open(url).await.unwrap().ping().await.unwrap();
        assert_eq!(other.query("restored", shift), shifted, "once is enough");
        assert_eq!(database.query(shift), "0", "where it came from nothing has changed");
    });
}

pub(crate) fn a_database_that_only_reads_is_tried_again(server: &Postgres) {
    let database = server.database();
    block_on(async {
        open(&database).await.close().await.unwrap();
        let only = |on: &str| {
            let sql = format!("ALTER DATABASE {} SET default_transaction_read_only = {on}", database.name());
            server.query("postgres", &sql)
        };
        only("on");
        let store = open(&database).await;
        store.ping().await.unwrap();
        let error = store.write(&[insert(created())]).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "store_unavailable"));
        assert!(error.is_temporary(), "{error:?}");
        only("off");
        // Over a new connection: the old one would read only for as long as it lives.
        assert_eq!(store.write(&[insert(created())]).await.unwrap(), [WriteOutcome::Applied]);
    });
}
