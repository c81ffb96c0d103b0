//! The HTTP API from outside, in process: a router over the engine and the memory store.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

mod agents;
mod agents_as_models;
mod bad_input;
mod budgets;
mod dead_letters;
mod document;
mod feed;
mod journal;
mod limits;
mod listener;
mod models;
mod openai_backend;
mod schedules;
mod server;
mod tasks;
mod webhooks;
