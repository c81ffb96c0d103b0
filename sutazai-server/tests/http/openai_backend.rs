//! The backend for OpenAI's format before this server, over a socket: what one of them writes, the other understands.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use serde_json::json;
use sutazai_core::{
    Error, ErrorKind,
    engine::OrchestratorBuilder,
    memory::{HashedEmbedding, Script, ScriptedChat},
    model::{
        ChatEvent, ChatModel, ChatModelExt, ChatRequest, EmbeddingModel, Message, ModelCapabilities, ResponseFormat,
        Role, Sampling, StopReason, ToolCall, ToolSpec, Usage,
    },
};
use sutazai_llm::openai::{OpenAiChat, OpenAiChatConfig, OpenAiClient, OpenAiEmbedding};
use sutazai_server::http::{Options, serve};
use tokio::net::TcpListener;

use crate::{
    agents_as_models::{Endless, oracle, within},
    server::state_with,
};

/// Words of context.
const CONTEXT: usize = 512;

/// A client of a server with these models and agents, which serves as long as the test's runtime lives.
async fn served(change: impl FnOnce(OrchestratorBuilder) -> OrchestratorBuilder) -> OpenAiClient {
    let state = state_with(Options::default(), change).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = OpenAiClient::new(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap();
    tokio::spawn(serve(listener, state, std::future::pending()));
    client
}

/// The same with one chat model.
async fn speaking(model: &Arc<ScriptedChat>) -> OpenAiClient {
    let model = Arc::clone(model);
    served(|builder| builder.chat_model(model)).await
}

/// The model of this name, which can do whatever the format has a word for.
fn chat(client: &OpenAiClient, name: &str) -> OpenAiChat {
    let mut config = OpenAiChatConfig::new(name, CONTEXT);
    config.capabilities =
        ModelCapabilities { chat: true, tools: true, schema: true, seed: true, ..ModelCapabilities::NONE };
    OpenAiChat::new(client.clone(), config)
}

async fn conforming() -> OpenAiChat {
    let script = Script::by(|request| {
        match &request.response_format {
            ResponseFormat::Text => "one two three four five six seven eight nine ten and so on",
            ResponseFormat::Json => r#"{"grass": "green"}"#,
            ResponseFormat::Schema(_) => r#"{"colour": "green", "sure": true}"#,
        }
        .to_owned()
    });
    // Slow enough that an answer which goes on for nobody shows.
    let script = script.pausing(Duration::from_millis(10));
    let model = ScriptedChat::new("actor").otherwise(script).with_context_length(CONTEXT);
    chat(&speaking(&Arc::new(model)).await, "actor")
}

sutazai_core::chat_conformance!(conforming().await);

async fn embedding() -> OpenAiEmbedding {
    let client = served(|builder| builder.embedding_model(Arc::new(HashedEmbedding::default()))).await;
    OpenAiEmbedding::connect(client, "hashed").await.unwrap().context_length(8_192)
}

sutazai_core::embedding_conformance!(embedding().await);

#[tokio::test]
async fn a_request_arrives_as_it_was_asked() {
    let model = Arc::new(ScriptedChat::new("actor").otherwise("yes"));
    let client = speaking(&model).await;
    let call = ToolCall { id: "c1".into(), name: "look".into(), arguments: json!({"at": "sky"}) };
    let messages = vec![
        Message::system("You act."),
        Message::user("Your line?"),
        Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") },
        Message { tool_call_id: Some("c1".into()), ..Message::new(Role::Tool, "blue") },
        Message::user("Grüße 🦀"),
    ];
    let request = ChatRequest {
        tools: vec![look()],
        response_format: ResponseFormat::Schema(json!({"type": "object"})),
        sampling: Sampling { temperature: 0.3, top_p: 0.9, seed: Some(7) },
        max_tokens: Some(5),
        stop: vec!["END".into(), "\n\n".into()],
        ..ChatRequest::new(messages)
    };
    let reply = chat(&client, "actor").complete(request.clone()).await.unwrap();
    assert_eq!((&*reply.text, reply.finish.stop), ("yes", StopReason::Stop));
    assert_eq!(model.requests(), [ChatRequest { model: Some("actor".into()), ..request }]);
}

#[tokio::test]
async fn an_answer_comes_in_pieces_with_its_usage() {
    let client = speaking(&Arc::new(ScriptedChat::new("actor").otherwise("To be, or not to be."))).await;
    let model = chat(&client, "actor");
    for (max_tokens, said, stop) in
        [(None, "To be, or not to be.", StopReason::Stop), (Some(2), "To be, ", StopReason::Length)]
    {
        let request = ChatRequest { max_tokens, ..ChatRequest::ask("Your line?") };
        let events: Vec<_> = model.chat(request).await.unwrap().map(Result::unwrap).collect().await;
        let Some((ChatEvent::Finish(finish), pieces)) = events.split_last() else { panic!("{events:?}") };
        let words: Vec<_> = said.split_inclusive(' ').map(|word| ChatEvent::Text(word.into())).collect();
        assert_eq!(pieces, words);
        let usage = Usage { prompt_tokens: 2, completion_tokens: u32::try_from(words.len()).unwrap() };
        assert_eq!((finish.stop, finish.usage), (stop, usage));
    }
}

/// A tool that looks.
fn look() -> ToolSpec {
    ToolSpec { name: "look".into(), description: "Looks.".into(), parameters: json!({"type": "object"}) }
}

#[tokio::test]
async fn tools_are_called_where_the_model_can_and_refused_where_not() {
    let call = |id: &str| ToolCall { id: id.into(), name: "look".into(), arguments: json!({"at": ["sky", 7]}) };
    let script = Script::text("One moment.").calling(call("a")).calling(call("b"));
    let only_chat = ModelCapabilities { chat: true, ..ModelCapabilities::NONE };
    let mute = Arc::new(ScriptedChat::new("mute").otherwise("yes").with_capabilities(only_chat));
    let behind = Arc::clone(&mute);
    let actor = Arc::new(ScriptedChat::new("actor").otherwise(script));
    let client = served(|builder| builder.chat_model(actor).chat_model(behind)).await;
    let request = || ChatRequest { tools: vec![look()], ..ChatRequest::ask("How is the sky?") };

    let reply = chat(&client, "actor").complete(request()).await.unwrap();
    assert_eq!((&*reply.text, reply.finish.stop), ("One moment.", StopReason::ToolCalls));
    assert_eq!(reply.tool_calls, [call("a"), call("b")]);

    // The client was told of tools that the model does not have.
    let error = chat(&client, "mute").complete(request()).await.unwrap_err();
    assert!(!error.is_temporary() && error.report().contains("does not call tools"), "{error:?}");
    assert_eq!(mute.requests().len(), 1);
    let told = OpenAiChat::new(client.clone(), OpenAiChatConfig::new("mute", CONTEXT));
    assert_eq!(told.complete(request()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(mute.requests().len(), 1, "what is not declared is not sent");
}

#[tokio::test]
async fn models_and_agents_are_listed_and_found() {
    let client = served(|builder| {
        builder
            .chat_model(Arc::new(ScriptedChat::new("actor").otherwise("yes")))
            .embedding_model(Arc::new(HashedEmbedding::default()))
            .agent(oracle())
    })
    .await;
    let listed = client.models().await.unwrap();
    for name in ["actor", "hashed", "agent:test.oracle"] {
        assert!(listed.iter().any(|id| id == name), "{name} is not in {listed:?}");
        chat(&client, name).ready().await.unwrap();
    }
    let nobody = chat(&client, "nobody");
    for error in [
        nobody.ready().await.unwrap_err(),
        nobody.complete(ChatRequest::ask("Hi")).await.unwrap_err(),
        chat(&client, "agent:nobody").complete(ChatRequest::ask("Hi")).await.unwrap_err(),
        chat(&client, "hashed").complete(ChatRequest::ask("Hi")).await.unwrap_err(),
        OpenAiEmbedding::connect(client.clone(), "nobody").await.unwrap_err(),
        OpenAiEmbedding::connect(client.clone(), "actor").await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, "model_not_found"), "{error:?}");
    }
    let hashed = OpenAiEmbedding::connect(client, "hashed").await.unwrap();
    assert_eq!(hashed.info().dimension, 384);
    hashed.ready().await.unwrap();
}

#[tokio::test]
async fn an_agent_is_a_model() {
    let agent = chat(&served(|builder| builder.agent(oracle())).await, "agent:test.oracle");
    let messages = vec![Message::user("Before?"), Message::new(Role::Assistant, "Before."), Message::user("Shall I?")];
    let reply = agent.complete(ChatRequest::new(messages)).await.unwrap();
    assert_eq!((&*reply.text, reply.finish.stop), ("Shall I? Yes.", StopReason::Stop));
    assert_eq!(reply.finish.usage, Usage::default(), "an agent's tokens are not counted here");

    // Asked again, an agent would begin another task: its failure is not temporary.
    let error = agent.complete(ChatRequest::ask("Why?")).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Failed, "task_failed"), "{error:?}");
    assert!(error.report().contains("no_idea: nobody knows"), "{error:?}");
}

