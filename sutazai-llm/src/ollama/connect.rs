//! Many models of one server, for which it is asked once what is the same for all of them.

use futures_util::future::join_all;
use sutazai_core::{
    Result,
    model::{ChatModel, EmbeddingModel},
};

use super::{
    chat::{CONTEXT, OllamaChat},
    discover::Discovered,
    embedding::OllamaEmbedding,
    models::{Running, Shown},
};

/// A model that an Ollama serves, of whichever kind it is.
#[derive(Clone, Debug)]
pub enum OllamaModel {
    /// One that answers.
    Chat(OllamaChat),
    /// One that embeds, whatever else it can do.
    Embedding(OllamaEmbedding),
}

impl OllamaModel {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Chat(model) => &model.info().name,
            Self::Embedding(model) => &model.info().name,
        }
    }
}

impl Discovered {
    /// Each of these models in their order, as [`OllamaChat::connect`] and [`OllamaEmbedding::connect`] give it with this context for answers, by its kind.
    ///
    /// That takes a question for each, and one for what is in memory. What the server holds is what it held when it was discovered.
    pub async fn connect(&self, names: &[&str], context: Option<usize>) -> Vec<Result<OllamaModel>> {
        let shown = join_all(names.iter().map(|name| self.client.show(name)));
        let (running, shown) = tokio::join!(self.client.ps(), shown);
        // Old versions cannot say it, and the models can be used all the same.
        let running = running.unwrap_or_default();
        let model = |(name, shown): (&&str, Result<Shown>)| self.model(name, &shown?, &running, context);
        names.iter().zip(shown).map(model).collect()
    }

    fn model(&self, name: &str, shown: &Shown, running: &[Running], context: Option<usize>) -> Result<OllamaModel> {
        let describe = |context| shown.described(name, context, &self.models, running);
        let embedding = describe(usize::MAX);
        let client = self.client.clone();
        if embedding.capabilities.embedding {
            return OllamaEmbedding::described(client, embedding).map(OllamaModel::Embedding);
        }
        let chat = describe(context.unwrap_or(CONTEXT));
        Ok(OllamaModel::Chat(OllamaChat::described(client, chat)))
    }
}
