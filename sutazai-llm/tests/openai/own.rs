//! llama.cpp's own server.

use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use sutazai_core::{
    ErrorKind,
    conformance::embedding,
    model::{
        ChatEvent, ChatModel, ChatModelExt, ChatRequest, EmbeddingModel, EmbeddingModelExt, Message, ResponseFormat,
        Role, StopReason, ToolCall, ToolSpec,
    },
};
use sutazai_llm::openai::{OpenAiChat, OpenAiEmbedding};
use sutazai_testing::LlamaCpp;

use super::{CONTEXT, Found, MODEL, Outcome, cancelled, case, client, config, conformance, greedy, misnamed};

pub(super) fn trials(found: &Result<Found, String>) -> Vec<Trial> {
    let mut trials = conformance("llama_cpp", found, |found| Ok(model(chatting(found)?)), &[]);
    for (name, test) in embedding::cases() {
        trials.push(case(&format!("llama_cpp::conformance::embedding::{name}"), found, move |found| async move {
            let model = OpenAiEmbedding::connect(client(embedding(&found)?), MODEL).await?;
            Ok(test(Arc::new(model)).await.map_err(|error| error.report())?)
        }));
    }
    trials.extend([
        case("llama_cpp::an_answer_comes_in_pieces_with_its_usage", found, usage),
        case("llama_cpp::an_answer_is_bound_to_its_schema", found, schema),
        case("llama_cpp::a_schema_that_is_none_is_refused", found, nonsense),
        case("llama_cpp::a_dropped_answer_frees_the_server", found, cancel),
        case("llama_cpp::tools_and_their_results_are_taken", found, tools),
        case("llama_cpp::whatever_it_is_called_its_model_answers", found, unknown),
        case("llama_cpp::texts_are_embedded_where_it_was_started_for_that", found, embeddings),
    ]);
    trials
}

/// The server of most tests, which does not embed.
fn chatting(found: &Found) -> Result<&'static LlamaCpp, String> {
    static SERVER: OnceLock<Result<LlamaCpp, String>> = OnceLock::new();
    shared(&SERVER, found, &[])
}

/// A server that embeds.
fn embedding(found: &Found) -> Result<&'static LlamaCpp, String> {
    static SERVER: OnceLock<Result<LlamaCpp, String>> = OnceLock::new();
    shared(&SERVER, found, &["--embeddings", "--pooling", "mean"])
}

fn shared(
    server: &'static OnceLock<Result<LlamaCpp, String>>,
    found: &Found,
    more: &[&str],
) -> Result<&'static LlamaCpp, String> {
    let start = || LlamaCpp::start(&found.program, &found.weights, MODEL, more);
    server.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn model(server: &LlamaCpp) -> OpenAiChat {
    let mut config = config(MODEL);
    config.capabilities.tools = true;
    OpenAiChat::new(client(server), config)
}

async fn usage(found: Found) -> Outcome {
    let model = model(chatting(&found)?);
    let events: Vec<_> = model.chat(greedy("Tell me a story.", 24)).await?.collect().await;
    let Some((Ok(ChatEvent::Finish(short)), pieces)) = events.split_last() else { panic!("{events:?}") };
    assert_eq!((short.stop, short.usage.completion_tokens), (StopReason::Length, 24));
    assert!(short.prompt_ms.is_some() && short.completion_ms.is_some(), "{short:?}");
    assert!((12..=24).contains(&pieces.len()), "{pieces:?}");
    let longer = model.complete(greedy("Tell me a story about the sea and a ship.", 5)).await?.finish;
    assert!(longer.usage.prompt_tokens > short.usage.prompt_tokens, "{longer:?}, {short:?}");
    assert_eq!(longer.usage.completion_tokens, 5);
    Ok(())
}

async fn schema(found: Found) -> Outcome {
    let schema = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Paris"]}, "capital": {"type": "boolean"}},
        "required": ["city", "capital"],
    });
    let request = ChatRequest {
        response_format: ResponseFormat::Schema(schema),
        ..greedy("Which city is the capital of France? Answer in JSON.", 64)
    };
    let server = chatting(&found)?;
    let mut plain = config(MODEL);
    plain.plain_schema = true;
    // It takes both forms.
    for model in [model(server), OpenAiChat::new(client(server), plain)] {
        let reply = model.complete(request.clone()).await?;
        let answer: Value = serde_json::from_str(&reply.text)?;
        assert!(["Bern", "Paris"].iter().any(|city| answer["city"] == *city), "{answer}");
        assert!(answer["capital"].is_boolean() && reply.finish.stop == StopReason::Stop, "{answer}");
    }
    Ok(())
}

async fn nonsense(found: Found) -> Outcome {
    let response_format = ResponseFormat::Schema(json!({"type": "nonsense"}));
    let request = ChatRequest { response_format, ..greedy("Hi", 4) };
    let error = model(chatting(&found)?).complete(request).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.report().contains("nonsense"), "{error:?}");
    Ok(())
}

async fn cancel(found: Found) -> Outcome {
    cancelled(&model(chatting(&found)?)).await
}

/// So small a model calls none.
async fn tools(found: Found) -> Outcome {
    let parameters = json!({"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]});
    let look = ToolSpec { name: "look".into(), description: "Looks at something.".into(), parameters };
    let call = ToolCall { id: "c1".into(), name: "look".into(), arguments: json!({"at": "sky"}) };
    let messages = vec![
        Message::user("How is the sky?"),
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
        Message { tool_call_id: Some("c1".into()), ..Message::new(Role::Tool, "blue") },
    ];
    for messages in [messages[..1].to_vec(), messages] {
        let request = ChatRequest { tools: vec![look.clone()], messages, ..greedy("", 24) };
        let reply = model(chatting(&found)?).complete(request).await?;
        assert!(reply.tool_calls.iter().all(|call| call.name == "look"), "{reply:?}");
        assert!(!reply.text.is_empty() || !reply.tool_calls.is_empty(), "{reply:?}");
    }
    Ok(())
}

async fn unknown(found: Found) -> Outcome {
    misnamed(chatting(&found)?).await
}

async fn embeddings(found: Found) -> Outcome {
    let error = OpenAiEmbedding::connect(client(chatting(&found)?), MODEL).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.report().contains("--embeddings"), "{error:?}");
    let server = embedding(&found)?;
    let model = OpenAiEmbedding::connect(client(server), MODEL).await?;
    assert_eq!((model.info().dimension, model.info().context_length), (576, 512));
    let texts: Vec<_> = (0..70).map(|number| format!("The number {number}.")).collect();
    let embedded = model.embed(&texts).await?;
    assert!(embedded.vectors.len() == 70 && embedded.tokens > 70, "{}", embedded.tokens);
    assert_eq!(embedded.vectors[69].len(), model.embed_one(&texts[69]).await?.len());
    // It reads no more of a text than goes into its batch, however large its context is.
    let long = model.embed(&["word ".repeat(CONTEXT)]).await?;
    assert!(long.tokens <= 512, "{}", long.tokens);
    // The same server chats.
    assert!(!self::model(server).complete(greedy("Hi", 4)).await?.text.is_empty());
    Ok(())
}
