//! The durable engine on the real binary: kills, freezes, a database that ends, a network that cuts and a full disk, in the middle of recorded work.
//!
//! An external ledger says what was done: files that tasks append to. Whatever was acknowledged must finish, and no step may run again after its outcome was
//! recorded; an execution that was cut short may repeat the one effect that it was at.
//! `SUTAZAI_KILL_ROUNDS` says how many faults a case makes (10).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what went wrong by failing"
)]
#![allow(clippy::disallowed_methods, reason = "a test waits for other processes on its own thread")]

#[path = "../binary/mod.rs"]
mod binary;
mod client;
mod database;
mod disk;
mod freezes;
mod kills;
mod load;
mod roles;
mod schedules;
mod site;
mod waits;

use std::process::ExitCode;

use binary::SmallDisk;
use libtest_mimic::{Arguments, Completion, Trial};
use sutazai_testing::{Postgres, lacking, trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let alone = |name: &str, test: fn(&[&str])| {
        Trial::test(format!("sqlite::{name}"), move || {
            test(&[]);
            Ok(())
        })
    };
    let listed = arguments.list;
    let postgres = || if listed { Err("only listed".to_owned()) } else { Postgres::shared() };
    let shared = |name: &str, test: fn(&[&str])| {
        trial(format!("postgres::{name}"), postgres(), move |server| {
            let database = server.database();
            test(&["--store", &database.url()]);
            Ok(())
        })
    };
    // Of its own: it comes to harm.
    let own = |name: &str, test: fn(Postgres)| {
        let found = if listed { Err("only listed".to_owned()) } else { Postgres::find() };
        trial(format!("postgres::{name}"), found, move |_| {
            test(Postgres::start());
            Ok(())
        })
    };
    let on_a_small_disk = |name: &str, test: fn() -> Result<(), String>| {
        Trial::ignorable_test(name, move || {
            // Nothing that can be installed makes up for this one.
            if listed || SmallDisk::mount(1).is_none() {
                return Ok(Completion::ignored_with(SmallDisk::LACKING));
            }
            test().map_or_else(lacking, |()| Ok(Completion::Completed))
        })
    };
    let trials = vec![
        alone("recorded_steps_run_once_through_kills", kills::recorded_steps_run_once_through_kills),
        shared("recorded_steps_run_once_through_kills", kills::recorded_steps_run_once_through_kills),
        alone("kills_under_load", kills::kills_under_load),
        shared("kills_of_apis_and_workers_under_load", kills::kills_of_apis_and_workers_under_load),
        shared("a_killed_worker_s_tasks_go_on_elsewhere", kills::a_killed_worker_s_tasks_go_on_elsewhere),
        alone("waits_outlive_kills", waits::waits_outlive_kills),
        shared("waits_outlive_kills", waits::waits_outlive_kills),
        alone("each_moment_has_its_task_through_kills", schedules::each_moment_has_its_task_through_kills),
        shared("each_moment_has_its_task_through_kills", schedules::each_moment_has_its_task_through_kills),
        alone("freezes_past_the_lease_under_load", freezes::freezes_past_the_lease_under_load),
        shared("freezes_past_the_lease_under_load", freezes::freezes_past_the_lease_under_load),
        shared("a_frozen_worker_s_results_come_too_late", freezes::a_frozen_worker_s_results_come_too_late),
        shared("a_rolling_restart_fails_no_request", roles::a_rolling_restart_fails_no_request),
        shared("a_worker_answers_operators_alone", roles::a_worker_answers_operators_alone),
        own("it_ends_at_once_and_starts_again_under_load", database::it_ends_at_once_and_starts_again_under_load),
        trial("postgres::connections_are_cut_under_load", postgres(), |server| {
            database::connections_are_cut_under_load(server);
            Ok(())
        }),
        on_a_small_disk("sqlite::a_full_disk_refuses_and_loses_nothing", || {
            disk::sqlite();
            Ok(())
        }),
        on_a_small_disk("postgres::a_full_disk_refuses_and_loses_nothing", || Postgres::shared().map(disk::postgres)),
        on_a_small_disk("postgres::a_disk_full_of_its_log_loses_nothing", || {
            Postgres::find().map(|installation| disk::all_of_postgres(&installation))
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}
