//! `models …`: model files on this machine, and which model is the right one.

mod bench;
mod explain;

use std::sync::Arc;

use serde_json::json;
use sutazai_llm::registry::{ListedModel, ModelState, ModelStore, Pulled, Sources};

use super::{
    grammar::Models,
    output::{Output, say},
    progress::Bars,
};
use crate::{
    compose::model_store,
    config::Settings,
    process::{Exit, Failure},
};

/// Runs `models …`.
pub(super) async fn run(command: Models, settings: &Settings, out: Output) -> Result<Exit, Failure> {
    let store = model_store(settings);
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
        Models::Verify { names } => return verify(&store, &names, out).await,
        Models::Pin { names } => keep(&store, &names, true, out).await?,
        Models::Unpin { names } => keep(&store, &names, false, out).await?,
        Models::Bench { names, runs } => return bench::run(&names, runs, settings, out).await,
        Models::Explain(explain) => explain::run(&explain, settings, out).await?,
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

/// Reads models again, all that are here if none is named; those that are not what they should be are told one by one.
async fn verify(store: &ModelStore, names: &[String], out: Output) -> Result<Exit, Failure> {
    let mut names = names.to_vec();
    if names.is_empty() {
        let here = store.list().await?.into_iter().filter(|listed| listed.state != ModelState::Absent);
        names.extend(here.map(|listed| listed.model.name.to_owned()));
    }
    let (mut verified, mut failures) = (Vec::new(), Vec::new());
    for name in &names {
        match store.verify(name).await {
            Ok(installed) => verified.push(installed.model),
            Err(error) => failures.push(Failure::from(error)),
        }
    }
    let items: Vec<_> = verified.iter().map(|model| json!({ "model": model.name, "digest": model.digest() })).collect();
    out.answer(&json!({ "items": items }), |_| {
        verified
            .iter()
            .try_for_each(|model| out.line(&format!("{}: as it should be ({})", model.name, model.version())))
    })?;
    told(failures).map_or(Ok(Exit::Done), Err)
}

/// Pins models, or lets go of them.
async fn keep(store: &ModelStore, names: &[String], pinned: bool, out: Output) -> Result<(), Failure> {
    let mut kept = Vec::new();
    for name in names {
        let changed = if pinned { store.pin(name).await? } else { store.unpin(name).await? };
        kept.push(json!({ "model": store.catalogue().find(name)?.name, "pinned": pinned, "changed": changed }));
    }
    out.answer(&json!({ "items": kept }), |_| {
        let word = if pinned { "pinned" } else { "not pinned any more" };
        names.iter().try_for_each(|name| out.line(&format!("{name}: {word}")))
    })
}

/// Says every failure but the last, which speaks for the command's end.
fn told(mut failures: Vec<Failure>) -> Option<Failure> {
    let last = failures.pop();
    failures.iter().for_each(|failure| say(&failure.to_string()));
    last
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
    (pulled, told(failures))
}

/// Gets those of `names` that are not on disk.
pub(super) async fn pull_missing(settings: &Settings, names: &[&str]) -> Result<(), Failure> {
    let store = model_store(settings);
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
        let pinned = if listed.pinned { "yes" } else { "no" };
        let context = model.context_length.to_string();
        vec![
            model.name.into(),
            kind.into(),
            state,
            listed.version.into(),
            pinned.into(),
            size(listed.disk_bytes),
            context,
            model.license.into(),
            model.description.into(),
        ]
    };
    let head = ["name", "kind", "state", "version", "pinned", "on disk", "context", "licence", "description"];
    out.table(&head, models.iter().map(row))
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
