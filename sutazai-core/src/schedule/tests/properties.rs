//! Schedules against a plain scan of minutes and of days.

use std::collections::BTreeSet;

use jiff::{
    ToSpan as _,
    civil::{DateTime, date},
    tz::TimeZone,
};
use proptest::{collection::vec, prelude::*};

use super::*;

const ZONES: [&str; 9] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "America/Sao_Paulo",
    "Africa/Casablanca",
    "Pacific/Apia",
    "Asia/Kathmandu",
];

/// One field as text and as the set of what it means.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    values: BTreeSet<u8>,
}

impl Field {
    fn has(&self, value: i8) -> bool {
        self.values.contains(&u8::try_from(value).unwrap())
    }
}

fn field(min: u8, max: u8) -> impl Strategy<Value = Field> {
    let item = (0..8u8, min..=max, min..=max, 1..=max).prop_map(move |(shape, a, b, step)| {
        let (a, b) = (a.min(b), a.max(b));
        match shape {
            0 | 1 => ("*".to_owned(), min, max, 1),
            2 => (format!("*/{step}"), min, max, step),
            3 => (format!("{a}-{b}"), a, b, 1),
            4 => (format!("{a}-{b}/{step}"), a, b, step),
            5 => (format!("{a}/{step}"), a, max, step),
            _ => (format!("{a}"), a, a, 1),
        }
    });
    vec(item, 1..4).prop_map(|items| Field {
        text: items.iter().map(|(text, ..)| text.as_str()).collect::<Vec<_>>().join(","),
        values: items.iter().flat_map(|(_, from, to, step)| (*from..=*to).step_by(usize::from(*step))).collect(),
    })
}

fn star(max: u8) -> Field {
    Field { text: "*".to_owned(), values: (0..=max).collect() }
}

#[derive(Clone, Debug)]
struct Expression([Field; 5]);

impl Expression {
    fn text(&self) -> String {
        self.0.each_ref().map(|field| field.text.as_str()).join(" ")
    }

    fn matches(&self, time: DateTime) -> bool {
        let [minute, hour, day, month, weekday] = &self.0;
        let of_month = day.has(time.day());
        let sunday_zero = time.weekday().to_sunday_zero_offset();
        let of_week = weekday.has(sunday_zero) || (sunday_zero == 0 && weekday.has(7));
        let both = day.text.starts_with('*') || weekday.text.starts_with('*');
        let days = if both { of_month && of_week } else { of_month || of_week };
        minute.has(time.minute()) && hour.has(time.hour()) && month.has(time.month()) && days
    }

    fn every_hour(&self) -> bool {
        self.0[1].values.len() == 24
    }
}

fn expression() -> impl Strategy<Value = Expression> {
    let days = prop_oneof![3 => Just((star(31), star(12), star(7))), 1 => (field(1, 31), Just(star(12)), field(0, 7))];
    (field(0, 59), field(0, 23), days)
        .prop_map(|(minute, hour, (day, month, weekday))| Expression([minute, hour, day, month, weekday]))
}

