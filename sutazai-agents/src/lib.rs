#![doc = include_str!("../README.md")]

mod catalogue;
pub mod coordinator;
pub mod documents;
pub mod hardware;
#[cfg(feature = "json-schema")]
mod schema;
mod text;

pub use self::catalogue::{AgentsOptions, Catalogue, catalogue};
#[cfg(feature = "json-schema")]
pub use self::schema::JsonSchema;
