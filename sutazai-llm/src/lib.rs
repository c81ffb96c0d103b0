#![doc = include_str!("../README.md")]

pub mod bench;
#[cfg(test)]
mod fake_http;
#[cfg(test)]
mod fake_wire;
pub mod gateway;
mod http;
mod json;
pub mod local;
pub mod ollama;
pub mod openai;
pub mod registry;
pub mod selection;
mod spent;
pub mod tier;
mod vector;
