//! Requests without a question: they bring a model into memory, or give its memory back.

use std::time::Instant;

use serde_json::Value;

use super::{
    options::keeps_not,
    wire::{Form, OllamaWire},
};
use crate::http::{
    models::{info, refuse_agent},
    reply::Reply,
    state::AppState,
};

/// Loads the model that `name` means, or with a `keep_alive` of nothing unloads it, whichever kind it is of.
pub(super) async fn keep(
    state: &AppState,
    form: Form,
    name: &str,
    keep_alive: Option<&Value>,
    began: Instant,
) -> Reply {
    let models = state.orchestrator().models();
    refuse_agent(name)?;
    let name = info(models, name)?.name.as_str();
    let unloads = keeps_not(keep_alive)?;
    if let Ok(model) = models.chat(Some(name)) {
        if unloads { model.unload().await? } else { model.load().await? }
    }
    if let Ok(model) = models.embedding(Some(name)) {
        if unloads { model.unload().await? } else { model.load().await? }
    }
    OllamaWire::new(form, name.to_owned(), began).empty(if unloads { "unload" } else { "load" })
}
