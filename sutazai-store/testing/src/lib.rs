//! What tests and benches share: a real PostgreSQL, Redis, Ollama and llama.cpp of their own, a Python with packages, a proxy that makes the network
//! fail, and one rule for what a machine lacks.
//!
//! Nothing here is a service of the machine: a server is a child of the test, listens on a free port of the loopback, keeps its data in
//! a temporary directory, and ends with the test, however that ends. Calls block their thread for as long as they take; the proxy
//! has a thread of its own. Unix only. Not published: members name it as a dev-dependency without a version, which packaging drops.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what is wrong by failing")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test waits for another process on its own thread"
)]

mod cache;
mod http;
mod installation;
mod llama;
mod ollama;
mod ports;
mod postgres;
mod program;
mod proxy;
mod python;
mod redis;
mod service;
mod trial;
mod watch;

use std::time::Duration;

pub use installation::Installation;
pub use llama::LlamaCpp;
pub use ollama::Ollama;
pub use postgres::{Postgres, PostgresConfig, Signal, TestDatabase};
pub use proxy::Proxy;
pub use python::python;
pub use redis::Redis;
pub use trial::{lacking, required, trial};
pub use watch::Watch;

/// Long enough for a loaded machine; what takes longer has found a fault.
const PATIENCE: Duration = Duration::from_secs(60);
