//! The engine: takes tasks from submit to their end through the traits.
//!
//! [`transition`](apply) holds the rules and is pure; the rest performs them: `submit` admits, `writer` groups writes into commits, `queue` claims and
//! watches the clock, `execution` runs agents, `hub` wakes those who wait.

mod at_work;
mod builder;
mod carry;
mod catalogue;
mod control;
mod decide;
mod execution;
mod firing;
mod handle;
pub(crate) mod hub;
pub(crate) mod inner;
pub(crate) mod journal;
mod membership;
mod observer;
mod orchestrator;
mod orphans;
mod places;
mod queue;
mod replay;
mod retention;
mod router;
mod schedules;
mod selection;
pub(crate) mod submit;
mod transition;
mod writer;

pub use self::{
    builder::{DEFAULT_MAX_RUNNING, DEFAULT_QUEUE_MAX, OrchestratorBuilder},
    carry::carried,
    decide::{Requeue, Resolution},
    execution::MAX_OUTPUT,
    handle::TaskHandle,
    inner::Changed,
    membership::DEFAULT_LEASE,
    observer::Observer,
    orchestrator::{Drained, Orchestrator},
    replay::{Cassette, Replayed},
    retention::{Keep, Retention},
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
};
