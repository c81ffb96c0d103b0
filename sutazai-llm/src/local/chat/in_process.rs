//! What chat models in this process share, whatever computes them: finding the file, checking it, and the worker.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use sutazai_core::{
    Result,
    model::{ChatRequest, ChatStream, ModelCapabilities, ModelInfo},
};

use super::{
    LONGEST, LocalChatConfig, MOST_SESSIONS, ModelFile,
    gguf::{Gguf, damaged, missing, unreadable},
    loaded::Loaded,
    network::Network,
    prompt::Prompts,
    worker::{Options, Worker},
};
use crate::{
    gateway::TokenCounter,
    registry::{Role, digest},
};

/// A chat model without its arithmetic.
pub(crate) struct InProcess {
    info: ModelInfo,
    /// As the file turned out to be, once it was read.
    read: Arc<OnceLock<(ModelInfo, Arc<Prompts>)>>,
    config: Arc<LocalChatConfig>,
    worker: Worker,
}

impl InProcess {
    /// The model that `config` describes, whose network is what `build` makes of the file's path, its header and the size of its vocabulary; it
    /// computes on a pool of `threads`.
    pub(crate) fn new(
        mut config: LocalChatConfig,
        backend: &'static str,
        threads: usize,
        build: impl Fn(&Path, &mut Gguf, usize) -> Result<Box<dyn Network>> + Send + Sync + 'static,
    ) -> Self {
        config.context_length = config.context_length.clamp(1, LONGEST);
        config.sessions = config.sessions.clamp(1, MOST_SESSIONS);
        let config = Arc::new(config);
        let info = ModelInfo {
            capabilities: ModelCapabilities { chat: true, schema: true, seed: true, ..ModelCapabilities::NONE },
            ..ModelInfo::new(&*config.name, backend, config.context_length)
        };
        let options = Options {
            name: config.name.clone(),
            threads,
            sessions: config.sessions,
            max_waiting: config.max_waiting,
            context_length: config.context_length,
            unload_after: config.unload_after,
        };
        let read = Arc::new(OnceLock::new());
        let load = {
            let (config, info, read) = (Arc::clone(&config), info.clone(), Arc::clone(&read));
            move || {
                let loaded = load(&config, &build)?;
                read.get_or_init(|| {
                    let info = ModelInfo { context_length: loaded.context(), ..info.clone() };
                    (info, Arc::clone(loaded.prompts()))
                });
                Ok(loaded)
            }
        };
        Self { info, read, config, worker: Worker::new(options, load) }
    }

    pub(crate) fn info(&self) -> &ModelInfo {
        self.read.get().map_or(&self.info, |(info, _)| info)
    }

    pub(crate) fn counter(&self) -> Arc<dyn TokenCounter> {
        Arc::new(Counter(Arc::clone(&self.read)))
    }

    pub(crate) async fn ready(&self) -> Result<()> {
        match &self.config.file {
            ModelFile::Store(store) => store.installed(&self.config.name).await.map(drop),
            ModelFile::Path(path) => {
                let found = tokio::fs::metadata(path).await.is_ok_and(|file| file.is_file() && file.len() > 0);
                if found { Ok(()) } else { Err(missing().during("find model").about(path.display())) }
            }
        }
    }

    pub(crate) async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        request.check(self.info())?;
        Ok(ChatStream::new(self.info(), self.worker.chat(request).await?))
    }

    pub(crate) async fn load(&self) -> Result<()> {
        self.worker.load().await
    }

    pub(crate) async fn unload(&self) -> Result<()> {
        self.worker.unload().await
    }
}

/// Counts as the model does, from when its file was first read.
struct Counter(Arc<OnceLock<(ModelInfo, Arc<Prompts>)>>);

impl TokenCounter for Counter {
    fn count(&self, request: &ChatRequest) -> Option<u32> {
        self.0.get()?.1.count(request)
    }

    fn is_exact(&self) -> bool {
        self.0.get().is_some()
    }
}

type Build = dyn Fn(&Path, &mut Gguf, usize) -> Result<Box<dyn Network>> + Send + Sync;

/// Finds the file, reads it, and checks it meanwhile. Blocks.
fn load(config: &LocalChatConfig, build: &Build) -> Result<Loaded> {
    let (path, pinned): (PathBuf, _) = match &config.file {
        ModelFile::Path(path) => (path.clone(), None),
        ModelFile::Store(store) => {
            let installed = store.find_installed(&config.name)?;
            let (path, file) = installed.file(Role::Weights)?;
            (path, Some(file.sha256.clone()))
        }
    };
    let load = || {
        let build = |gguf: &mut Gguf, vocabulary| build(&path, gguf, vocabulary);
        Gguf::open(&path).and_then(|gguf| Loaded::new(gguf, config.context_length, build))
    };
    let check = || match &pinned {
        Some(pinned) if *pinned != digest(&path, |_| {}).map_err(|error| unreadable().because(error))? => {
            Err(damaged("it has changed since it was pulled"))
        }
        _ => Ok(()),
    };
    let (checked, loaded) = rayon::join(check, load);
    checked.and(loaded).map_err(|error| error.about(path.display()))
}
