//! The engine: takes tasks from submit to their end through the traits.
//!
//! [`transition`](apply) holds the rules and is pure; the rest performs them: `submit` admits, `writer` groups writes into commits, `queue` claims and
//! watches the clock, `execution` runs agents, `hub` wakes those who wait.

mod builder;
mod catalogue;
mod control;
mod execution;
mod handle;
mod hub;
mod inner;
mod observer;
mod orchestrator;
mod queue;
mod router;
mod selection;
mod submit;
mod transition;
mod writer;

pub use self::{
    builder::{DEFAULT_MAX_RUNNING, OrchestratorBuilder},
    execution::MAX_OUTPUT,
    handle::TaskHandle,
    observer::Observer,
    orchestrator::{Drained, Orchestrator},
    router::{Ranked, Router},
    selection::{
        Ask, Candidate, ClaimPolicy, Fairness, Head, QueueRule, Rate, Running, Selected, Selection, TenantRule,
    },
    submit::Submitted,
    transition::{Command, MAX_RECOVERIES, Refused, Transition, apply, create},
};
pub(crate) use self::{
    control::{Control, Stop},
    execution::cut,
    inner::Inner,
    submit::submit,
};
