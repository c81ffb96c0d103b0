//! Embeddings by a server.

use sutazai_core::{
    ErrorKind,
    model::{EmbeddingModel, Embeddings, ModelInfo},
};

use super::*;

/// Vectors that the words of a text decide, up to the context.
pub(super) fn embed(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let vector = |text: &Value| {
        let text: String = text.as_str().unwrap().split_whitespace().take(512).collect();
        let mut random =
            fastrand::Rng::with_seed(text.bytes().fold(7, |seed, byte| seed * 31 % 65_537 + u64::from(byte)));
        [random.f32() - 0.5, random.f32() - 0.5, random.f32() - 0.5]
    };
    let texts = body["input"].as_array().unwrap();
    assert!(texts.iter().all(|text| text != ""), "Ollama has no vector for nothing");
    let vectors: Vec<_> = texts.iter().map(vector).collect();
    FakeResponse::json(json!({"model": body["model"], "embeddings": vectors, "prompt_eval_count": texts.len()}))
}

/// The model and the fake server that serves it.
struct Served(OllamaEmbedding, FakeHttpServer);

#[async_trait::async_trait]
impl EmbeddingModel for Served {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> sutazai_core::Result<()> {
        self.0.ready().await
    }

    async fn embed(&self, texts: &[String]) -> sutazai_core::Result<Embeddings> {
        self.0.embed(texts).await
    }
}

async fn embedding_model() -> Served {
    let server = server(|_| done()).await;
    Served(OllamaEmbedding::connect(client(&server), "all-minilm").await.unwrap(), server)
}

sutazai_core::embedding_conformance!(embedding_model().await);

#[tokio::test]
async fn many_texts_go_in_batches() {
    let Served(model, server) = embedding_model().await;
    let model = model.keep_alive(KeepAlive::Always);
    let texts: Vec<_> = (0..150).map(|i| "x".repeat(i + 1)).collect();
    let embeddings = model.embed(&texts).await.unwrap();
    assert_eq!((embeddings.vectors.len(), embeddings.tokens), (150, 150));
    let sent: Vec<_> = server.requests().into_iter().filter(|request| request.path == "/api/embed").collect();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|request| request.json()["keep_alive"] == json!(-1)));
}

#[tokio::test]
async fn a_model_is_loaded_without_a_text_and_unloaded() {
    let Served(model, server) = embedding_model().await;
    let last = || server.requests().pop().unwrap();
    model.load().await.unwrap();
    let loading = json!({"model": "all-minilm", "input": [], "keep_alive": "30m"});
    assert_eq!((last().path.as_str(), last().json()), ("/api/embed", loading));
    model.unload().await.unwrap();
    let unloading = json!({"model": "all-minilm", "stream": false, "keep_alive": 0});
    assert_eq!((last().path.as_str(), last().json()), ("/api/generate", unloading));
}

#[tokio::test]
async fn a_model_that_chats_does_not_embed() {
    let server = server(|_| done()).await;
    let error = OllamaEmbedding::connect(client(&server), "tinyllama").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
