//! The stored format of PostgreSQL, as text: a change of it is a change that every database out there meets. `SUTAZAI_BLESS=1` writes it anew.
#![cfg(feature = "postgres")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

#[path = "golden/story.rs"]
mod story;

use std::fmt::Write as _;

use libtest_mimic::Arguments;
use sutazai_core::store::TaskStore;
use sutazai_store::PostgresStore;
use sutazai_testing::{Postgres, TestDatabase, trial};

/// Tables in which nothing depends on the moment, each with what rows are in order of.
const TABLES: [(&str, &str); 11] = [
    ("meta", "key"),
    ("tasks", "id"),
    ("task_events", "number"),
    ("task_labels", "key, value"),
    ("idempotency_keys", "key"),
    ("journal_entries", "task_id, era, idx"),
    ("signals", "number"),
    ("schedules", "name"),
    ("deliveries", "task_id"),
    ("rates", "agent"),
    ("budgets", "account"),
];

/// All of a schema: tables with their columns, indexes, constraints and functions.
const SCHEMA: &str = "
    select 'table ' || c.relname || coalesce(' with (' || array_to_string(c.reloptions, ', ') || ')', '') || E'\\n' || string_agg(
        '  ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
            || case when l.collname <> 'default' then ' collate ' || l.collname else '' end
            || case when a.attnotnull then ' not null' else '' end
            || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), ''), E'\\n' order by a.attnum)
    from pg_class c
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        left join pg_collation l on l.oid = a.attcollation
    where c.relnamespace = 'sutazai'::regnamespace and c.relkind in ('r', 'p') and c.relname not like '\\_sqlx%'
    group by c.oid, c.relname, c.reloptions order by c.relname;
    select indexdef from pg_indexes where schemaname = 'sutazai' and tablename not like '\\_sqlx%' order by indexname;
    select conrelid::regclass || ' ' || pg_get_constraintdef(oid) from pg_constraint
    where connamespace = 'sutazai'::regnamespace and conrelid::regclass::text not like '%\\_sqlx%' order by 1;
    select pg_get_functiondef(oid) from pg_proc where pronamespace = 'sutazai'::regnamespace order by proname, oid;
    select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by tgname";

fn main() {
    let golden = trial("the_stored_format_is_the_one_that_was_released", Postgres::shared(), |server| {
        the_stored_format_is_the_one_that_was_released(&server.database());
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![golden]).exit();
}

fn the_stored_format_is_the_one_that_was_released(database: &TestDatabase<'_>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = PostgresStore::open(database.url()).await.map_err(|error| error.report()).unwrap();
        story::store_a_task(&store).await;
        story::store_a_family(&store).await;
        story::store_budgets(&store).await;
        store.close().await.unwrap();
    });
    let mut text = String::new();
    for statement in SCHEMA.split(';') {
        let found = database.query(statement);
        if !found.is_empty() {
            writeln!(text, "{found}\n").unwrap();
        }
    }
    for (table, order) in TABLES {
        // Numbers of the feed are those of transactions: their order counts.
        let row = match table {
            "tasks" => "to_jsonb(t) || jsonb_build_object('feed', rank() over (order by feed))",
            "task_events" => "to_jsonb(t) || jsonb_build_object('number', rank() over (order by number))",
            _ => "to_jsonb(t)",
        };
        let sql = format!(
            "select string_agg(E'\\n  ' || key || ': ' || value, '' order by place) from (
                select n, key, value, row_number() over () as place from (
                    select row_number() over (order by {order}) as n, {row} as it from sutazai.{table} t
                ) rows, jsonb_each_text(it) where value is not null
            ) cells group by n order by n"
        );
        for row in database.query(&sql).split("\n\n").filter(|row| !row.is_empty()) {
            writeln!(text, "{table}\n{}\n", row.trim_matches('\n')).unwrap();
        }
    }
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/postgres.txt");
    if std::env::var_os("SUTAZAI_BLESS").is_some() {
        std::fs::write(golden, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(golden).unwrap(), "the stored format has changed");
}
