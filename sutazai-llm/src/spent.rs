//! What an answer has taken that ended in an error: kept with the error, since the end that would have said so never came.

use std::{error::Error as StdError, fmt};

use sutazai_core::{Error, model::Usage};

/// The cause of an error, and the tokens that the answer had taken by then. It reads as the cause does.
#[derive(Debug)]
struct Spent {
    cause: Box<dyn StdError + Send + Sync>,
    usage: Usage,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl StdError for Spent {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// The error with its cause, of an answer that has taken so much.
pub(crate) fn because(error: Error, cause: impl Into<Box<dyn StdError + Send + Sync>>, usage: Usage) -> Error {
    error.because(Spent { cause: cause.into(), usage })
}

/// What the answer has taken that ended so, if its backend had said it.
pub(crate) fn of(error: &Error) -> Option<Usage> {
    let mut cause = StdError::source(error);
    while let Some(error) = cause {
        if let Some(spent) = error.downcast_ref::<Spent>() {
            return Some(spent.usage);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use sutazai_core::ErrorKind;

    use super::*;

    #[test]
    fn an_error_remembers_what_was_spent_and_reads_as_before() {
        let error = || Error::new(ErrorKind::Failed, "it is no JSON object");
        let usage = Usage { prompt_tokens: 3, completion_tokens: 4 };
        let spent = because(error(), error().because("a comma"), usage);
        assert_eq!(spent.report(), "it is no JSON object: it is no JSON object: a comma");
        assert_eq!(of(&spent), Some(usage));
        assert_eq!(of(&error().because(spent)), Some(usage), "whoever wraps it");
        assert_eq!(of(&error().because("a comma")), None);
    }
}
