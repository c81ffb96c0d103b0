//! `models …`: model files on this machine.

use std::sync::Arc;

use serde_json::json;
use sutazai_llm::registry::{ListedModel, ModelState, ModelStore, Pulled, Sources};

use super::{
    grammar::Models,
    output::{Output, say},
    progress::Bars,
};
use crate::{
    config::Settings,
    process::{Exit, Failure},
};

/// Runs `models …`.
pub(super) async fn run(command: Models, settings: &Settings, out: Output) -> Result<Exit, Failure> {
    let store = ModelStore::new(&settings.models_dir);
    match command {
        Models::List => {
            let models = store.list().await?;
            out.answer(&json!({ "items": models }), |_| show_list(&models, out))?;
        }
        Models::Pull { names, from } => {
            let sources = sources(settings).with_from(from);
            let (pulled, failure) = pull(&store, &names, &sources).await;
            out.answer(&json!({ "items": pulled }), |_| show_pulled(&pulled, out))?;
            return failure.map_or(Ok(Exit::Done), Err);
        }
        Models::Rm { names } => {
            let mut removed = Vec::new();
            for name in &names {
                removed.push(json!({ "model": name, "freed_bytes": store.remove(name).await? }));
            }
            out.answer(&json!({ "items": removed }), |_| {
                names.iter().try_for_each(|name| out.line(&format!("removed {name}")))
            })?;
        }
    }
    Ok(Exit::Done)
}

/// Where models may come from, by these settings.
pub(super) fn sources(settings: &Settings) -> Sources {
    let mut sources = Sources::from_env();
    if let Some(url) = &settings.ollama_base_url {
        sources.ollama_urls = vec![url.clone()];
    }
    sources
}

/// Gets models under progress bars: those that came, and why the first of the others did not.
pub(super) async fn pull(store: &ModelStore, names: &[String], sources: &Sources) -> (Vec<Pulled>, Option<Failure>) {
    let (mut pulled, mut failures) = (Vec::new(), Vec::new());
    for result in store.pull(names, sources, Arc::new(Bars::default())).await {
        match result {
            Ok(model) => pulled.push(model),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    // Each has its line; the last one speaks for the command's end.
    let last = failures.pop();
    failures.iter().for_each(|failure| say(&failure.to_string()));
    (pulled, last)
}

/// Gets those of `names` that are not on disk.
pub(super) async fn pull_missing(settings: &Settings, names: &[&str]) -> Result<(), Failure> {
    let store = ModelStore::new(&settings.models_dir);
    let mut missing = Vec::new();
    for name in names {
        if store.installed(name).await.is_err() {
            missing.push((*name).to_owned());
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    pull(&store, &missing, &sources(settings)).await.1.map_or(Ok(()), Err)
}

fn show_pulled(pulled: &[Pulled], out: Output) -> Result<(), Failure> {
    pulled.iter().try_for_each(|model| {
        for tried in &model.failed {
            say(&format!("note: {} was not to be had from {}: {}", tried.file, tried.source, tried.reason));
        }
        let how = if model.fetched_bytes == 0 { "was here already".into() } else { size(model.fetched_bytes) };
        out.line(&format!("{}: ready ({how})", model.model))
    })
}

fn show_list(models: &[ListedModel], out: Output) -> Result<(), Failure> {
    let row = |listed: &ListedModel| {
        let model = listed.model;
        let state = match &listed.state {
            ModelState::Ready => "ready".into(),
            ModelState::Partial => "partial".into(),
            ModelState::Absent => "absent".into(),
            ModelState::Damaged(why) => format!("damaged: {why}"),
        };
        let kind = if model.capabilities.embedding { "embedding" } else { "chat" };
        let context = model.context_length.to_string();
        vec![
            model.name.into(),
            kind.into(),
            state,
            size(listed.disk_bytes),
            context,
            model.license.into(),
            model.description.into(),
        ]
    };
    out.table(&["name", "kind", "state", "on disk", "context", "licence", "description"], models.iter().map(row))
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
