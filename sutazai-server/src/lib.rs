#![doc = include_str!("../README.md")]

pub mod cli;
pub mod client;
pub mod compose;
pub mod config;
mod defaults;
pub mod dev_agents;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod node;
mod object;
pub mod process;
pub mod serve;
mod webhooks;
