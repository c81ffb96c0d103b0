//! Tests that need what a machine may lack: a server, a model.

use std::fmt::Display;

use libtest_mimic::{Completion, Failed, Trial};

/// Whether everything is required, so that what is missing fails instead of being ignored: `SUTAZAI_REQUIRE_SERVERS` is set, and not to `0`.
#[must_use]
pub fn required() -> bool {
    std::env::var_os("SUTAZAI_REQUIRE_SERVERS").is_some_and(|value| !value.is_empty() && value != "0")
}

/// How a test ends that cannot run because of `why`: ignored, with the reason beside its result; failed where everything is required.
pub fn lacking(why: impl Display) -> Result<Completion, Failed> {
    if required() {
        Err(format!("SUTAZAI_REQUIRE_SERVERS is set, and {why}").into())
    } else {
        Ok(Completion::ignored_with(why))
    }
}

/// A test of what was found, or one that is [`lacking`] for the reason why it was not.
pub fn trial<T: Send + 'static>(
    name: impl Into<String>,
    found: Result<T, String>,
    test: impl FnOnce(T) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match found {
        Ok(found) => test(found).map(|()| Completion::Completed),
        Err(why) => lacking(why),
    })
}
