//! Chat with GGUF models of the llama family, in process.

mod attention;
mod generate;
mod gguf;
mod grammar;
mod llama;
#[cfg(feature = "llama-cpp")]
mod llama_cpp;
mod matrix;
mod network;
mod sampler;
mod template;
mod text;
mod tokenizer;
mod worker;

use std::{num::NonZero, path::PathBuf, thread, time::Duration};

use async_trait::async_trait;
use sutazai_core::{
    Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelCapabilities, ModelInfo},
};

#[cfg(feature = "llama-cpp")]
pub use self::llama_cpp::LlamaCppChat;
pub use self::tokenizer::Tokenizer;
use self::{
    generate::Loaded,
    gguf::{Gguf, missing},
    llama::Llama,
    worker::{Options, Worker},
};

/// How a model in this process runs.
#[derive(Clone, Debug)]
pub struct LocalChatConfig {
    /// The name that callers use, such as `smollm2:135m`.
    pub name: String,
    /// Its GGUF file.
    pub path: PathBuf,
    /// Threads that compute; by default one per processor.
    pub threads: usize,
    /// Tokens of prompt and answer together; a model trained for fewer has fewer. 8,192 by default.
    pub context_length: usize,
    /// Requests that may wait for their turn; more are refused with the code `queue_full`. 64 by default.
    pub max_waiting: usize,
    /// After this long without a request the model's memory is given back; by default never.
    pub unload_after: Option<Duration>,
}

impl LocalChatConfig {
    /// The model `name` in the file at `path`, with defaults for the rest.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            threads: thread::available_parallelism().map_or(1, NonZero::get),
            context_length: 8192,
            max_waiting: 64,
            unload_after: None,
        }
    }

    fn info(&self) -> ModelInfo {
        ModelInfo {
            name: self.name.clone(),
            backend: "local".into(),
            context_length: self.context_length,
            dimension: 0,
            capabilities: ModelCapabilities { chat: true, schema: true, seed: true, ..ModelCapabilities::default() },
        }
    }

    fn options(&self) -> Options {
        Options {
            name: self.name.clone(),
            path: self.path.clone(),
            threads: self.threads,
            max_waiting: self.max_waiting,
            context_length: self.context_length,
            unload_after: self.unload_after,
        }
    }

    async fn ready(&self) -> Result<()> {
        let found = tokio::fs::metadata(&self.path).await.is_ok_and(|file| file.is_file() && file.len() > 0);
        if found { Ok(()) } else { Err(missing().during("find model").about(self.path.display())) }
    }
}

/// A chat model that runs in this process: a GGUF file of the llama family, its weights held in 8 bits.
///
/// Making one is cheap. The file is read when the first request comes, on a thread of the model's own, where all inference runs.
/// One request is answered at a time, others wait in order. With a seed an answer is the same again on the same kind of
/// processor, whatever the number of threads.
pub struct LocalChat {
    info: ModelInfo,
    config: LocalChatConfig,
    worker: Worker,
}

impl LocalChat {
    /// The model that `config` describes; nothing is read yet.
    #[must_use]
    pub fn new(config: LocalChatConfig) -> Self {
        let (path, context) = (config.path.clone(), config.context_length);
        let load = move || {
            let build = |gguf: &mut Gguf, vocabulary| Ok(Box::new(Llama::from_gguf(gguf, vocabulary)?) as _);
            Gguf::open(&path).and_then(|gguf| Loaded::new(gguf, context, build))
        };
        Self { info: config.info(), worker: Worker::new(config.options(), load), config }
    }
}

#[async_trait]
impl ChatModel for LocalChat {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        self.config.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(&self.info)?;
        self.worker.chat(request).await
    }
}
