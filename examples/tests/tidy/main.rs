//! Holds the rules of `docs/architecture.md` that a compiler does not: who may depend on whom, what a file looks like, and
//! that the documentation points at things that exist.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what is wrong by failing")]

mod docs;
mod graph;
mod source;
mod tree;
