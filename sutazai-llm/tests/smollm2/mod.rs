//! The one chat model that tests may have real weights of.
#![allow(dead_code, reason = "not every test has a server of its own")]

use std::{path::PathBuf, time::Instant};

use futures_util::StreamExt as _;
use libtest_mimic::Failed;
use sutazai_core::model::{ChatEvent, ChatModel, ChatModelExt as _, ChatRequest, Sampling};
use sutazai_llm::registry::{ModelStore, Role};

/// Its name.
pub(crate) const MODEL: &str = "smollm2:135m";

/// Its weights, or why they are not here.
pub(crate) fn weights() -> Result<PathBuf, String> {
    let store = ModelStore::from_env().map_err(|error| error.report())?;
    let model = store.catalogue().find(MODEL).map_err(|error| error.report())?;
    let file = model.files.iter().find(|file| file.role == Role::Weights).ok_or("the model has no weights")?;
    let path = store.directory(model).join(file.name);
    let why = || format!("{MODEL} is not on this machine; `cargo run --release -- models pull {MODEL}` gets it");
    path.is_file().then_some(path).ok_or_else(why)
}

/// A question whose answer is the likeliest one.
pub(crate) fn greedy(question: &str, max_tokens: u32) -> ChatRequest {
    ChatRequest { sampling: Sampling::GREEDY, max_tokens: Some(max_tokens), ..ChatRequest::ask(question) }
}

/// A dropped answer leaves the model to the next caller, who does not wait as long as the rest of it would have taken.
pub(crate) async fn cancelled(model: &dyn ChatModel) -> Result<(), Failed> {
    const READ: u32 = 20;
    const WHOLE: u32 = 800;
    let mut answer = model.chat(greedy("Write a very long story about a ship.", WHOLE)).await?;
    assert!(matches!(answer.next().await, Some(Ok(ChatEvent::Text(_)))));
    let began = Instant::now();
    for _ in 0..READ {
        assert!(matches!(answer.next().await, Some(Ok(ChatEvent::Text(_)))));
    }
    let rest = began.elapsed() * (WHOLE - READ) / READ;
    drop(answer);
    let began = Instant::now();
    model.complete(greedy("Hi", 1)).await?;
    let waited = began.elapsed();
    assert!(waited < rest / 2, "the next caller waited for {waited:?}; the answer would have taken {rest:?}");
    Ok(())
}
