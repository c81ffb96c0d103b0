//! Turns what people write into typed values, or says what is allowed instead.

use std::net::ToSocketAddrs;

use config::ValueKind;
use sutazai_store::PostgresConfig;

use super::{
    budgets::Budgets,
    keys::Kind,
    tables::{LimitTable, Tenants},
};

/// What became of a value.
#[derive(Debug, PartialEq)]
pub(super) enum Checked {
    /// It is good.
    Value(ValueKind),
    /// It is wrong: this is what is allowed.
    Allowed(String),
    /// It names something of the plans that does not exist yet.
    NotBuilt(String),
}

/// Reads `text` as a value of `kind`.
pub(super) fn check(kind: Kind, text: &str) -> Checked {
    use Checked::{Allowed, NotBuilt, Value};
    let allowed = |what: &str| Allowed(what.to_owned());
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return allowed("text in UTF-8");
    }
    match kind {
        Kind::Text | Kind::Path => Value(text.into()),
        Kind::Flag => match text {
            "true" | "1" => Value(true.into()),
            "false" | "0" => Value(false.into()),
            _ => allowed("true or false"),
        },
        Kind::Integer(least, most) => match text.parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Value(number.into()),
            _ => Allowed(format!("a whole number from {least} to {most}")),
        },
        Kind::Number(least, most) => match text.parse::<f64>() {
            Ok(number) if (least..=most).contains(&number) => Value(number.into()),
            _ => Allowed(format!("a number from {least} to {most}")),
        },
        Kind::Address => match text.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()) {
            Some(address) => Value(address.to_string().into()),
            None => allowed("HOST:PORT, such as 127.0.0.1:10010"),
        },
        Kind::Url => match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                Value(url.as_str().trim_end_matches('/').into())
            }
            _ => allowed("a URL, such as http://127.0.0.1:10010"),
        },
        Kind::Filter => match level(text).or_else(|| is_filter(text).then_some(text)) {
            Some(text) => Value(text.into()),
            None => allowed("error, warn, info, debug, trace or off, or pairs such as sutazai_server=debug,warn"),
        },
        Kind::List => Value(ValueKind::Array(parts(text).map(|part| part.to_owned().into()).collect())),
        Kind::Choice(built, planned) => match text.to_lowercase() {
            name if built.contains(&name.as_str()) => Value(name.into()),
            name if planned.contains(&name.as_str()) => NotBuilt(name),
            _ => Allowed(built.join(" or ")),
        },
        Kind::Store => match text {
            "sqlite" => Value(text.into()),
            _ if is_postgres(text) => Value(text.into()),
            _ => allowed("sqlite, or postgres://USER:PASSWORD@HOST/DATABASE"),
        },
        Kind::Schema if PostgresConfig::is_schema(text) => Value(text.into()),
        Kind::Schema => allowed(PostgresConfig::SCHEMA),
        Kind::Redis if is_redis(text) => Value(text.into()),
        Kind::Redis => allowed("redis://USER:PASSWORD@HOST:PORT/NUMBER, or rediss:// for TLS"),
        Kind::Tenants => table::<Tenants>(text),
        Kind::Limits => table::<LimitTable>(text),
        Kind::Budgets => table::<Budgets>(text),
        Kind::Secret if text.trim().is_empty() => allowed("a text that is not empty"),
        Kind::Secret | Kind::NotBuilt => Value(text.into()),
    }
}

/// Whether this is an address of PostgreSQL in the form of libpq; others are refused by the driver, with what is wrong.
fn is_postgres(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql"))
}

/// Whether this is an address of Redis; the rest of it is the driver's to read.
fn is_redis(text: &str) -> bool {
    let known = ["redis", "rediss", "valkey", "valkeys"];
    reqwest::Url::parse(text).is_ok_and(|url| known.contains(&url.scheme()) && url.has_host())
}

/// A table stays text until the settings are read.
fn table<T: TryFrom<String, Error = String>>(text: &str) -> Checked {
    match T::try_from(text.to_owned()) {
        Ok(_) => Checked::Value(text.into()),
        Err(allowed) => Checked::Allowed(allowed),
    }
}

