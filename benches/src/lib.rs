//! What the benches share.

pub mod cases;
pub mod disk;
pub mod figures;
pub mod http;
pub mod load;
pub mod memory;
pub mod notes;
pub mod peers;
pub mod postgres;
pub mod server;
pub mod simulation;
pub mod stats;
pub mod tasks;
pub mod traffic;
pub mod upstream;
pub mod wrk;