#[tokio::test]
async fn errors_mean_the_same_to_the_client() {
    const WAIT: Duration = Duration::from_secs(7);
    let refusal = |kind: ErrorKind, code: &'static str| {
        Script::error(move || Error::new(kind, "the reason").with_code(code).retry_after(WAIT))
    };
    let model = ScriptedChat::new("actor")
        .reply(refusal(ErrorKind::Full, "queue_full"))
        .reply(refusal(ErrorKind::Unavailable, "model_unavailable"))
        .reply(refusal(ErrorKind::Timeout, "model_timeout"))
        .reply(refusal(ErrorKind::Full, "budget_exceeded"))
        .reply(refusal(ErrorKind::Unsupported, "unsupported"))
        .reply(refusal(ErrorKind::Internal, "model_failed"))
        .otherwise("yes")
        .with_context_length(CONTEXT);
    let model = chat(&speaking(&Arc::new(model)).await, "actor");
    for (kind, code, wait) in [
        (ErrorKind::Full, "queue_full", Some(WAIT)),
        (ErrorKind::Unavailable, "model_unavailable", Some(WAIT)),
        (ErrorKind::Timeout, "model_timeout", None),
        // There is nothing to spend soon, so it is not tried again.
        (ErrorKind::Failed, "failed", None),
        (ErrorKind::Invalid, "invalid", None),
        (ErrorKind::Unavailable, "model_unavailable", None),
    ] {
        let error = model.complete(ChatRequest::ask("Hi")).await.unwrap_err();
        assert_eq!((error.kind(), error.code(), error.delay()), (kind, code, wait), "{error:?}");
        // What is the server's own fault is in its log alone.
        let told = wait.is_some() || !error.is_temporary();
        assert!(!told || error.report().contains("the reason"), "{error:?}");
    }
    let error = model.complete(ChatRequest::ask("word ".repeat(CONTEXT))).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Invalid, "context_length_exceeded"), "{error:?}");
    assert_eq!(model.complete(ChatRequest::ask("Hi")).await.unwrap().text, "yes");
}

