//! `OpenAiEmbedding`: embeddings by a model behind an API of OpenAI's format.

use async_trait::async_trait;
use serde::Deserialize;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{EmbeddingModel, Embeddings, ModelCapabilities, ModelInfo},
};

use super::{client::OpenAiClient, refusal::unavailable, request::embedding_body};
use crate::vector::normalise;

/// Texts in one request.
const BATCH: usize = 64;
/// Tokens of context where nobody says more: what most embedding models read.
const CONTEXT: usize = 512;

/// An embedding model behind an API of OpenAI's format.
///
/// A text beyond the model's context is asked for again with less of it, until the server takes it: its first 2ⁿ characters, for the largest n that it takes.
/// It takes more requests than other texts; cut texts before if there are many. A server that counts no tokens is taken to have read 0.
#[derive(Clone, Debug)]
pub struct OpenAiEmbedding {
    client: OpenAiClient,
    info: ModelInfo,
}

/// The answer of `POST /embeddings`.
#[derive(Deserialize)]
struct Answer {
    data: Vec<Embedding>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Embedding {
    index: Option<usize>,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
}

impl OpenAiEmbedding {
    /// Asks for the vector of a short text, to learn how long it is. Fails with code `model_not_found` if the server does not serve the model, and kind
    /// `Unsupported` if the model does not embed.
    pub async fn connect(client: OpenAiClient, model: &str) -> Result<Self> {
        let embeddings = ask(&client, model, &["dimension"]).await?;
        let dimension = embeddings.vectors.first().map_or(0, Vec::len);
        if dimension == 0 {
            return Err(Error::new(ErrorKind::Unsupported, "this model does not embed")
                .during("embed with")
                .about(model));
        }
        let info = ModelInfo {
            dimension,
            capabilities: ModelCapabilities { embedding: true, ..ModelCapabilities::NONE },
            ..ModelInfo::new(model, "openai", CONTEXT)
        };
        Ok(Self { client, info })
    }

    /// Says how many tokens of a text the model reads, which its server does not tell; 512 otherwise. Nothing is cut by it.
    #[must_use]
    pub fn context_length(mut self, tokens: usize) -> Self {
        self.info.context_length = tokens;
        self
    }

    /// The vectors of a batch that the server takes, each at unit length.
    async fn batch(&self, texts: &[&str]) -> Result<Embeddings> {
        let Embeddings { vectors, tokens } = ask(&self.client, &self.info.name, texts).await?;
        let right = |vector: &Vec<f32>| vector.len() == self.info.dimension;
        let unit = |vector| Some(vector).filter(right).and_then(normalise);
        let vectors: Option<Vec<_>> = vectors.into_iter().map(unit).collect();
        let vectors = vectors.ok_or_else(|| other_vectors(&self.info.name))?;
        Ok(Embeddings { vectors, tokens })
    }
}

#[async_trait]
impl EmbeddingModel for OpenAiEmbedding {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.client.holds(&self.info.name).await
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        let mut all = Embeddings { vectors: Vec::with_capacity(texts.len()), tokens: 0 };
        // The next batch stands last.
        let mut waiting: Vec<Vec<&str>> =
            texts.chunks(BATCH).rev().map(|batch| batch.iter().map(String::as_str).collect()).collect();
        while let Some(mut batch) = waiting.pop() {
            match self.batch(&batch).await {
                Ok(embeddings) => {
                    all.tokens = all.tokens.saturating_add(embeddings.tokens);
                    all.vectors.extend(embeddings.vectors);
                }
                // The server does not say which text is too long.
                Err(error) if error.code() == "context_length_exceeded" => {
                    if let [text] = batch[..] {
                        waiting.push(vec![shorter(text).ok_or(error)?]);
                    } else {
                        let rest = batch.split_off(batch.len() / 2);
                        waiting.extend([rest, batch]);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// One vector for each text, in the order of the texts, as the server made them.
async fn ask(client: &OpenAiClient, model: &str, texts: &[&str]) -> Result<Embeddings> {
    let request = client.post("embeddings", &embedding_body(model, texts))?;
    let answer: Answer = client.json(request, Some(model)).await?;
    let vectors = in_order(answer.data, texts.len()).ok_or_else(|| other_vectors(model))?;
    let tokens = answer.usage.and_then(|usage| usage.prompt_tokens).unwrap_or(0);
    Ok(Embeddings { vectors, tokens })
}

/// The vectors by their numbers; nothing unless there is exactly one for each of `texts`.
fn in_order(data: Vec<Embedding>, texts: usize) -> Option<Vec<Vec<f32>>> {
    let mut vectors = vec![None; texts];
    for (position, Embedding { index, embedding }) in data.into_iter().enumerate() {
        if vectors.get_mut(index.unwrap_or(position))?.replace(embedding).is_some() {
            return None;
        }
    }
    vectors.into_iter().collect()
}

/// The beginning of a text, of the next smaller power of two of characters: so texts that begin alike are cut alike. Nothing if none is left.
fn shorter(text: &str) -> Option<&str> {
    let most = text.chars().count().next_power_of_two() / 2;
    let (end, _) = text.char_indices().nth(most).filter(|_| most > 0)?;
    text.get(..end)
}

fn other_vectors(model: &str) -> Error {
    unavailable("the server sent other vectors than were asked for").during("embed with").about(model)
}