fn stamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millisecond())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The scan knows only this: time goes on minute by minute, and a named hour's wall-clock minute counts when the
    /// clock first reaches or passes it.
    #[test]
    fn next_after_agrees_with_a_scan_of_minutes(
        expression in expression(), zone in 0..ZONES.len(), near: bool,
        minutes in 21_000_000i64..32_000_000, before in 0i64..3_000,
    ) {
        let name = ZONES[zone];
        let zone = crate::schedule::cron::zone(name).unwrap();
        let anywhere = jiff::Timestamp::from_second(minutes * 60).unwrap();
        let change = zone.following(anywhere).next().map(|change| change.timestamp());
        let start = if near { change.unwrap_or(anywhere) } else { anywhere } - before.minutes();
        let end = start + (4 * 1_440).minutes();

        let local = |time: jiff::Timestamp| zone.to_datetime(time);
        let mut seen = local(start - 4_000.minutes());
        let mut expected = Vec::new();
        let mut now = start - 4_000.minutes();
        while now < end {
            now += 1.minute();
            let civil = local(now);
            let mut hit = false;
            if expression.every_hour() {
                hit = expression.matches(civil);
            } else {
                while seen < civil {
                    seen += 1.minute();
                    hit |= expression.matches(seen);
                }
            }
            if hit && now > start {
                expected.push(stamp(now));
            }
        }
        let schedule = cron(&expression.text(), name);
        if schedule.check().is_ok() {
            prop_assert_eq!(walk(&schedule, stamp(start), stamp(end)), expected, "{} in {}", expression.text(), name);
        } else {
            prop_assert!(expected.is_empty(), "{} is refused but fires", expression.text());
        }
    }

    #[test]
    fn days_agree_with_a_scan_of_days(
        day in field(1, 31), month in field(1, 12), weekday in field(0, 7), year in 2020i16..2060,
    ) {
        let noon = Field { text: "12".to_owned(), values: BTreeSet::from([12]) };
        let sharp = Field { text: "0".to_owned(), values: BTreeSet::from([0]) };
        let expression = Expression([sharp, noon, day, month, weekday]);
        let start = date(year, 1, 1).at(0, 0, 0, 0);
        let expected: Vec<_> = (0..800)
            .map(|days| start.date().at(12, 0, 0, 0) + days.days())
            .filter(|time| expression.matches(*time))
            .map(|time| stamp(TimeZone::UTC.to_timestamp(time).unwrap()))
            .collect();
        let schedule = cron(&expression.text(), "UTC");
        let first = stamp(TimeZone::UTC.to_timestamp(start).unwrap());
        let end = first.plus(std::time::Duration::from_secs(800 * 86_400 - 1));
        if schedule.check().is_ok() {
            prop_assert_eq!(walk(&schedule, first, end), expected, "{}", expression.text());
        } else {
            prop_assert!(expected.is_empty(), "{} is refused but fires", expression.text());
        }
    }

    #[test]
    fn next_after_is_monotonic_and_strictly_later(
        expression in expression(), zone in 0..ZONES.len(),
        a in 1_300_000_000_000i64..1_900_000_000_000, width in 0i64..200_000_000,
    ) {
        let schedule = cron(&expression.text(), ZONES[zone]);
        let next = |millis| next_after(&schedule, Timestamp::default(), Timestamp::from_millis(millis));
        if let (Some(first), Some(second)) = (next(a), next(a + width)) {
            prop_assert!(first.as_millis() > a && second.as_millis() > a + width && first <= second);
        }
    }

    /// However the looks fall: all firings are found once and in order, or the newest at each look.
    #[test]
    fn no_firing_is_lost_or_doubled_between_looks(
        expression in expression(), zone in 0..ZONES.len(), looks in vec(1u64..40_000_000, 1..8),
    ) {
        let mut schedule = cron(&expression.text(), ZONES[zone]);
        prop_assume!(schedule.check().is_ok());
        let created = at("2026-10-23T11:11:11.111Z");
        let truth = |after: Timestamp, end| walk(&schedule, after, end);
        let (mut now, mut last, mut previous) = (created, None, created);
        let mut steps = Vec::new();
        for look in looks {
            now = now.plus(std::time::Duration::from_millis(look));
            steps.push((previous, now, truth(previous, now)));
            previous = now;
        }
        for (_, now, new) in &steps {
            let found = firings(&schedule, created, last, *now);
            prop_assert_eq!(found.due.as_slice(), new.last().map_or(&[][..], std::slice::from_ref));
            prop_assert!(found.next.is_none_or(|next| next > *now));
            last = found.due.last().copied().or(last);
        }
        schedule.catch_up = CatchUp::All;
        let (mut all, mut last) = (Vec::new(), None);
        for (_, now, _) in &steps {
            loop {
                let found = firings(&schedule, created, last, *now);
                last = found.due.last().copied().or(last);
                all.extend(found.due);
                if found.next.is_none_or(|next| next > *now) {
                    break;
                }
            }
        }
        prop_assert_eq!(all, steps.into_iter().flat_map(|(_, _, new)| new).collect::<Vec<_>>());
    }

    #[test]
    fn intervals_are_whole_multiples(
        every_ms in MIN_INTERVAL_MS..1_000_000_000, created in -1_000_000_000_000i64..2_000_000_000_000, after: i32,
    ) {
        let after_it = Timestamp::from_millis(created + i64::from(after));
        let next = next_after(&every(every_ms), Timestamp::from_millis(created), after_it).unwrap();
        let passed = next.as_millis() - created;
        let every_ms = i64::try_from(every_ms).unwrap();
        prop_assert_eq!(passed % every_ms, 0);
        prop_assert!(passed >= every_ms && passed > i64::from(after));
        prop_assert!(passed == every_ms || passed - every_ms <= i64::from(after));
    }

    #[test]
    fn no_text_breaks_the_parser(text in "\\PC{0,20}", near in "[0-9*,/ A-Z#LWH@-]{0,24}", millis: i64) {
        for text in [&text, &near, &format!("{near} * * * *"), &format!("* * * * {near}")] {
            let schedule = cron(text, &near);
            let refused = schedule.check().is_err();
            prop_assert!(refused || schedule.time_zone == near);
            let schedule = cron(text, "Europe/Berlin");
            let next = next_after(&schedule, Timestamp::default(), Timestamp::from_millis(millis));
            prop_assert!(schedule.check().is_ok() || next.is_none());
        }
    }
}
