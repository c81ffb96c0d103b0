//! A chat model with an operator's defaults for what a request leaves open.

use std::sync::Arc;

use async_trait::async_trait;
use sutazai_core::{
    Result,
    model::{ChatModel, ChatRequest, ChatStream, ModelInfo, Sampling},
};

/// Fills in temperature and length where a request has none of its own.
pub(crate) struct WithDefaults {
    model: Arc<dyn ChatModel>,
    temperature: Option<f32>,
    max_tokens: Option<u32>,
}

impl WithDefaults {
    /// `model` with these defaults; without any, `model` itself.
    pub(crate) fn wrap(
        model: Arc<dyn ChatModel>,
        temperature: Option<f32>,
        max_tokens: Option<u32>,
    ) -> Arc<dyn ChatModel> {
        if temperature.is_none() && max_tokens.is_none() {
            return model;
        }
        Arc::new(Self { model, temperature, max_tokens })
    }
}

#[async_trait]
impl ChatModel for WithDefaults {
    fn info(&self) -> &ModelInfo {
        self.model.info()
    }

    async fn ready(&self) -> Result<()> {
        self.model.ready().await
    }

    async fn chat(&self, mut request: ChatRequest) -> Result<ChatStream> {
        // A request that samples as nobody chose has made no choice.
        if request.sampling == Sampling::default() {
            request.sampling.temperature = self.temperature.unwrap_or(request.sampling.temperature);
        }
        request.max_tokens = request.max_tokens.or(self.max_tokens);
        self.model.chat(request).await
    }

    async fn load(&self) -> Result<()> {
        self.model.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.model.unload().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use sutazai_core::{Error, ErrorKind};

    use super::*;

    struct Recorder(ModelInfo, Mutex<Vec<ChatRequest>>);

    #[async_trait]
    impl ChatModel for Recorder {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        async fn ready(&self) -> Result<()> {
            Ok(())
        }

        async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
            self.1.lock().unwrap().push(request);
            Err(Error::new(ErrorKind::Unavailable, "records only"))
        }
    }

    #[tokio::test]
    async fn a_request_keeps_what_it_says_itself() {
        let info = ModelInfo::new("recorder", "test", 1);
        let recorder = Arc::new(Recorder(info, Mutex::default()));
        let model = WithDefaults::wrap(Arc::clone(&recorder) as _, Some(0.1), Some(7));
        let _ = model.chat(ChatRequest::ask("open")).await;
        let chosen = ChatRequest { sampling: Sampling::GREEDY, max_tokens: Some(3), ..ChatRequest::ask("chosen") };
        let _ = model.chat(chosen).await;
        let seen = recorder.1.lock().unwrap();
        assert_eq!((seen[0].sampling.temperature, seen[0].max_tokens), (0.1, Some(7)));
        assert_eq!((seen[1].sampling, seen[1].max_tokens), (Sampling::GREEDY, Some(3)));
    }
}
