//! The one error of this crate, shared by every trait: what kind, in which operation, about what.

use std::{borrow::Cow, error::Error as StdError, fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is well-formed but wrong; [`Error::faults`] names the fields.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// The request contradicts what is already there.
    Conflict,
    /// The writer's lease or revision is no longer the current one.
    Stale,
    /// This backend cannot do that; its capabilities say so beforehand.
    Unsupported,
    /// A bounded queue, pool or disk is full.
    Full,
    /// A backend does not answer or is not ready.
    Unavailable,
    /// Time ran out.
    Timeout,
    /// Somebody cancelled the work.
    Cancelled,
    /// The work was done and ended in an error of its own.
    Failed,
    /// Stored data cannot be read back: damaged, or of another version.
    Corrupt,
    /// A fault of this program.
    Internal,
}

impl ErrorKind {
    /// The `code` an error of this kind carries unless it was given a more exact one.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Stale => "stale",
            Self::Unsupported => "unsupported",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

/// One bad field: a JSON pointer and what is allowed there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// JSON pointer (RFC 6901) to the field, for example `/input/question`.
    pub path: String,
    /// What was found and what is allowed.
    pub message: String,
}

impl Fault {
    /// A fault at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The same fault below `prefix`: `/ms` in an input becomes `/input/ms` in a request.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        self.path.insert_str(0, prefix);
        self
    }
}

/// An error with its kind, a stable code, the operation, the subject and the source.
///
/// The message is lower case, carries no secret and does not repeat the source; print the chain with
/// [`Error::report`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    code: &'static str,
    operation: &'static str,
    subject: String,
    message: Cow<'static, str>,
    faults: Vec<Fault>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` with a message that says what to do next.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            code: kind.code(),
            operation: "",
            subject: String::new(),
            message: message.into(),
            faults: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// Bad input, with the fields at fault.
    pub fn invalid(message: impl Into<Cow<'static, str>>, faults: Vec<Fault>) -> Self {
        let mut error = Self::new(ErrorKind::Invalid, message);
        error.0.faults = faults;
        error
    }

    /// Sets the stable, `snake_case` code that clients match on.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.0.code = code;
        self
    }

    /// Sets the operation, for example `claim tasks`.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// Sets what the operation was about: a task id, a URL without credentials, a path.
    #[must_use]
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject = subject.to_string();
        self
    }

    /// Sets how long a caller should wait before it tries again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Sets what is wrong, place by place, where it is not the request but an answer.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<Fault>) -> Self {
        self.0.faults = faults;
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What was being done, empty if not set.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What the operation was about, empty if not set.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// The bad fields of an [`ErrorKind::Invalid`], or of an answer that cannot be used.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.0.faults
    }

    /// How long to wait before another try, where the backend said so.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Full | ErrorKind::Unavailable | ErrorKind::Timeout)
    }

    /// The message with every cause behind it, on one line.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, subject, message, .. } = &*self.0;
        match (operation.is_empty(), subject.is_empty()) {
            (true, true) => f.write_str(message),
            (true, false) => write!(f, "{subject}: {message}"),
            (false, true) => write!(f, "{operation}: {message}"),
            (false, false) => write!(f, "{operation} {subject}: {message}"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0.code, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_everything_once() {
        let error = Error::new(ErrorKind::Unavailable, "the server does not answer")
            .during("embed")
            .about("http://127.0.0.1:11434")
            .because("connection refused");
        assert_eq!(error.to_string(), "embed http://127.0.0.1:11434: the server does not answer");
        assert_eq!(error.report(), "embed http://127.0.0.1:11434: the server does not answer: connection refused");
        assert!(error.is_temporary());
    }
}
