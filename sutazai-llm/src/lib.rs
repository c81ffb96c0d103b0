#![doc = include_str!("../README.md")]

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
mod vector;
