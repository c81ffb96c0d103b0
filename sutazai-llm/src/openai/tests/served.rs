//! The conformance suites against a fake server that keeps to what it is asked for, and embeddings.

use super::*;

/// The chat model and the fake server that serves it.
struct ServedChat(OpenAiChat, #[allow(dead_code, reason = "it serves while it lives")] FakeHttpServer);

#[async_trait::async_trait]
impl ChatModel for ServedChat {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> Result<()> {
        self.0.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        self.0.chat(request).await
    }
}

/// A chat that keeps to what it is asked for, with words for tokens and 2048 of them for a context.
fn well_behaved(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let messages = body["messages"].as_array().unwrap();
    let words = |message: &Value| message["content"].as_str().unwrap().split_whitespace().count();
    let prompt = messages.iter().map(words).sum::<usize>();
    if prompt >= 2048 {
        let error = json!({"error": {"message": "too long", "code": "context_length_exceeded"}});
        return FakeResponse::new(400, error.to_string());
    }
    let text = match body["response_format"]["type"].as_str() {
        None => (1..=100).map(|number| format!("{number} ")).collect(),
        Some("json_object") => r#"{"grass": "green"}"#.to_owned(),
        Some(_) => r#"{"colour": "green", "sure": true}"#.to_owned(),
    };
    let stops = body["stop"].as_array().into_iter().flatten();
    let end = stops.filter_map(|stop| text.find(stop.as_str().unwrap())).min().unwrap_or(text.len());
    let words: Vec<&str> = text[..end].split_inclusive(' ').collect();
    let most = body["max_tokens"].as_u64().map_or(words.len(), |most| words.len().min(most as usize));
    let reason = if most < words.len() { "length" } else { "stop" };
    let last = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": most}});
    let word = |word: &&str| json!({"choices": [{"index": 0, "delta": {"content": word}}]});
    let events = words[..most].iter().map(word).chain([last, usage]).map(|event| event.to_string());
    FakeResponse::stream(events.chain(["[DONE]".to_owned()]).map(|event| format!("data: {event}\n\n")))
}

async fn served_chat() -> ServedChat {
    let server = server(well_behaved).await;
    ServedChat(chat_model(&server), server)
}

sutazai_core::chat_conformance!(served_chat().await);

fn vector(text: &str) -> [f32; 3] {
    let text: String = text.split_whitespace().collect();
    let seed = text.bytes().fold(7, |seed, byte| seed * 31 % 65_537 + u64::from(byte));
    let mut random = fastrand::Rng::with_seed(seed);
    [random.f32() - 0.5, random.f32() - 0.5, random.f32() - 0.5]
}

/// Vectors that the words of a text decide, the last first; a text beyond 512 words is refused as vLLM does.
pub(super) fn embed(request: &FakeRequest) -> FakeResponse {
    let body = request.json();
    let texts: Vec<&str> = body["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    assert!(texts.iter().all(|text| !text.is_empty()), "there is no vector for nothing");
    if texts.iter().any(|text| text.split_whitespace().count() > 512) {
        let text = "This model's maximum context length is 512 tokens. However, you requested more.";
        let error = json!({"error": {"message": text, "type": "BadRequestError", "param": null, "code": 400}});
        return FakeResponse::new(400, error.to_string());
    }
    let entry =
        |(index, text): (usize, &str)| json!({"object": "embedding", "index": index, "embedding": vector(text)});
    let data: Vec<_> = texts.iter().copied().enumerate().map(entry).rev().collect();
    let usage = json!({"prompt_tokens": texts.len(), "total_tokens": texts.len()});
    FakeResponse::json(json!({"object": "list", "model": body["model"], "data": data, "usage": usage}))
}

/// The model and the fake server that serves it.
struct Served(OpenAiEmbedding, #[allow(dead_code, reason = "it serves while it lives")] Arc<FakeHttpServer>);

#[async_trait::async_trait]
impl EmbeddingModel for Served {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    async fn ready(&self) -> Result<()> {
        self.0.ready().await
    }

    async fn embed(&self, texts: &[String]) -> Result<Embeddings> {
        self.0.embed(texts).await
    }
}

async fn embedding_model() -> Served {
    let server = server(|_| streamed(OPENAI, 1000)).await;
    Served(OpenAiEmbedding::connect(client(&server), "all-minilm").await.unwrap(), Arc::new(server))
}

sutazai_core::embedding_conformance!(embedding_model().await);

#[tokio::test]
async fn many_texts_go_in_batches() {
    let model = embedding_model().await;
    assert_eq!((model.info().dimension, model.info().context_length), (3, 512));
    assert_eq!(model.0.clone().context_length(256).info().context_length, 256);
    let texts: Vec<_> = (0..150).map(|i| "x".repeat(i + 1)).collect();
    let embeddings = model.embed(&texts).await.unwrap();
    assert_eq!((embeddings.vectors.len(), embeddings.tokens), (150, 150));
    assert_eq!(model.1.requests().len(), 1 + 3);
    assert_eq!(embeddings.vectors[149], model.embed_one(&texts[149]).await.unwrap());
}

#[tokio::test]
async fn a_long_text_is_cut_and_the_others_are_not() {
    let model = embedding_model().await;
    let mut texts: Vec<String> = (0..100).map(|number| format!("text {number}")).collect();
    texts[77] = "word ".repeat(600);
    let embeddings = model.embed(&texts).await.unwrap();
    texts[77].truncate(2048);
    for (text, vector) in texts.iter().zip(&embeddings.vectors) {
        assert_eq!(vector, &model.embed_one(text).await.unwrap(), "{text}");
    }
    assert_eq!(embeddings.tokens, 100, "what was refused is not counted");
}

#[tokio::test]
async fn vectors_that_do_not_fit_the_texts_are_an_error() {
    let vector = |index: Value, vector: Value| json!({"index": index, "embedding": vector});
    let (zero, one) = (vector(json!(0), json!([1, 0])), vector(json!(1), json!([0, 1])));
    for (data, right) in [
        (json!([one, zero]), true),
        (json!([vector(Value::Null, json!([3, 4])), {"embedding": [0, 1]}]), true),
        (json!([zero]), false),
        (json!([zero, one, vector(json!(2), json!([1, 1]))]), false),
        (json!([zero, zero]), false),
        (json!([zero, vector(json!(1), json!([1, 0, 0]))]), false),
        (json!([zero, vector(json!(1), json!([1e39, 0]))]), false),
        (json!([zero, vector(json!(1), json!([[1, 0], [0, 1]]))]), false),
        (json!("none"), false),
    ] {
        let sent = data.clone();
        let server = FakeHttpServer::start(move |request| {
            let probe = json!([{"embedding": [1, 1]}]);
            let single = request.json()["input"].as_array().unwrap().len() == 1;
            FakeResponse::json(json!({"data": if single { &probe } else { &sent }}))
        })
        .await;
        let model = OpenAiEmbedding::connect(client(&server), "tiny").await.unwrap();
        match model.embed(&["a".into(), "b".into()]).await {
            Ok(embeddings) => assert!(right && embeddings.vectors.len() == 2 && embeddings.tokens == 0, "{data}"),
            Err(error) => assert!(!right && error.code() == "model_unavailable", "{data}: {error:?}"),
        }
    }
    let server = FakeHttpServer::start(|_| FakeResponse::json(json!({"data": [{"embedding": []}]}))).await;
    let error = OpenAiEmbedding::connect(client(&server), "tiny").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
