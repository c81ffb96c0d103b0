//! Tables and properties of schedules.

mod properties;

use serde_json::json;

use super::*;
use crate::{error::ErrorKind, payload::Payload, task::Target};

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn schedule(timing: Timing) -> Schedule {
    Schedule::new("nightly", timing, TaskTemplate::new("dev.echo", Payload::null()))
}

fn cron(expression: &str, zone: &str) -> Schedule {
    let mut schedule = schedule(Timing::Cron { expression: expression.to_owned() });
    schedule.time_zone = zone.to_owned();
    schedule
}

fn every(every_ms: u64) -> Schedule {
    schedule(Timing::Every { every_ms })
}

/// All firings in `(after, end]`.
fn walk(schedule: &Schedule, after: Timestamp, end: Timestamp) -> Vec<Timestamp> {
    let mut found = Vec::new();
    let mut from = after;
    while let Some(next) = next_after(schedule, Timestamp::default(), from).filter(|next| *next <= end) {
        assert!(next > from);
        found.push(next);
        from = next;
    }
    found
}

fn faults(schedule: &Schedule) -> Vec<(String, String)> {
    let error = schedule.check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.faults().iter().map(|fault| (fault.path.clone(), fault.message.clone())).collect()
}

#[test]
fn clock_changes_of_the_world() {
    // Zone, expression, after, the next firings in UTC.
    let table: &[(&str, &str, &str, &[&str])] = &[
        // 2026-03-29 02:00 +01:00 becomes 03:00 +02:00.
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
        // Several times in the gap are one firing, also with what stands at its end.
        (
            "Europe/Berlin",
            "0,20,40 2,3 * * *",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z"],
        ),
        ("Europe/Berlin", "*/15 * * * *", "2026-03-29T00:40:00Z", &["2026-03-29T00:45:00Z", "2026-03-29T01:00:00Z"]),
        ("Europe/Berlin", "30 * * * *", "2026-03-29T00:00:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"]),
        ("Europe/Berlin", "0 */2 * * *", "2026-03-28T23:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"]),
        // 2026-10-25 03:00 +02:00 becomes 02:00 +01:00.
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]),
        (
            "Europe/Berlin",
            "30 * * * *",
            "2026-10-25T00:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"],
        ),
        ("Europe/Berlin", "0 */2 * * *", "2026-10-24T22:00:00Z", &["2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"]),
        ("Europe/Berlin", "0 3 * * *", "2026-10-24T12:00:00Z", &["2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"]),
        // 2026-03-08 02:00 -05:00 becomes 03:00 -04:00; 2026-11-01 02:00 -04:00 becomes 01:00 -05:00.
        ("America/New_York", "15 2 * * *", "2026-03-07T12:00:00Z", &["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"]),
        ("America/New_York", "15 1 * * *", "2026-10-31T12:00:00Z", &["2026-11-01T05:15:00Z", "2026-11-02T06:15:00Z"]),
        (
            "America/New_York",
            "@hourly",
            "2026-11-01T04:30:00Z",
            &["2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z", "2026-11-01T07:00:00Z"],
        ),
        // Half an hour: 2026-10-04 02:00 +10:30 becomes 02:30 +11:00; 2026-04-05 02:00 +11:00 becomes 01:30 +10:30.
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T12:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 2 * * *",
            "2026-10-03T12:00:00Z",
            &["2026-10-03T15:45:00Z", "2026-10-04T15:45:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 1 * * *",
            "2026-04-04T12:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        (
            "Australia/Lord_Howe",
            "45 * * * *",
            "2026-04-04T14:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"],
        ),
        // The clock of Havana skips midnight: 2026-03-08 00:00 -05:00 becomes 01:00 -04:00.
        ("America/Havana", "@daily", "2026-03-07T12:00:00Z", &["2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"]),
        // Apia had no 30 December 2011.
        (
            "Pacific/Apia",
            "0 9 * * *",
            "2011-12-29T12:00:00Z",
            &["2011-12-29T19:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T19:00:00Z"],
        ),
    ];
    for (zone, expression, after, expected) in table {
        let mut from = at(after);
        for expected in *expected {
            let next = next_after(&cron(expression, zone), Timestamp::default(), from).unwrap();
            assert_eq!(next, at(expected), "{expression} in {zone} after {from}");
            from = next;
        }
    }
}

