//! Models by the names that clients have for them.

use std::{borrow::Cow, iter, sync::Arc};

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, EmbeddingModel, ModelInfo, Models},
};
use sutazai_llm::registry::Catalogue;

use crate::http::problem::Problem;

/// The name in a request, where one is needed.
pub(in crate::http) fn named(model: Option<String>) -> Result<String, Problem> {
    let model = model.filter(|model| !model.is_empty());
    model.ok_or_else(|| Problem::field("/model", "name a model; GET /v1/models lists them"))
}

/// The chat model that `name` means.
pub(super) fn chat<'a>(models: &'a Models, name: &str) -> Result<&'a Arc<dyn ChatModel>> {
    find(name, |name| models.chat(Some(name)))
}

/// The embedding model that `name` means.
pub(super) fn embedding<'a>(models: &'a Models, name: &str) -> Result<&'a Arc<dyn EmbeddingModel>> {
    find(name, |name| models.embedding(Some(name)))
}

/// What the model that `name` means is, whichever kind it is of.
pub(in crate::http) fn info<'a>(models: &'a Models, name: &str) -> Result<&'a ModelInfo> {
    let chat = chat(models, name).map(|model| model.info());
    chat.or_else(|_| embedding(models, name).map(|model| model.info())).map_err(|_| {
        let known: Vec<_> = infos(models).map(|info| info.name.as_str()).collect();
        Error::new(ErrorKind::NotFound, format!("there is no such model; known are {}", known.join(", ")))
            .with_code("model_not_found")
            .during("find model")
            .about(name)
    })
}

/// Every model, chat models first.
pub(in crate::http) fn infos(models: &Models) -> impl Iterator<Item = &ModelInfo> {
    models.chat_models().map(|model| model.info()).chain(models.embedding_models().map(|model| model.info()))
}

/// The first that one of the names means. The error is about the name that was given.
fn find<'a, M>(name: &str, look: impl Fn(&str) -> Result<&'a M>) -> Result<&'a M> {
    names(name).find_map(|name| look(&name).ok()).map_or_else(|| look(name), Ok)
}

/// What a model that is called `name` may be listed as: with a tag and without, and by its other names.
fn names(name: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let untagged = name.strip_suffix(":latest").map(Cow::Borrowed);
    let latest = (!name.contains(':')).then(|| Cow::Owned(format!("{name}:latest")));
    // Asked last, and only then: it compares a model's every name.
    let known = iter::once_with(move || Catalogue::embedded().find(name).ok().map(|known| Cow::Borrowed(known.name)));
    [Some(Cow::Borrowed(name)), untagged, latest].into_iter().chain(known).flatten()
}

#[cfg(test)]
mod tests {
    use sutazai_core::memory::{HashedEmbedding, ScriptedChat};

    use super::*;

    #[test]
    fn a_model_answers_to_all_its_names() {
        let mut models = Models::default();
        for name in ["smollm2:135m", "tinyllama:latest", "qwen3"] {
            models.add_chat(Arc::new(ScriptedChat::new(name)));
        }
        models.add_embedding(Arc::new(HashedEmbedding::new(4)));
        for (name, found) in [
            ("smollm2:135m", "smollm2:135m"),
            ("smollm2", "smollm2:135m"),
            ("SmolLM2:latest", "smollm2:135m"),
            ("tinyllama", "tinyllama:latest"),
            ("tinyllama:latest", "tinyllama:latest"),
            ("qwen3:latest", "qwen3"),
        ] {
            assert_eq!(chat(&models, name).unwrap().info().name, found, "{name}");
            assert_eq!(info(&models, name).unwrap().name, found, "{name}");
        }
        assert_eq!(info(&models, "hashed:latest").unwrap().dimension, 4);
        for name in ["", "nobody", "qwen3:8b", "hashed"] {
            let error = chat(&models, name).err().unwrap();
            assert_eq!(error.code(), "model_not_found");
        }
        let unknown = info(&models, "nobody").unwrap_err();
        assert_eq!((unknown.code(), unknown.subject()), ("model_not_found", "nobody"));
        assert_eq!(infos(&models).count(), 4);
    }
}
