//! The same chat on llama.cpp, for operators who want the last factor of speed: feature `llama-cpp`.

use std::{num::NonZeroU32, path::Path, sync::OnceLock};

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
    generate::CHUNK,
    gguf::damaged,
    in_process::InProcess,
    network::{Network, Session},
};

/// A chat model that llama.cpp runs in this process.
///
/// It behaves as [`LocalChat`](super::LocalChat) does; only the arithmetic is llama.cpp's, on the weights as the file has them. With a seed an answer is
/// the same again for the same number of threads.
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

    fn session(&self, room: usize) -> Result<Box<dyn Session + '_>> {
        let room = u32::try_from(room).ok().and_then(NonZeroU32::new);
        let params = LlamaContextParams::default()
            .with_n_ctx(room)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads);
        let context = self.model.new_context(backend()?, params).map_err(failed)?;
        Ok(Box::new(Running { context, batch: LlamaBatch::new(CHUNK, 1), position: 0 }))
    }
}

struct Running<'a> {
    context: LlamaContext<'a>,
    batch: LlamaBatch<'a>,
    position: i32,
}

impl Session for Running<'_> {
    fn feed(&mut self, tokens: &[u32], want_logits: bool) -> Result<&[f32]> {
        self.batch.clear();
        for (index, token) in tokens.iter().enumerate() {
            let token = i32::try_from(*token).map_err(failed)?;
            let logits = want_logits && index + 1 == tokens.len();
            self.batch.add(LlamaToken(token), self.position, &[0], logits).map_err(failed)?;
            self.position += 1;
        }
        self.context.decode(&mut self.batch).map_err(failed)?;
        Ok(if want_logits { self.context.get_logits_ith(self.batch.n_tokens() - 1) } else { &[] })
    }
}

fn failed(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Internal, "llama.cpp refused the work")
        .with_code("model_failed")
        .during("run llama.cpp")
        .because(reason.to_string())
}
