//! Ollama's format over the models and agents of this house.

mod chat;
mod embed;
mod generate;
mod keep;
mod list;
mod messages;
mod options;
mod show;
mod wire;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::state::AppState;

/// The addresses of Ollama that are served.
pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(chat::chat))
        .routes(routes!(generate::generate))
        .routes(routes!(embed::embed))
        .routes(routes!(embed::embed_one))
        .routes(routes!(list::tags))
        .routes(routes!(list::ps))
        .routes(routes!(show::show))
        .routes(routes!(list::version))
        .routes(routes!(list::root))
}