#[test]
fn leap_days_come_however_far_they_are() {
    let leap = cron("0 12 29 2 *", "UTC");
    let found = walk(&leap, at("2024-02-29T12:00:00Z"), at("2033-01-01T00:00:00Z"));
    assert_eq!(found, [at("2028-02-29T12:00:00Z"), at("2032-02-29T12:00:00Z")]);
    let next = |schedule: &Schedule, after| next_after(schedule, Timestamp::default(), at(after));
    assert_eq!(next(&leap, "2096-02-29T12:00:00Z"), Some(at("2104-02-29T12:00:00Z")));
    // A day of the week that begins with `*` must match too: 29 February is a Sunday each 28 years, or 40.
    let sunday = cron("0 0 29 2 */7", "UTC");
    assert_eq!(next(&sunday, "2088-03-01T00:00:00Z"), Some(at("2128-02-29T00:00:00Z")));
}

#[test]
fn one_of_two_day_fields_is_enough_unless_one_has_a_star() {
    let days = |expression| {
        let found = walk(&cron(expression, "UTC"), at("2026-11-01T00:00:00Z"), at("2026-11-30T23:59:00Z"));
        found.iter().map(|time| time.to_string()[8..10].parse::<u8>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(days("0 6 13 * FRI"), [6, 13, 20, 27]);
    assert_eq!(days("0 6 1,15 NOV mon"), [1, 2, 9, 15, 16, 23, 30]);
    assert_eq!(days("0 6 */10 * 0,6"), [1, 21]);
    assert_eq!(days("0 6 * * 5-7/2"), [1, 6, 8, 13, 15, 20, 22, 27, 29]);
    assert_eq!(days("@monthly"), Vec::<u8>::new());
    assert_eq!(days("@weekly"), [8, 15, 22, 29]);
}

#[test]
fn intervals_do_not_drift_and_begin_with_one() {
    let (created, schedule) = (at("2026-01-01T00:00:00.007Z"), every(90_000));
    let next = |after| next_after(&schedule, created, at(after)).unwrap();
    assert_eq!(next("2025-01-01T00:00:00Z"), at("2026-01-01T00:01:30.007Z"));
    assert_eq!(next("2026-01-01T00:00:00.007Z"), at("2026-01-01T00:01:30.007Z"));
    assert_eq!(next("2026-01-01T00:01:30.007Z"), at("2026-01-01T00:03:00.007Z"));
    assert_eq!(next("2026-01-01T00:04:29Z"), at("2026-01-01T00:04:30.007Z"));
    assert_eq!(next_after(&every(MAX_INTERVAL_MS), Timestamp::from_millis(i64::MAX), Timestamp::default()), None);
}

#[test]
fn what_was_missed_is_caught_up_with_as_asked() {
    let (created, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T05:30:00Z"));
    let mut hourly = cron("@hourly", "UTC");
    let last = Some(at("2026-01-01T02:00:00Z"));
    let next = Some(at("2026-01-01T06:00:00Z"));
    let five = at("2026-01-01T05:00:00Z");
    assert_eq!(firings(&hourly, created, last, now), Firings { due: vec![five], next });
    assert_eq!(firings(&hourly, created, Some(five), now), Firings { due: vec![], next });
    hourly.catch_up = CatchUp::None;
    assert_eq!(firings(&hourly, created, last, now), Firings { due: vec![], next });
    assert_eq!(firings(&hourly, created, last, at("2026-01-01T05:01:00Z")).due, [five]);
    assert_eq!(firings(&hourly, created, last, at("2026-01-01T05:01:00.001Z")).due, []);
    hourly.catch_up = CatchUp::All;
    let due = vec![at("2026-01-01T03:00:00Z"), at("2026-01-01T04:00:00Z"), five];
    assert_eq!(firings(&hourly, created, last, now), Firings { due, next });
    // The moment of creation counts, if the schedule hits it.
    assert_eq!(firings(&hourly, created, None, created).due, [created]);
    // A clock that went back fires nothing.
    assert_eq!(firings(&hourly, created, next, now), Firings { due: vec![], next: Some(at("2026-01-01T07:00:00Z")) });
}

#[test]
fn much_that_was_missed_comes_in_portions_and_in_bounded_time() {
    let created = at("2026-01-01T00:00:00Z");
    let mut often = every(100);
    assert_eq!(firings(&often, created, None, at("2036-01-01T00:00:00.050Z")).due, [at("2036-01-01T00:00:00.000Z")]);
    often.catch_up = CatchUp::All;
    let now = at("2026-01-01T00:04:10.099Z"); // 2,500 intervals
    let (mut last, mut sizes, mut all) = (None, Vec::new(), Vec::new());
    loop {
        let found = firings(&often, created, last, now);
        sizes.push(found.due.len());
        last = found.due.last().copied().or(last);
        all.extend(found.due);
        if found.next.is_none_or(|next| next > now) {
            break;
        }
    }
    assert_eq!(sizes, [1_000, 1_000, 500]);
    assert!(all.windows(2).all(|pair| pair[0].until(pair[1]).as_millis() == 100));
}

#[test]
fn a_moment_fires_once() {
    let (created, time) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let mut once = schedule(Timing::At { time });
    assert!(once.is_one_shot() && once.check().is_ok());
    assert_eq!(firings(&once, created, None, created), Firings { due: vec![], next: Some(time) });
    let late = at("2026-01-03T00:00:00Z");
    assert_eq!(firings(&once, created, None, late), Firings { due: vec![time], next: None });
    assert_eq!(firings(&once, created, Some(time), late), Firings::default());
    assert_eq!(firings(&once, late, None, late), Firings { due: vec![late], next: None }, "the moment had passed");
    once.catch_up = CatchUp::None;
    assert_eq!(firings(&once, created, None, late), Firings::default());
}

#[test]
fn a_bad_expression_is_told_by_field() {
    let message = |expression: &str| {
        let found = faults(&cron(expression, "UTC"));
        assert!(found.iter().all(|(path, _)| path == "/cron"), "{found:?}");
        found.into_iter().map(|(_, message)| message).collect::<Vec<_>>()
    };
    let allowed = "with *, ranges a-b, steps /n and lists a,b";
    assert_eq!(
        message("60 24 * * *"),
        [
            format!("minute \"60\": value must be in range 0..=59; found 60; allowed are 0-59, {allowed}"),
            format!("hour \"24\": value must be in range 0..=23; found 24; allowed are 0-23, {allowed}"),
        ]
    );
    for (expression, part) in [
        ("* * 32 * *", "day of month \"32\": value must be in range 1..=31; found 32"),
        ("* * * JAM *", "month \"JAM\": malformed"),
        ("* * * * 8", "day of week \"8\": value must be in range 0..=7"),
        ("*/0 * * * *", "minute \"*/0\": step must be greater than 0"),
        ("0 9-5 * * *", "hour \"9-5\": range must be in ascending order; found 9-5"),
        ("0 0 L * *", "day of month \"L\": malformed"),
        ("0 0 * * 5#2", "day of week \"5#2\": malformed"),
        ("0 0 * * * Europe/Berlin", "has 6 fields; 5 fields are needed"),
        ("* * * *", "has 4 fields"),
        ("", "has 0 fields"),
        ("@reboot", "has 1 fields"),
        ("0 0 30 2 *", "never fires"),
        ("1,,2 * * * *", "minute \"1,,2\": malformed"),
        ("ä * * * *", "minute \"ä\": malformed"),
        (&"1,".repeat(200), "400 bytes; at most 256"),
    ] {
        let found = message(expression);
        assert!(found.len() == 1 && found[0].contains(part), "{expression}: {found:?}");
    }
}

#[test]
fn every_bad_value_is_named() {
    let mut wrong = cron("61 * * * *", "Europe/Bärlin");
    wrong.name = "no spaces".to_owned();
    wrong.task.labels.insert(SCHEDULE_LABEL.to_owned(), "mine".to_owned());
    wrong.task.retry.max_attempts = 0;
    let paths: Vec<_> = faults(&wrong).into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/name", "/cron", "/time_zone", "/task/retry/max_attempts", "/task/labels/schedule"]);
    for name in ["", &"n".repeat(65), "a/b"] {
        let mut schedule = every(1_000);
        schedule.name = name.to_owned();
        assert_eq!(faults(&schedule)[0].0, "/name");
    }
    for every_ms in [0, MIN_INTERVAL_MS - 1, MAX_INTERVAL_MS + 1, u64::MAX] {
        assert_eq!(faults(&every(every_ms))[0].0, "/every_ms");
        assert_eq!(next_after(&every(every_ms), Timestamp::default(), Timestamp::default()), None);
    }
    for zone in ["", "Mars/Olympus", "Etc/Unknown", "+01:00", "CET-1CEST"] {
        assert_eq!(faults(&cron("* * * * *", zone))[0].0, "/time_zone", "{zone}");
    }
    for zone in ["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Argentina/Ushuaia"] {
        assert!(cron("* * * * *", zone).check().is_ok(), "{zone}");
    }
}

#[test]
fn goldens_of_the_stored_form() {
    let full = json!({"name": "report", "cron": "0 6 * * MON-FRI", "time_zone": "Europe/Berlin",
        "task": {"agent": "dev.echo", "input": {"text": "hi"}, "priority": 7,
                 "retry": {"max_attempts": 2, "initial_ms": 10, "max_ms": 20}, "labels": {"team": "blue"},
                 "tenant": "acme", "webhook": {"url": "https://example.org/hook"}},
        "catch_up": "all", "overlap": "cancel"});
    let text = concat!(
        r#"{"name":"report","cron":"0 6 * * MON-FRI","time_zone":"Europe/Berlin","task":{"agent":"dev.echo","#,
        r#""input":{"text":"hi"},"priority":7,"retry":{"max_attempts":2,"initial_ms":10,"max_ms":20},"#,
        r#""labels":{"team":"blue"},"tenant":"acme","webhook":{"url":"https://example.org/hook"}},"#,
        r#""catch_up":"all","overlap":"cancel"}"#,
    );
    let schedule = Payload::of(&full).unwrap().read::<Schedule>().unwrap();
    assert!(schedule.check().is_ok());
    assert_eq!(serde_json::to_string(&schedule).unwrap(), text);
    let request = schedule.request();
    assert_eq!(request.target, Target::Agent("dev.echo".to_owned()));
    assert_eq!((request.priority.get(), &*request.tenant), (7, "acme"));
    assert_eq!(request.webhook.as_deref(), Some("https://example.org/hook"));
    assert_eq!(request.labels["schedule"], "report");

    for (given, stored) in [
        (r#"{"name":"a","every_ms":500,"task":{"input":{}}}"#, r#""every_ms":500"#),
        (r#"{"name":"a","at":"2026-12-01T01:00:00+01:00","task":{"input":{}}}"#, r#""at":"2026-12-01T00:00:00.000Z""#),
    ] {
        let rest = r#""task":{"input":{},"priority":5,"retry":{"max_attempts":3,"initial_ms":200,"max_ms":30000}}"#;
        let text = format!(r#"{{"name":"a",{stored},"time_zone":"UTC",{rest},"catch_up":"last","overlap":"skip"}}"#);
        let schedule: Schedule = serde_json::from_str(given).unwrap();
        assert_eq!(serde_json::to_string(&schedule).unwrap(), text);
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), schedule);
        assert_eq!(schedule.request().target, Target::Meaning);
    }
}

#[test]
fn what_is_no_schedule_is_not_read() {
    for (text, path, part) in [
        (r#"{"task":{"input":1}}"#, "", "one of cron, every_ms and at is needed"),
        (r#"{"every_ms":500,"at":"2026-12-01T00:00:00Z","task":{"input":1}}"#, "", "exactly one of"),
        (r#"{"every_ms":500,"jitter":1,"task":{"input":1}}"#, "/jitter", "unknown field"),
        (r#"{"every_ms":500,"task":{"input":1,"deadline":"2026-12-01T00:00:00Z"}}"#, "/task/deadline", "unknown field"),
        (r#"{"every_ms":500,"task":{"agent":"a"}}"#, "/task/input", "missing field `input`"),
        (r#"{"at":"soon","task":{"input":1}}"#, "/at", "RFC 3339"),
        (r#"{"every_ms":500,"task":{"input":1},"overlap":"wait"}"#, "/overlap", "unknown variant"),
    ] {
        let error = Payload::from_text(text).unwrap().read::<Schedule>().unwrap_err();
        let fault = &error.faults()[0];
        assert!(fault.path == path && fault.message.contains(part), "{text}: {fault:?}");
    }
    assert_eq!(serde_json::from_str::<Schedule>(r#"{"every_ms":500,"task":{"input":1}}"#).unwrap().name, "");
}
