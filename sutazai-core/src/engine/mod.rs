//! The engine: takes tasks from submit to their end through the traits.

mod transition;

pub use self::transition::{Command, MAX_RECOVERIES, Refused, Transition, apply, create};
