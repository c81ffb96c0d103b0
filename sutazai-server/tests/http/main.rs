//! The HTTP API from outside, in process: a router over the engine and the memory store.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

mod agents;
mod bad_input;
mod document;
mod listener;
mod server;
mod tasks;
