//! What can go wrong in here, and what callers are told.

use redis::{ErrorKind as Of, RedisError, ServerErrorKind};
use sutazai_core::{Error, ErrorKind};

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A fault before it has met its operation and its server.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Setting(String),
    #[error("an answer cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    #[error(transparent)]
    Driver(#[from] RedisError),
}

impl Fault {
    /// Whether there is something else than text under a key.
    pub(super) fn is_of_type(&self) -> bool {
        matches!(self, Self::Driver(error) if error.code() == Some("WRONGTYPE"))
    }

    /// Whether the connection is of no use any more: all but what the server says about a command.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Driver(error) => match error.kind() {
                // One that turned to reading only leads to a server that is not the first any more.
                Of::Server(kind) => kind == ServerErrorKind::ReadOnly,
                Of::Extension => false,
                _ => true,
            },
            _ => false,
        }
    }

    /// Whether the connection had ended before anything was asked on it, as far as can be told.
    pub(super) fn is_of_end(&self) -> bool {
        matches!(self, Self::Driver(error) if error.is_connection_dropped())
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let message = fault.to_string();
        match fault {
            Fault::Setting(_) => Self::new(ErrorKind::Invalid, message),
            Fault::Json(source) => Self::new(ErrorKind::Internal, message).because(source),
            Fault::Driver(source) => told(&source),
        }
    }
}

/// Kind, code and message.
type Told = (ErrorKind, &'static str, &'static str);

fn told(error: &RedisError) -> Error {
    let (kind, code, message) = match error.kind() {
        _ if error.is_timeout() => (
            ErrorKind::Timeout,
            "cache_timeout",
            "the cache did not answer in time; see whether it is overloaded, or give it more time",
        ),
        Of::Server(_) | Of::Extension => of_code(error.code().unwrap_or_default()),
        Of::AuthenticationFailed => DENIED,
        _ => (
            ErrorKind::Unavailable,
            "cache_unavailable",
            "the cache does not answer; see whether it runs, and check its address",
        ),
    };
    let told = Error::new(kind, message).with_code(code);
    match error.kind() {
        // The driver quotes what it could not read, and that is somebody's answer.
        Of::Parse | Of::UnexpectedReturnType => told,
        // As text: the driver's wrapper says the same as what it wraps.
        _ => told.because(error.to_string()),
    }
}

const DENIED: Told = (
    ErrorKind::Invalid,
    "cache_denied",
    "the cache refuses this user, this password or what they may do; check them in the URL",
);

/// Redis' codes as far as they tell an operator different things.
fn of_code(code: &str) -> Told {
    match code {
        "OOM" => (
            ErrorKind::Full,
            "cache_full",
            "the cache's memory is full; give it more, or let it forget what is old (maxmemory-policy allkeys-lru)",
        ),
        "MISCONF" => {
            (ErrorKind::Full, "cache_full", "the cache cannot write to its disk and takes no more; see to its disk")
        }
        "NOAUTH" | "WRONGPASS" | "NOPERM" => DENIED,
        "READONLY" | "NOREPLICAS" => (
            ErrorKind::Unsupported,
            "cache_read_only",
            "the cache takes no changes at present; it is asked again, or name the server that takes them",
        ),
        "LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN" | "CLUSTERDOWN" => {
            (ErrorKind::Unavailable, "cache_unavailable", "the cache is not ready; it is asked again")
        }
        "MOVED" | "ASK" | "CROSSSLOT" => (
            ErrorKind::Unsupported,
            "unsupported",
            "this is one server of a Redis Cluster, which is not supported; name a server that holds all keys",
        ),
        _ => (ErrorKind::Unavailable, "cache_unavailable", "the cache refused a command"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn said(code: &str) -> Fault {
        redis::make_extension_error(code.to_owned(), Some("as the server says it".to_owned())).into()
    }

    #[test]
    fn codes_are_told_apart() {
        for (code, kind, ours) in [
            ("OOM", ErrorKind::Full, "cache_full"),
            ("MISCONF", ErrorKind::Full, "cache_full"),
            ("NOAUTH", ErrorKind::Invalid, "cache_denied"),
            ("NOREPLICAS", ErrorKind::Unsupported, "cache_read_only"),
            ("BUSY", ErrorKind::Unavailable, "cache_unavailable"),
            ("NEW", ErrorKind::Unavailable, "cache_unavailable"),
        ] {
            assert!(!said(code).is_of_connection() && !said(code).is_of_type(), "{code}");
            let error = Error::from(said(code));
            assert_eq!((error.kind(), error.code()), (kind, ours), "{code}");
            assert!(error.report().ends_with("as the server says it"), "{}", error.report());
        }
        assert!(said("WRONGTYPE").is_of_type());
    }

    #[test]
    fn connections_are_given_up_for_what_is_theirs() {
        let of = |kind: io::ErrorKind| Fault::from(RedisError::from(io::Error::from(kind)));
        let (silent, dropped) = (of(io::ErrorKind::TimedOut), of(io::ErrorKind::BrokenPipe));
        assert!(silent.is_of_connection() && !silent.is_of_end());
        assert!(dropped.is_of_connection() && dropped.is_of_end());
        assert_eq!(Error::from(silent).code(), "cache_timeout");
        let error = Error::from(dropped);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "cache_unavailable"));
        let said = error.report();
        assert_eq!(said.matches("broken pipe").count(), 1, "{said}");
        let denied = Fault::from(RedisError::from((Of::AuthenticationFailed, "Password authentication failed")));
        assert!(denied.is_of_connection());
        assert_eq!(Error::from(denied).code(), "cache_denied");
        let unread = Fault::from(RedisError::from((Of::Parse, "cannot read", "an answer".to_owned())));
        assert!(!Error::from(unread).report().contains("an answer"));
    }
}
