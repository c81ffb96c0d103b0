#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fake_http;
mod http;
pub mod local;
pub mod ollama;
pub mod registry;
mod vector;
