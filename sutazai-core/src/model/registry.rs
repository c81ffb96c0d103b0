//! The models that agents can call, by name.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{ChatModel, EmbeddingModel};
use crate::error::{Error, ErrorKind, Result};

/// Chat and embedding models by name; the first of each kind is the default.
#[derive(Clone, Default)]
pub struct Models {
    chat: BTreeMap<String, Arc<dyn ChatModel>>,
    embedding: BTreeMap<String, Arc<dyn EmbeddingModel>>,
    default_chat: Option<String>,
    default_embedding: Option<String>,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (chat, embedding): (Vec<_>, Vec<_>) = (self.chat.keys().collect(), self.embedding.keys().collect());
        f.debug_struct("Models").field("chat", &chat).field("embedding", &embedding).finish()
    }
}

impl Models {
    /// Adds a chat model under its own name; one of the same name is replaced.
    pub fn add_chat(&mut self, model: Arc<dyn ChatModel>) {
        let name = model.info().name.clone();
        self.default_chat.get_or_insert_with(|| name.clone());
        self.chat.insert(name, model);
    }

    /// Adds an embedding model under its own name; one of the same name is replaced.
    pub fn add_embedding(&mut self, model: Arc<dyn EmbeddingModel>) {
        let name = model.info().name.clone();
        self.default_embedding.get_or_insert_with(|| name.clone());
        self.embedding.insert(name, model);
    }

    /// The chat model called `name`, or the default one.
    pub fn chat(&self, name: Option<&str>) -> Result<&Arc<dyn ChatModel>> {
        find(&self.chat, name.or(self.default_chat.as_deref()), "chat")
    }

    /// The embedding model called `name`, or the default one.
    pub fn embedding(&self, name: Option<&str>) -> Result<&Arc<dyn EmbeddingModel>> {
        find(&self.embedding, name.or(self.default_embedding.as_deref()), "embedding")
    }

    /// All chat models, by name.
    pub fn chat_models(&self) -> impl Iterator<Item = &Arc<dyn ChatModel>> {
        self.chat.values()
    }

    /// All embedding models, by name.
    pub fn embedding_models(&self) -> impl Iterator<Item = &Arc<dyn EmbeddingModel>> {
        self.embedding.values()
    }
}

fn find<'a, M: ?Sized>(models: &'a BTreeMap<String, Arc<M>>, name: Option<&str>, kind: &str) -> Result<&'a Arc<M>> {
    name.and_then(|name| models.get(name)).ok_or_else(|| {
        let known: Vec<_> = models.keys().map(String::as_str).collect();
        let known =
            if known.is_empty() { "none is configured".into() } else { format!("known are {}", known.join(", ")) };
        Error::new(ErrorKind::NotFound, format!("there is no such {kind} model; {known}"))
            .with_code("model_not_found")
            .during("find model")
            .about(name.unwrap_or("(default)"))
    })
}
