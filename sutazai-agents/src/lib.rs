#![doc = include_str!("../README.md")]

mod catalogue;
pub mod coordinator;
pub mod documents;
pub mod hardware;
mod schema;
mod text;

pub use self::{
    catalogue::{AgentsOptions, Catalogue, catalogue},
    schema::JsonSchema,
};
