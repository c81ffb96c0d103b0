//! OpenAI's format over the models and agents of this house.

mod chat;
mod chat_wire;
mod common;
mod completions;
mod embeddings;
mod list;
mod messages;
mod request;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::state::AppState;

/// The addresses of OpenAI that are served.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(list::models))
        .routes(routes!(list::model))
        .routes(routes!(chat::complete))
        .routes(routes!(completions::complete))
        .routes(routes!(embeddings::embed))
}