#[tokio::test]
async fn an_error_amid_an_answer_is_its_end() {
    let away = || Error::new(ErrorKind::Unavailable, "the line is dead").with_code("model_unavailable");
    let script = Script::text("half an ").breaking_off(away);
    let client = speaking(&Arc::new(ScriptedChat::new("actor").otherwise(script))).await;
    let mut events: Vec<_> = chat(&client, "actor").chat(ChatRequest::ask("Hi")).await.unwrap().collect().await;
    let error = events.pop().unwrap().unwrap_err();
    assert!(error.is_temporary() && error.report().contains("the line is dead"), "{error:?}");
    let said: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    assert_eq!(said, ["half ", "an "].map(|word| ChatEvent::Text(word.into())));
}

#[tokio::test]
async fn an_answer_that_is_dropped_ends_at_the_server() {
    let model = Arc::new(Endless::new());
    let (begun, gone) = (Arc::clone(&model.begun), Arc::clone(&model.gone));
    let model = chat(&served(|builder| builder.chat_model(model)).await, "actor");
    for _ in 0..2 {
        let mut answer = within(model.chat(ChatRequest::ask("Hi"))).await.unwrap();
        within(begun.notified()).await;
        for _ in 0..3 {
            assert_eq!(within(answer.next()).await.unwrap().unwrap(), ChatEvent::Text("on and ".into()));
        }
        drop(answer);
        within(gone.notified()).await;
    }
}
