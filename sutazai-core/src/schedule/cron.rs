//! Cron expressions in time zones. The expression is parsed by `cronexpr`, which is asked about wall-clock times alone
//! (it reads them as UTC); what happens when clocks change is decided here.

use std::sync::LazyLock;

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::{
    ToSpan as _,
    civil::DateTime,
    tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase},
};

use crate::{clock::Timestamp, error::Fault};

/// No expression is longer, in bytes.
const MAX_LENGTH: usize = 256;

/// Name, range and what else may stand in it, of each field in its order.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31"),
    ("month", "1-12 and JAN-DEC"),
    ("day of week", "0-7 and SUN-SAT"),
];

const ALIASES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// The same on every node of one version, whatever its system has installed.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The zone of this IANA name, in any case.
pub(super) fn zone(name: &str) -> Result<TimeZone, Fault> {
    ZONES.get(name).ok().filter(|zone| !zone.is_unknown()).ok_or_else(|| {
        let message =
            format!("{name:?} is no time zone known here; allowed are IANA names such as UTC and Europe/Berlin");
        Fault::new("/time_zone", message)
    })
}

/// The wall-clock times of an expression.
pub(super) struct Times {
    table: Crontab,
    names_hours: bool,
}

/// The moments of an expression in a zone.
pub(super) struct Cron {
    times: Times,
    zone: TimeZone,
}

impl Cron {
    /// Parses `expression`; each bad field is a fault of its own, all at `/cron`.
    pub(super) fn parse(expression: &str) -> Result<Times, Vec<Fault>> {
        let fault = |message: String| Fault::new("/cron", message);
        if expression.len() > MAX_LENGTH {
            return Err(vec![fault(format!("{} bytes; at most {MAX_LENGTH} are allowed", expression.len()))]);
        }
        let alias = ALIASES.iter().find(|(alias, _)| expression.trim() == *alias);
        let fields: Vec<_> = alias.map_or(expression, |(_, meaning)| meaning).split_ascii_whitespace().collect();
        if fields.len() != FIELDS.len() {
            let message = "5 fields are needed (minute, hour, day of month, month, day of week) or one of \
                           @hourly, @daily, @weekly, @monthly, @yearly";
            return Err(vec![fault(format!("{expression:?} has {} fields; {message}", fields.len()))]);
        }
        let faults: Vec<_> =
            fields.iter().enumerate().filter_map(|(n, field)| Some(fault(complaint(n, field)?))).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let parse = |text: String| table(&text).map_err(|reason| vec![fault(reason)]);
        let hours = parse(format!("0 {} * * *", fields[1]))?;
        let every_hour = (0..24).all(|hour| {
            let moment = MakeTimestamp::from_second(hour * 3_600);
            moment.is_ok_and(|moment| hours.matches(moment).unwrap_or(false))
        });
        let times = Times { table: parse(fields.join(" "))?, names_hours: !every_hour };
        if times.next(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)).is_none() {
            return Err(vec![fault(format!("{expression:?} never fires: there is no such day in the calendar"))]);
        }
        Ok(times)
    }

    /// The first moment strictly after `after`.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let after = jiff::Timestamp::from_millisecond(after.as_millis()).ok()?;
        let next = if self.times.names_hours { self.next_named(after) } else { self.next_hourly(after) };
        next.map(|next| Timestamp::from_millis(next.as_millisecond()))
    }

    /// For named hours: each wall-clock time is one moment, its first, or the end of the gap that swallowed it. That
    /// never decreases, so the first of these moments after `after` is the one.
    fn next_named(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let mut civil = self.zone.to_datetime(after);
        loop {
            civil = self.times.next(civil)?;
            let moment = match self.zone.to_ambiguous_timestamp(civil).offset() {
                AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok()?,
                AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok()?,
                AmbiguousOffset::Gap { after, .. } => {
                    let earlier = after.to_timestamp(civil).ok()?; // by the later offset it lies before the change
                    self.zone.following(earlier).next()?.timestamp()
                }
            };
            if moment > after {
                return Some(moment);
            }
        }
    }

    /// For every hour: each moment whose wall clock matches. Between two changes of the clock that is plain arithmetic.
    fn next_hourly(&self, after: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let (mut from, mut inclusive) = (after, false);
        loop {
            let offset = self.zone.to_offset(from);
            let mut civil = offset.to_datetime(from);
            if inclusive {
                civil = civil.checked_sub(1.nanosecond()).ok()?;
            }
            let moment = self.times.next(civil).and_then(|civil| offset.to_timestamp(civil).ok())?;
            match self.zone.following(from).next().map(|change| change.timestamp()) {
                Some(change) if change <= moment => (from, inclusive) = (change, true),
                _ => return Some(moment),
            }
        }
    }
}

impl Times {
    /// These wall-clock times in `zone`.
    pub(super) fn within(self, zone: TimeZone) -> Cron {
        Cron { times: self, zone }
    }

    /// The first wall-clock time after `civil`, to the minute.
    fn next(&self, civil: DateTime) -> Option<DateTime> {
        let mut from = Offset::UTC.to_timestamp(civil).ok()?;
        // The parser's search gives up after 4 years: 29 February can be 8 years away, and on a Sunday 40.
        for _ in 0..12 {
            if let Ok(found) = self.table.find_next(from) {
                return Some(found.datetime());
            }
            let later = Offset::UTC.to_datetime(from).checked_add(4.years()).ok()?;
            from = Offset::UTC.to_timestamp(later).ok()?;
        }
        None
    }
}

/// What is wrong with field `n`, if anything.
fn complaint(n: usize, field: &str) -> Option<String> {
    let (name, range) = FIELDS[n];
    let allowed = match n {
        // The parser's `L`, `W` and `#` are no part of cron as documented, and its `L` misses December.
        0..=2 => |b: u8| b.is_ascii_digit() || b"*,-/".contains(&b),
        3 => |b: u8| b.is_ascii_alphanumeric() || b"*,-/".contains(&b),
        _ => |b: u8| b.is_ascii_alphanumeric() && !b"lL".contains(&b) || b"*,-/".contains(&b),
    };
    let reason = if field.bytes().all(allowed) {
        let mut fields = ["*"; FIELDS.len()];
        fields[n] = field;
        table(&fields.join(" ")).err()?
    } else {
        "malformed expression".to_owned()
    };
    Some(format!("{name} {field:?}: {reason}; allowed are {range}, with *, ranges a-b, steps /n and lists a,b"))
}

fn table(text: &str) -> Result<Crontab, String> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(text, options).map_err(|error| {
        // The parser draws the expression with a pointer below and the reason behind that.
        let drawn = error.to_string();
        drawn.rsplit_once("^ ").map_or(drawn.as_str(), |(_, reason)| reason).to_owned()
    })
}
