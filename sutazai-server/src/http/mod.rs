//! The HTTP API: one router over the orchestrator, one edge around it, one document that describes both.

mod agents;
mod body;
mod build;
mod codes;
mod common;
mod cursor;
mod dead_letters;
mod dialect;
mod docs;
mod edge;
mod events;
mod feed;
mod guard;
mod jobs;
mod keys;
mod models;
mod nodes;
mod ollama;
mod once;
mod openai;
mod operators;
mod parameters;
mod path;
mod problem;
mod query;
mod reply;
mod router;
mod schedules;
mod serve;
mod state;
mod strict;
mod tasks;
mod through;
mod views;
mod webhooks;

pub use self::{
    build::BuildInfo,
    router::{openapi, router},
    serve::serve,
    state::{AppState, Options},
};
