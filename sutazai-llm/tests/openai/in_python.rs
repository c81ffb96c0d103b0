//! The server in Python. Many run it, and it keeps to the format in part only: what it breaks is tested here as it is.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use sutazai_core::{
    Error, ErrorKind,
    model::{ChatEvent, ChatModel, ChatModelExt, ChatRequest, ChatStream, ResponseFormat, StopReason, Usage},
};
use sutazai_llm::openai::{OpenAiChat, OpenAiEmbedding};
use sutazai_testing::LlamaCpp;

use super::{CONTEXT, Found, MODEL, Outcome, cancelled, case, client, config, conformance, greedy, misnamed};

/// What of the suite it breaks, and why.
const BROKEN: [(&str, &str); 3] = [
    ("a_stream_ends_with_one_finish", "this server sends no usage with a stream"),
    ("max_tokens_is_kept", "this server sends no usage with a stream"),
    ("a_prompt_beyond_the_context_is_refused", "this server ends the stream without a word instead"),
];

pub(super) fn trials(found: &Result<Found, String>) -> Vec<Trial> {
    let mut trials = conformance("llama_cpp_python", found, |found| Ok(plain(shared(found)?)), &BROKEN);
    trials.extend([
        case("llama_cpp_python::a_limit_cuts_and_no_usage_is_none", found, usage),
        case("llama_cpp_python::a_prompt_beyond_the_context_breaks_off", found, beyond),
        case("llama_cpp_python::a_schema_is_taken_in_one_form", found, schema),
        case("llama_cpp_python::whatever_it_is_called_its_model_answers", found, unknown),
        case("llama_cpp_python::one_is_answered_after_another", found, in_turn),
        case("llama_cpp_python::a_dropped_answer_frees_the_server", found, cancel),
        case("llama_cpp_python::an_answer_given_up_for_another_has_broken_off", found, given_up),
        case("llama_cpp_python::vectors_of_tokens_are_none_of_the_text", found, embeddings),
    ]);
    trials
}

/// The server of most tests, which answers a request to its end before the next.
fn shared(found: &Found) -> Result<&'static LlamaCpp, String> {
    static SERVER: OnceLock<Result<LlamaCpp, String>> = OnceLock::new();
    let start = || started(found, &["--interrupt_requests", "false"]);
    SERVER.get_or_init(start).as_ref().map_err(Clone::clone)
}

fn started(found: &Found, more: &[&str]) -> Result<LlamaCpp, String> {
    LlamaCpp::start_in_python(&found.program, &found.weights, MODEL, more)
}

/// Its model, asked in the form that it takes.
fn plain(server: &LlamaCpp) -> OpenAiChat {
    let mut config = config(MODEL);
    config.plain_schema = true;
    OpenAiChat::new(client(server), config)
}

/// The rest of an answer, and how it ends.
async fn rest(mut answer: ChatStream) -> (String, Option<Error>) {
    let mut text = String::new();
    while let Some(event) = answer.next().await {
        match event {
            Ok(ChatEvent::Text(piece)) => text.push_str(&piece),
            Ok(_) => {}
            Err(error) => return (text, Some(error)),
        }
    }
    (text, None)
}

async fn usage(found: Found) -> Outcome {
    let model = plain(shared(&found)?);
    let events: Vec<_> = model.chat(greedy("Tell me a long story about the sea.", 5)).await?.collect().await;
    let Some((Ok(ChatEvent::Finish(finish)), pieces)) = events.split_last() else { panic!("{events:?}") };
    assert_eq!((finish.stop, finish.usage), (StopReason::Length, Usage::default()));
    assert!((1..=5).contains(&pieces.len()), "{pieces:?}");
    Ok(())
}

async fn beyond(found: Found) -> Outcome {
    let server = shared(&found)?;
    let error = plain(server).complete(greedy(&"word ".repeat(CONTEXT + 1), 4)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, "model_unavailable"), "{error:?}");
    // It closes that connection.
    assert!(!plain(server).complete(greedy("Hi", 4)).await?.text.is_empty());
    Ok(())
}

async fn schema(found: Found) -> Outcome {
    let server = shared(&found)?;
    let schema = json!({
        "type": "object",
        "properties": {"city": {"enum": ["Bern", "Paris"]}, "capital": {"type": "boolean"}},
        "required": ["city", "capital"],
        "additionalProperties": false,
    });
    let request = ChatRequest {
        response_format: ResponseFormat::Schema(schema),
        ..greedy("Which city is the capital of France? Answer in JSON.", 64)
    };
    let answer: Value = serde_json::from_str(&plain(server).complete(request.clone()).await?.text)?;
    assert!(["Bern", "Paris"].iter().any(|city| answer["city"] == *city) && answer["capital"].is_boolean(), "{answer}");
    // The form of everybody else.
    let error = OpenAiChat::new(client(server), config(MODEL)).complete(request).await.unwrap_err();
    assert!(error.code() == "model_unavailable" && error.report().contains("json_object"), "{error:?}");
    Ok(())
}

async fn unknown(found: Found) -> Outcome {
    misnamed(shared(&found)?).await
}

async fn in_turn(found: Found) -> Outcome {
    let model = plain(shared(&found)?);
    let mut first = model.chat(greedy("Write a very long story about a ship.", 60)).await?;
    assert!(matches!(first.next().await, Some(Ok(ChatEvent::Text(_)))));
    let (second, first) = tokio::join!(async { (model.complete(greedy("Hi", 1)).await, Instant::now()) }, async {
        (rest(first).await, Instant::now())
    });
    assert!(!second.0?.text.is_empty());
    let ((text, end), ended) = first;
    assert!(end.is_none() && text.len() > 100, "{end:?} after {text}");
    // What was sent before it may be read after it.
    assert!(second.1 + Duration::from_millis(200) > ended, "the second did not wait for the first");
    Ok(())
}

async fn cancel(found: Found) -> Outcome {
    cancelled(&plain(shared(&found)?)).await
}

/// As it is started by default, whatever is asked ends the answer under way, which then says that it is whole: without a reason, it is not.
async fn given_up(found: Found) -> Outcome {
    let server = started(&found, &[])?;
    let model = plain(&server);
    for listed in [false, true] {
        let mut answer = model.chat(greedy("Write a very long story about a ship.", 800)).await?;
        assert!(matches!(answer.next().await, Some(Ok(ChatEvent::Text(_)))));
        if listed {
            model.ready().await?;
        } else {
            model.complete(greedy("Hi", 1)).await?;
        }
        let (text, end) = rest(answer).await;
        let end = end.ok_or_else(|| Failed::from(format!("the answer is whole: {text}")))?;
        assert!(end.is_temporary() && end.report().contains("broke off"), "{end:?}");
    }
    Ok(())
}

async fn embeddings(found: Found) -> Outcome {
    let error = OpenAiEmbedding::connect(client(shared(&found)?), MODEL).await.unwrap_err();
    assert!(error.code() == "model_unavailable" && error.report().contains("embedding=True"), "{error:?}");
    let server = started(&found, &["--embedding", "true"])?;
    let error = OpenAiEmbedding::connect(client(&server), MODEL).await.unwrap_err();
    assert!(error.code() == "model_unavailable" && error.report().contains("cannot be read"), "{error:?}");
    Ok(())
}
