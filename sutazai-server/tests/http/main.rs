//! The HTTP API from outside, in process: a router over the engine and the memory store.

mod agents;
mod bad_input;
mod document;
mod listener;
mod server;
mod tasks;
