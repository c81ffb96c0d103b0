//! Chat with GGUF models, in process.

mod answer;
mod attention;
mod decoder;
mod gguf;
mod grammar;
mod header;
mod in_process;
#[cfg(feature = "llama-cpp")]
mod llama_cpp;
mod loaded;
mod matrix;
mod network;
mod nibbles;
mod place;
mod prompt;
mod sampler;
mod serve;
mod template;
mod text;
mod tokenizer;
mod worker;

use std::{num::NonZero, path::PathBuf, sync::Arc, thread, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo},
};

#[cfg(feature = "llama-cpp")]
pub use self::llama_cpp::LlamaCppChat;
pub use self::tokenizer::Tokenizer;
use self::{decoder::Decoder, in_process::InProcess};
use crate::{gateway::TokenCounter, registry::ModelStore};

/// Tokens of context at most, whatever is asked for.
const LONGEST: usize = 1 << 20;
/// Requests that are answered at a time at most, whatever is asked for.
const MOST_SESSIONS: usize = 64;

/// How a model in this process runs.
#[derive(Clone, Debug)]
pub struct LocalChatConfig {
    /// The name that callers use, such as `smollm2:135m`.
    pub name: String,
    /// Where its GGUF file is.
    pub file: ModelFile,
    /// Threads that compute; by default one per processor.
    pub threads: usize,
    /// Tokens of prompt and answer together, at most 2^20; a model trained for fewer has fewer. 8,192 by default. A phi3 model that has one rotation for
    /// short texts and another for long ones takes that for long ones where this is more than what it was first trained with, such as 4,096.
    pub context_length: usize,
    /// Requests that are answered at a time, with one pass over the weights for all of them, at most 64; 4 by default. Each has a session with room for the whole
    /// context, whose memory is used as far as it is filled; what one has read is kept for the next request of the same tenant that begins alike.
    pub sessions: usize,
    /// Requests that may wait for their turn; more are refused with the code `queue_full`. 64 by default.
    pub max_waiting: usize,
    /// After this long without a request the model's memory is given back; by default never.
    pub unload_after: Option<Duration>,
}

/// Where a model's file is.
#[derive(Clone, Debug)]
pub enum ModelFile {
    /// At this path. Whatever is there is read.
    Path(PathBuf),
    /// In this store, under the model's name. It is read only if it has the digest that the catalogue pins.
    Store(ModelStore),
}

impl LocalChatConfig {
    /// The model `name` in the file at `path`, with defaults for the rest.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            file: ModelFile::Path(path.into()),
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            context_length: 8192,
            sessions: 4,
            max_waiting: 64,
            unload_after: None,
        }
    }

    /// The model `name` of `store`, with defaults for the rest; code `model_not_found` if its catalogue does not know it.
    pub fn from_store(store: ModelStore, name: &str) -> Result<Self> {
        let model = store.catalogue().find(name)?;
        if !model.capabilities.chat {
            return Err(Error::new(ErrorKind::Unsupported, "this model does not chat")
                .during("chat with")
                .about(model.name));
        }
        let context_length = model.context_length.min(8192);
        Ok(Self { file: ModelFile::Store(store), context_length, ..Self::new(model.name, PathBuf::new()) })
    }
}

/// A chat model that runs in this process: a GGUF file of one of the architectures llama, qwen2, qwen3, gemma, gemma2, gemma3 and phi3. Any other is
/// refused by its name, with the code `model_unsupported`. Weights in Q4_0, Q4_1 and Q4_K stay in 4 bits, all others are held in 8.
///
/// Making one is cheap. The file is read when the first request comes, on a thread of the model's own, where all inference runs; from then on its
/// information has the model's own context length where that is less. Requests beyond its sessions wait in order. The beginning of a prompt that it has read
/// before, such as a system prompt or a conversation so far, is not read again. With a seed an answer is the same again on the same kind of processor,
/// whatever the number of threads and whatever is answered beside it.
pub struct LocalChat(InProcess);

impl LocalChat {
    /// The model that `config` describes; nothing is read yet.
    #[must_use]
    pub fn new(config: LocalChatConfig) -> Self {
        let (threads, context) = (config.threads, config.context_length);
        Self(InProcess::new(config, "local", threads, move |_, gguf, vocabulary| {
            Ok(Box::new(Decoder::from_gguf(gguf, vocabulary, context)?))
        }))
    }

    /// Counts the tokens of prompts as this model does, once it has been loaded for the first time; before that it cannot say.
    #[must_use]
    pub fn counter(&self) -> Arc<dyn TokenCounter> {
        self.0.counter()
    }

    /// The model `name` of `store`; nothing is read yet. Code `model_not_found` if its catalogue does not know it.
    pub fn from_store(store: ModelStore, name: &str) -> Result<Self> {
        LocalChatConfig::from_store(store, name).map(Self::new)
    }
}

#[async_trait]
impl ChatModel for LocalChat {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> Result<()> {
        self.0.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        self.0.chat(request).await
    }

    async fn load(&self) -> Result<()> {
        self.0.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.0.unload().await
    }
}
