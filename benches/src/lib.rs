//! What the benches share.

pub mod cases;
pub mod disk;
pub mod figures;
pub mod notes;
pub mod peers;
pub mod postgres;
pub mod server;
pub mod stats;
pub mod tasks;
