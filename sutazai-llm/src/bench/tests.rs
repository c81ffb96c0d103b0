//! The whole bench on scripted models, in virtual time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sutazai_core::{
    Error, ErrorKind,
    clock::{Clock, Timestamp},
    memory::{Script, ScriptedChat},
    model::{Caching, ChatRequest, ModelCapabilities, ResponseFormat},
};
use tokio::time::Instant;

use super::*;
use crate::tier::Tier;

/// A clock that goes by tokio's time.
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_796_083_200_000).plus(self.0.elapsed())
    }

    fn random(&self) -> u64 {
        7
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Every model takes so much.
struct Takes(u64);

#[async_trait]
impl MemoryProbe for Takes {
    async fn resident(&self) -> Option<u64> {
        Some(self.0)
    }
}

fn bench() -> Bench {
    Bench::new().with_clock(Arc::new(Virtual(Instant::now())))
}

/// What fits a schema.
fn example(schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str().unwrap() {
        "string" => json!("Oslo"),
        "integer" => json!(3),
        "boolean" => json!(true),
        "array" => json!([example(&schema["items"])]),
        "object" => {
            let fields = schema["properties"].as_object().unwrap();
            Value::Object(
                fields.iter().map(|(name, field)| (name.clone(), example(field))).collect::<Map<String, Value>>(),
            )
        }
        other => panic!("{other}"),
    }
}

/// Keeps to schemas, tells long stories, and knows three of the answers.
fn say(request: &ChatRequest) -> String {
    let asked = &request.messages[0].content;
    match &request.response_format {
        ResponseFormat::Schema(schema) => example(schema).to_string(),
        _ if asked.contains("long story") => "word ".repeat(200),
        _ if asked.contains("capital of France") => "Paris".into(),
        _ if asked.contains("sheep") => "There are 9".into(),
        _ if asked.contains("revenue") => "25 %".into(),
        _ => "I cannot say.".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_measured_in_its_order() {
    let script = Script::by(say).after(Duration::from_secs(2)).pausing(Duration::from_millis(10));
    let model = ScriptedChat::new("actor").otherwise(script);
    let seen: Arc<Mutex<Vec<_>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let progress = move |update: &BenchUpdate<'_>| {
        assert_eq!(update.model, "actor");
        heard.lock().unwrap().push((update.stage, update.done, update.total));
    };
    let bench = bench().with_memory(Arc::new(Takes(700))).with_progress(Arc::new(progress)).with_runs(2);
    let measured = bench.run(&model).await.unwrap();

    let near = |found: Option<f64>, wanted: f64| found.is_some_and(|found| (found / wanted - 1.0).abs() < 0.02);
    let requests = model.requests();
    let timed: Vec<_> = requests.iter().filter(|request| request.messages[0].content.starts_with("Report ")).collect();
    assert_eq!((timed.len(), timed[0].max_tokens), (2, Some(128)));
    let words = timed[0].messages[0].content.split_whitespace().count() as f64;
    assert!(near(measured.prompt_tokens_per_s, words / 2.01), "{measured:?}");
    assert!(near(measured.generation_tokens_per_s, 127.0 / 1.28), "{measured:?}");
    assert!(near(measured.first_token_ms, 2_010.0), "{measured:?}");
    assert_eq!((measured.memory_bytes, measured.json), (Some(700), Marks::new(8, 8)));
    let marks = Tier::ALL.map(|tier| measured.marks(tier));
    assert_eq!(marks, [Marks::new(1, 5), Marks::new(1, 5), Marks::new(0, 5), Marks::new(1, 5)]);
    assert_eq!(measured.wrong.len(), 17);
    assert!(!measured.wrong.iter().any(|name| ["capital", "sheep", "growth"].contains(&name.as_str())));

    let seen = seen.lock().unwrap();
    let mut stages: Vec<_> = seen.iter().map(|(stage, ..)| *stage).collect();
    stages.dedup();
    assert_eq!(stages, [BenchStage::Loading, BenchStage::Speed, BenchStage::Json, BenchStage::Quality]);
    assert_eq!(seen.last(), Some(&(BenchStage::Quality, 20, 20)));
}

#[tokio::test(start_paused = true)]
async fn no_answer_comes_from_a_cache_or_is_thought_about() {
    let thinking = ModelCapabilities { chat: true, thinking: true, ..ModelCapabilities::NONE };
    let model = ScriptedChat::new("actor").with_capabilities(thinking).otherwise("I cannot say.");
    let measured = bench().run(&model).await.unwrap();
    let requests = model.requests();
    assert!(requests.iter().all(|request| request.caching == Caching::Off && request.think == Some(false)));
    assert!(requests.iter().all(|request| request.sampling.temperature == 0.0));
    // Without the means it has to keep to the form by itself.
    assert!(requests.iter().all(|request| request.response_format == ResponseFormat::Text));
    assert_eq!((measured.json, measured.memory_bytes), (Marks::new(0, 8), None));
}

#[tokio::test(start_paused = true)]
async fn half_a_result_is_none() {
    let away = || Error::new(ErrorKind::Unavailable, "away").with_code("model_unavailable");
    let model = ScriptedChat::new("actor")
        .when(|request| request.messages[0].content.contains("sheep"), Script::error(away))
        .otherwise(Script::by(say));
    assert_eq!(bench().run(&model).await.unwrap_err().code(), "model_unavailable");

    let embedding = ModelCapabilities { embedding: true, ..ModelCapabilities::NONE };
    let model = ScriptedChat::new("actor").with_capabilities(embedding).otherwise("x");
    assert_eq!(bench().run(&model).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(model.requests().len(), 0, "it was not asked");
}
