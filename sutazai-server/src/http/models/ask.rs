//! Asking a model, or an agent as if it were one.

use std::sync::Arc;

use axum::http::HeaderMap;
use futures_util::StreamExt;
use sutazai_core::model::{Caller, ChatEvent, ChatRequest, ChatStream, Embeddings, Served};

use super::{
    agent,
    answer::shutting_down,
    find,
    headers::{caching, of_served},
};
use crate::http::{problem::Problem, state::AppState, tasks::IdempotencyKey};

/// What an agent's name has before it where a model's is expected.
pub(in crate::http) const AGENT: &str = "agent:";

/// An answer that has begun.
pub(in crate::http) struct Begun {
    /// What comes.
    pub(super) stream: ChatStream,
    /// What is said about it in headers.
    pub(super) headers: HeaderMap,
}

impl Begun {
    /// An answer, and what served it.
    pub(super) fn new(stream: ChatStream) -> Self {
        let headers = of_served(stream.served());
        Self { stream, headers }
    }

    /// The model that answers.
    pub(in crate::http) fn model(&self) -> &str {
        &self.stream.served().model
    }
}

/// Asks whoever `name` means: a chat model, or with `agent:` before it an agent.
pub(in crate::http) async fn ask(
    state: &AppState,
    name: &str,
    request: ChatRequest,
    key: IdempotencyKey,
    headers: &HeaderMap,
) -> Result<Begun, Problem> {
    match name.strip_prefix(AGENT) {
        Some(agent) => agent::ask(state, agent, &request, key).await,
        None => ask_model(state, name, request, headers).await,
    }
}

/// Asks the chat model that `name` means. The caller is nobody in particular, of the default tenant, as everybody who submits a task and says no more.
pub(in crate::http) async fn ask_model(
    state: &AppState,
    name: &str,
    mut request: ChatRequest,
    headers: &HeaderMap,
) -> Result<Begun, Problem> {
    refuse_agent(name)?;
    let model = find::chat(state.orchestrator().models(), name)?;
    request.model = Some(model.info().name.clone());
    request.caching = caching(headers);
    let stream = tokio::select! {
        begun = model.chat(request) => begun?,
        () = state.closing().cancelled() => return Err(shutting_down().into()),
    };
    let (metrics, model) = (Arc::clone(state.metrics()), stream.served().model.clone());
    let count = move |event: &sutazai_core::Result<ChatEvent>| {
        if let Ok(ChatEvent::Finish(finish)) = event {
            metrics.model_asked(&model, finish.usage);
        }
    };
    Ok(Begun::new(stream.map_events(|events| events.inspect(count))))
}

/// Refuses the name of an agent where only a model will do.
pub(in crate::http) fn refuse_agent(name: &str) -> Result<(), Problem> {
    if name.starts_with(AGENT) {
        let message = "an agent is asked with a message of the user, at /v1/chat/completions or /api/chat";
        return Err(Problem::field("/model", message));
    }
    Ok(())
}

/// Refuses another length of vectors than the one that the embedding model has which `name` means.
pub(in crate::http) fn check_dimensions(state: &AppState, name: &str, wanted: Option<usize>) -> Result<(), Problem> {
    let has = find::embedding(state.orchestrator().models(), name)?.info().dimension;
    match wanted.filter(|wanted| *wanted != has) {
        None => Ok(()),
        Some(wanted) => {
            Err(Problem::field("/dimensions", format!("the model has {has}, not {wanted}, and cuts none off")))
        }
    }
}

/// The vectors of `texts` by the embedding model that `name` means, with its name and what is said in headers. The caller is as of [`ask_model`].
pub(in crate::http) async fn embed(
    state: &AppState,
    name: &str,
    texts: &[String],
) -> Result<(Embeddings, String, HeaderMap), Problem> {
    let model = find::embedding(state.orchestrator().models(), name)?;
    let caller = Caller::default();
    let embeddings = tokio::select! {
        embedded = model.embed_for(&caller, texts) => embedded?,
        () = state.closing().cancelled() => return Err(shutting_down().into()),
    };
    let info = model.info();
    Ok((embeddings, info.name.clone(), of_served(&Served::by(info))))
}
