//! The HTTP API: one router over the orchestrator, one edge around it, one document that describes both.

mod agents;
mod body;
mod build;
mod codes;
mod cursor;
mod dead_letters;
mod docs;
mod edge;
mod events;
mod feed;
mod guard;
mod jobs;
mod nodes;
mod once;
mod operators;
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
mod views;

pub use self::{
    build::BuildInfo,
    router::{openapi, router},
    serve::serve,
    state::{AppState, Options},
};
