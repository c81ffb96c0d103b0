//! The suites that every backend of a trait must pass, this crate's own and other people's alike.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a suite says what it finds by panicking")]

pub mod answer;
pub mod budget;
pub mod chat;
pub mod embedding;
pub mod task;
pub mod vector;
