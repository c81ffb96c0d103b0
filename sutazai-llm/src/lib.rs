#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fake_http;
mod http;
pub mod gateway;
pub mod local;
pub mod ollama;
pub mod openai;
pub mod registry;
mod vector;
