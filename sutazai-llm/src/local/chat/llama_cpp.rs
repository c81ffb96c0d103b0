//! The same chat on llama.cpp, for operators who want the last factor of speed: feature `llama-cpp`.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use llama_cpp_2::{
    context::{LlamaContext, params::LlamaContextParams},
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo},
};

use super::{
    LocalChatConfig,
    gguf::damaged,
    in_process::InProcess,
    network::{Network, Part, Sessions},
    serve::CHUNK,
};
use crate::gateway::TokenCounter;

/// A chat model that llama.cpp runs in this process.
///
/// It behaves as [`LocalChat`](super::LocalChat) does; only the arithmetic is llama.cpp's, on the weights as the file has them. Its memory for all sessions is
/// taken when it is loaded. With a seed an answer is the same again for the same number of threads, where the same of its prompt has been read before and
/// nothing is answered beside it.
pub struct LlamaCppChat(InProcess);

impl LlamaCppChat {
    /// The model that `config` describes; nothing is read yet.
    #[must_use]
    pub fn new(config: LocalChatConfig) -> Self {
        let threads = config.threads;
        // llama.cpp has threads of its own.
        Self(InProcess::new(config, "llama-cpp", 1, move |path, _, vocabulary| {
            Ok(Box::new(LlamaCpp::open(path, threads, vocabulary)?))
        }))
    }

    /// Counts the tokens of prompts as this model does, once it has been loaded for the first time; before that it cannot say.
    #[must_use]
    pub fn counter(&self) -> Arc<dyn TokenCounter> {
        self.0.counter()
    }
}

#[async_trait]
impl ChatModel for LlamaCppChat {
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

/// llama.cpp's state for the whole process, made once and never torn down.
fn backend() -> Result<&'static LlamaBackend> {
    static BACKEND: OnceLock<Option<LlamaBackend>> = OnceLock::new();
    let made = BACKEND.get_or_init(|| {
        let mut backend = LlamaBackend::init().ok()?;
        // It would write to stderr, past the program's own log.
        backend.void_logs();
        Some(backend)
    });
    made.as_ref().ok_or_else(|| failed("it is already used by another part of this program"))
}

struct LlamaCpp {
    model: LlamaModel,
    threads: i32,
}

impl LlamaCpp {
    fn open(path: &Path, threads: usize, vocabulary: usize) -> Result<Self> {
        let model = LlamaModel::load_from_file(backend()?, path, &LlamaModelParams::default())
            .map_err(|error| damaged("llama.cpp cannot load it").because(error))?;
        if usize::try_from(model.n_vocab()) != Ok(vocabulary) {
            return Err(damaged("its vocabulary has another size than its tokenizer"));
        }
        Ok(Self { model, threads: i32::try_from(threads).unwrap_or(i32::MAX) })
    }
}

impl Network for LlamaCpp {
    fn context(&self) -> usize {
        usize::try_from(self.model.n_ctx_train()).unwrap_or(usize::MAX)
    }

    fn sessions(&self, count: usize, room: usize) -> Result<Box<dyn Sessions + '_>> {
        let size = |number: usize| u32::try_from(number).ok();
        let params = LlamaContextParams::default()
            .with_n_ctx(size(count.saturating_mul(room)).and_then(NonZeroU32::new))
            .with_n_seq_max(size(count).unwrap_or(u32::MAX))
            // One cache for all, so that the beginning of one conversation can become another's.
            .with_kv_unified(true)
            .with_swa_full(true)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads);
        let context = self.model.new_context(backend()?, params).map_err(failed)?;
        let batch = LlamaBatch::new(CHUNK + count, 1);
        Ok(Box::new(Running { context, batch, lengths: vec![0; count], logits: Vec::new() }))
    }
}

struct Running<'a> {
    context: LlamaContext<'a>,
    batch: LlamaBatch<'a>,
    /// What each session has read.
    lengths: Vec<usize>,
    logits: Vec<f32>,
}

impl Running<'_> {
    fn forget(&mut self, session: usize, from: usize) -> Result<()> {
        let number = |number: usize| u32::try_from(number).map_err(failed);
        match self.context.clear_kv_cache_seq(Some(number(session)?), Some(number(from)?), None).map_err(failed)? {
            true => Ok(()),
            false => Err(failed("what was read cannot be forgotten in part")),
        }
    }
}

impl Sessions for Running<'_> {
    fn pass(&mut self, parts: &[Part<'_>]) -> Result<&[f32]> {
        self.batch.clear();
        for part in parts {
            if part.position < self.lengths[part.session] {
                self.forget(part.session, part.position)?;
            }
            let session = i32::try_from(part.session).map_err(failed)?;
            for (token, position) in part.tokens.iter().zip(part.position..) {
                let (token, at) = (i32::try_from(*token).map_err(failed)?, i32::try_from(position).map_err(failed)?);
                let logits = part.wants_logits && position + 1 == part.position + part.tokens.len();
                self.batch.add(LlamaToken(token), at, &[session], logits).map_err(failed)?;
            }
            self.lengths[part.session] = part.position + part.tokens.len();
        }
        self.context.decode(&mut self.batch).map_err(failed)?;
        self.logits.clear();
        let mut last = 0;
        for part in parts {
            last += i32::try_from(part.tokens.len()).map_err(failed)?;
            if part.wants_logits {
                self.logits.extend_from_slice(self.context.get_logits_ith(last - 1));
            }
        }
        Ok(&self.logits)
    }

    fn copy(&mut self, from: usize, to: usize, length: usize) -> Result<()> {
        self.forget(to, 0)?;
        let number = |number: usize| i32::try_from(number).map_err(failed);
        let length_read = u32::try_from(length).map_err(failed)?;
        self.context.copy_kv_cache_seq(number(from)?, number(to)?, Some(0), Some(length_read)).map_err(failed)?;
        self.lengths[to] = length;
        Ok(())
    }
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, "llama.cpp refused the work")
        .with_code("model_failed")
        .during("run llama.cpp")
        .because(reason.to_string())
}
