//! What the benches share.

pub mod figures;
pub mod server;
pub mod stats;