/// The parts of a list.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// What other programs' names of levels mean here.
fn level(text: &str) -> Option<&'static str> {
    match text.to_lowercase().as_str() {
        "warning" => Some("warn"),
        "critical" | "fatal" => Some("error"),
        "notset" => Some("trace"),
        _ => None,
    }
}

/// Reads a value that a variable of another program's may hold: `Err` says why it has no effect here.
pub(super) fn check_theirs(kind: Kind, text: &str) -> Result<(), String> {
    match (kind, check(kind, text)) {
        (_, Checked::NotBuilt(part)) => Err(not_built(&part)),
        (Kind::Store, Checked::Allowed(_)) => Err("a URL that begins with postgres:// is what is understood".into()),
        (Kind::Redis, Checked::Allowed(_)) => {
            Err("a URL that begins with redis:// or rediss:// is what is understood".into())
        }
        (Kind::Choice(_, [_, ..]), Checked::Allowed(_)) => Err(not_built(&text.to_lowercase())),
        _ => Ok(()),
    }
}

/// Why something of the plans has no effect.
pub(super) fn not_built(part: &str) -> String {
    format!("{part} is not built yet")
}

/// The filter's own grammar takes any word for a target; here a word alone must be a level.
fn is_filter(text: &str) -> bool {
    use tracing_subscriber::filter::{EnvFilter, LevelFilter};
    let words = text.split(',').filter(|part| !part.contains(['=', '[']));
    text.parse::<EnvFilter>().is_ok() && words.map(str::parse::<LevelFilter>).all(|level| level.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_and_bad_ones_say_what_is_allowed() {
        assert_eq!(check(Kind::Integer(1, 9), "9"), Checked::Value(ValueKind::I64(9)));
        assert_eq!(check(Kind::Integer(1, 9), "10"), Checked::Allowed("a whole number from 1 to 9".into()));
        assert_eq!(check(Kind::Number(0.0, 2.0), "nan"), Checked::Allowed("a number from 0 to 2".into()));
        assert_eq!(check(Kind::Url, "http://localhost:1/"), Checked::Value("http://localhost:1".into()));
        assert!(matches!(check(Kind::Url, "localhost:1"), Checked::Allowed(_)));
        assert!(matches!(check(Kind::Address, "127.0.0.1:99999"), Checked::Allowed(_)));
        for url in ["postgres://u:p@h/d", "postgresql://h:5433/d?sslmode=disable", "postgres:///d?host=/run/pg"] {
            assert_eq!(check(Kind::Store, url), Checked::Value(url.into()));
        }
        for other in ["postgresql+asyncpg://u:p@h/d", "host=db user=x", "mysql://h/d", "postgres"] {
            assert!(matches!(check(Kind::Store, other), Checked::Allowed(_)), "{other}");
            assert!(check_theirs(Kind::Store, other).is_err(), "{other}");
        }
        for url in ["redis://h", "rediss://u:p@h:6380/2", "redis://:p@127.0.0.1/0", "valkey://h"] {
            assert_eq!(check(Kind::Redis, url), Checked::Value(url.into()));
        }
        for other in ["h:6379", "http://h", "redis://", "redis+sentinel://h", "unix:///run/redis"] {
            assert!(matches!(check(Kind::Redis, other), Checked::Allowed(_)), "{other}");
            assert!(check_theirs(Kind::Redis, other).is_err(), "{other}");
        }
        assert_eq!(check(Kind::Choice(&["memory"], &["qdrant"]), "Qdrant"), Checked::NotBuilt("qdrant".into()));
        assert!(matches!(check(Kind::Filter, "loud"), Checked::Allowed(_)));
        for (theirs, ours) in [("WARNING", "warn"), ("Critical", "error"), ("fatal", "error"), ("INFO", "INFO")] {
            assert_eq!(check(Kind::Filter, theirs), Checked::Value(ours.into()));
        }
        assert!(matches!(check(Kind::Filter, "sutazai_server=debug,WARN"), Checked::Value(_)));
    }
}
