#![doc = include_str!("../README.md")]

#[cfg(test)]
mod fake_http;
pub mod gateway;
mod http;
pub mod local;
pub mod ollama;
pub mod openai;
pub mod registry;
mod vector;
