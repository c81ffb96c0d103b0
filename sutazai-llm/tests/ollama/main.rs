//! The Ollama backend against a real server, with the weights of SmolLM2 where both are on this machine.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test without libtest, which clippy does not know for one"
)]

mod faults;
mod models;
#[path = "../smollm2/mod.rs"]
mod smollm2;

use std::{
    fs,
    path::Path,
    sync::{Arc, OnceLock},
};

use futures_util::{StreamExt, future::BoxFuture};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use smollm2::{MODEL, greedy, weights};
use sutazai_core::{
    conformance::chat,
    model::{ChatEvent, ChatModel, ChatModelExt, ChatRequest, Finish, ResponseFormat, StopReason},
};
use sutazai_llm::ollama::{GenerateRequest, OllamaChat, OllamaClient};
use sutazai_testing::{Ollama, trial};

/// A model with the same weights that the server takes for another.
const TWIN: &str = "smollm2:twin";
/// The same in every test: the server reloads a model that is asked for with another one.
const CONTEXT: usize = 1024;
/// As SmolLM2 was trained, without the system message that its own template adds.
const TEMPLATE: &str = "{{ range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}\
                        <|im_start|>assistant\n";

type Outcome = Result<(), Failed>;
type Case = fn(&'static Ollama) -> BoxFuture<'static, Outcome>;

fn main() {
    let found = Ollama::find().and_then(|_| weights());
    let mut trials: Vec<Trial> = Vec::new();
    for (name, case) in chat::cases() {
        trials.push(trial(format!("conformance::{name}"), found.clone(), move |weights| {
            block_on(async move {
                let model = model(server(&weights)?).await?;
                Ok(case(Arc::new(model)).await.map_err(|error| error.report())?)
            })
        }));
    }
    for (name, case) in [
        ("usage_is_counted", usage as Case),
        ("an_answer_is_bound_to_its_schema", schema),
        ("a_dropped_answer_frees_the_server", cancel),
        ("a_text_is_gone_on_with", generate),
        ("models_are_listed_described_and_deleted", models::list),
        ("a_missing_model_is_not_found", models::missing),
        ("models_are_loaded_and_unloaded", models::load),
        ("a_pull_from_nowhere_fails", models::pull),
        ("a_server_that_hangs_is_left_after_a_silence", faults::hung),
        ("a_model_deleted_meanwhile_is_not_found", faults::deleted),
        ("two_gateways_share_a_server", faults::shared),
    ] {
        trials.push(trial(name, found.clone(), move |weights| block_on(async move { case(server(&weights)?).await })));
    }
    trials.push(trial("a_server_killed_in_the_middle_of_an_answer_is_an_error", found, |weights| {
        block_on(faults::killed(&weights))
    }));
    // The server answers one at a time, and what is in its memory is everybody's.
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit();
}

/// The server of all tests but one, with both models.
fn server(weights: &Path) -> Result<&'static Ollama, String> {
    static READY: OnceLock<Result<&'static Ollama, String>> = OnceLock::new();
    let start = || -> Result<&'static Ollama, String> {
        let server = Ollama::shared()?;
        let gguf = read(weights)?;
        server.create_model(MODEL, &gguf, Some(TEMPLATE))?;
        server.create_model(TWIN, &Ollama::twin(&gguf), Some(TEMPLATE))?;
        Ok(server)
    };
    READY.get_or_init(start).clone()
}

fn read(weights: &Path) -> Result<Vec<u8>, String> {
    fs::read(weights).map_err(|error| format!("{}: {error}", weights.display()))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn client(server: &Ollama) -> OllamaClient {
    OllamaClient::new(&server.url()).unwrap()
}

async fn model(server: &Ollama) -> Result<OllamaChat, Failed> {
    Ok(OllamaChat::connect(client(server), MODEL, Some(CONTEXT)).await.map_err(|error| error.report())?)
}

fn usage(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let model = model(server).await?;
        let short = model.complete(greedy("Tell me a story.", 5)).await?.finish;
        assert_eq!((short.stop, short.usage.completion_tokens), (StopReason::Length, 5));
        assert!(short.prompt_ms.is_some() && short.completion_ms.is_some(), "{short:?}");
        // What the server still knows of the prompt counts as well.
        let again = model.complete(greedy("Tell me a story.", 5)).await?.finish;
        assert_eq!(short.usage, again.usage);
        let longer = model.complete(greedy("Tell me a story about the sea and a ship.", 5)).await?.finish;
        assert!(longer.usage.prompt_tokens > short.usage.prompt_tokens, "{longer:?}, {short:?}");
        Ok(())
    })
}

fn schema(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let schema = json!({
            "type": "object",
            "properties": {"city": {"enum": ["Bern", "Paris"]}, "capital": {"type": "boolean"}},
            "required": ["city", "capital"],
        });
        let request = ChatRequest {
            response_format: ResponseFormat::Schema(schema),
            ..greedy("Which city is the capital of France? Answer in JSON.", 64)
        };
        let reply = model(server).await?.complete(request).await?;
        let answer: Value = serde_json::from_str(&reply.text)?;
        assert!(["Bern", "Paris"].iter().any(|city| answer["city"] == *city), "{answer}");
        assert!(answer["capital"].is_boolean() && reply.finish.stop == StopReason::Stop, "{answer}");
        Ok(())
    })
}

fn cancel(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let model = model(server).await?;
        model.load().await?;
        smollm2::cancelled(&model).await
    })
}

fn generate(server: &'static Ollama) -> BoxFuture<'static, Outcome> {
    Box::pin(async move {
        let mut request = GenerateRequest::new(MODEL, "The capital of France is");
        request.raw = true;
        for (option, value) in [("num_ctx", json!(CONTEXT)), ("num_predict", json!(8)), ("temperature", json!(0))] {
            request.options.insert(option.into(), value);
        }
        let events: Vec<_> = client(server).generate(request).await?.collect().await;
        let text = events.iter().filter_map(|event| match event {
            Ok(ChatEvent::Text(text)) => Some(text.as_str()),
            _ => None,
        });
        assert!(!text.collect::<String>().is_empty(), "{events:?}");
        let Some(Ok(ChatEvent::Finish(Finish { stop, usage, .. }))) = events.last() else {
            return Err(format!("no finish: {events:?}").into());
        };
        assert!(*stop != StopReason::Length || usage.completion_tokens == 8, "{events:?}");
        Ok(())
    })
}
