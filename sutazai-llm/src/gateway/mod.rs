//! The gateway: what stands between whoever asks and the models, as wrappers that are models themselves.
//!
//! From the outside in, each of them optional:
//!
//! | wrapper | what it does |
//! | --- | --- |
//! | [`cache::Cache`], [`cache::SemanticCache`] | gives an answer that was given before |
//! | [`Coalesce`] | makes one call of those that ask the same at the same time |
//! | [`Structured`] | has answers mended that are not what was asked for, and stops loops of tool calls |
//! | [`Fallback`] | asks another model if one fails |
//! | [`ContextFit`] | sends only what fits the model's context |
//! | [`budget`] | spends no more than tasks, agents and tenants may |
//! | [`Retry`] | asks again after an error that may pass |
//! | [`Balance`] | shares calls out among several backends of a model |
//! | [`Breaker`] | spares a backend that is ill |
//! | [`admission`] | lets few calls at a time, and few models into memory, in an order that swaps them rarely |
//!
//! [`Gateway`] puts them together.

pub mod admission;
mod balance;
mod breaker;
pub mod budget;
pub mod cache;
mod coalesce;
#[cfg(test)]
mod fake;
mod fallback;
mod first;
mod fit;
mod observer;
mod retry;
mod stack;
#[cfg(feature = "json-schema")]
mod structured;

#[cfg(feature = "json-schema")]
pub use self::structured::{Structured, StructuredConfig};
pub use self::{
    balance::{Balance, BalanceConfig},
    breaker::{Breaker, BreakerConfig, BreakerState},
    coalesce::Coalesce,
    fallback::Fallback,
    fit::{ContextFit, Fit, FitConfig, TokenCounter},
    observer::{GatewayObserver, Unobserved},
    retry::{Retry, RetryConfig},
    stack::Gateway,
};
