//! What the benches share.

pub mod figures;
pub mod notes;
pub mod server;
pub mod stats;
