//! A scripted model behind the check: what is mended, what is given on as it comes, and what is stopped.

mod calls;
mod form;

use std::{mem, sync::Mutex};

use futures_util::StreamExt;
use serde_json::{Value, json};
use sutazai_core::{
    Error, ErrorKind,
    memory::{Script, ScriptedChat},
    model::{CacheUse, ChatEvent, ChatModelExt, Message, Role, Sampling, StopReason, ToolCall, ToolSpec},
};

use super::*;
use crate::gateway::{
    Gateway,
    cache::MemoryAnswers,
    fake::{self, End, Plan, Planned, away},
};

/// What the check told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<String>>);

impl GatewayObserver for Told {
    fn repaired(&self, model: &str, round: u32) {
        self.0.lock().unwrap().push(format!("repaired {model} {round}"));
    }

    fn tool_loop(&self, model: &str) {
        self.0.lock().unwrap().push(format!("loop of {model}"));
    }
}

struct Stage {
    model: Arc<ScriptedChat>,
    structured: Structured,
    told: Arc<Told>,
}

impl Stage {
    async fn events(&self, request: ChatRequest) -> Vec<Result<ChatEvent>> {
        self.structured.chat(request).await.unwrap().collect().await
    }

    /// What is said and called, and whether it ends well.
    async fn told(&self, request: ChatRequest) -> (Vec<String>, bool) {
        let short = |event: Result<ChatEvent>| match event {
            Ok(ChatEvent::Text(text) | ChatEvent::Thinking(text)) => text,
            Ok(ChatEvent::ToolCall(ToolCall { id, name, arguments })) => format!("{id} {name} {arguments}"),
            Ok(ChatEvent::Finish(_)) => ".".to_owned(),
            Err(error) => error.code().to_owned(),
        };
        let mut told: Vec<_> = self.events(request).await.into_iter().map(short).collect();
        let ends_well = told.pop_if(|last| last == ".").is_some();
        (told, ends_well)
    }

    fn observed(&self) -> Vec<String> {
        mem::take(&mut self.told.0.lock().unwrap())
    }
}

fn stage_with(config: StructuredConfig, model: ScriptedChat) -> Stage {
    let (model, told) = (Arc::new(model), Arc::new(Told::default()));
    let structured = Structured::new(model.clone(), config, told.clone());
    Stage { model, structured, told }
}

fn stage(model: ScriptedChat) -> Stage {
    stage_with(StructuredConfig::default(), model)
}

/// The scripted model as one whose grammar can be relied on.
fn enforcing() -> StructuredConfig {
    StructuredConfig { enforcing: vec!["scripted".into()], ..StructuredConfig::default() }
}

fn actor() -> ScriptedChat {
    ScriptedChat::new("actor")
}

/// A model that knows nothing of schemas.
fn talker() -> ScriptedChat {
    actor().with_capabilities(ModelCapabilities { chat: true, tools: true, seed: true, ..ModelCapabilities::NONE })
}

const GREEN: &str = r#"{"colour": "green"}"#;
const BLUE: &str = r#"{"colour": "blue"}"#;

fn colour() -> ChatRequest {
    let schema =
        json!({"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"]});
    ChatRequest { response_format: ResponseFormat::Schema(schema), ..ChatRequest::ask("What colour is grass?") }
}

mod suite {
    use super::*;

    mod collected {
        use super::*;

        sutazai_core::chat_conformance!(stage(fake::actor()).structured);
    }

    mod enforced {
        use super::*;

        sutazai_core::chat_conformance!(stage_with(enforcing(), fake::actor()).structured);
    }

    mod in_words {
        use super::*;

        sutazai_core::chat_conformance!(
            stage(talker().otherwise(Script::by(|request| {
                let asked = &request.messages[0].content;
                let said = match (asked.contains("JSON schema"), asked.contains("one JSON object")) {
                    (true, _) => r#"{"colour": "green", "sure": true}"#,
                    (_, true) => r#"{"grass": "green"}"#,
                    _ => "one two three four five six seven eight nine ten and so on",
                };
                said.into()
            })))
            .structured
        );
    }
}

#[tokio::test]
async fn the_caches_keep_what_was_mended() {
    let model = Arc::new(actor().reply(BLUE).reply(GREEN));
    let gateway = Gateway::new(Arc::new(Told::default()))
        .structured(StructuredConfig::default())
        .answers(Arc::new(MemoryAnswers::default()));
    let front = gateway.front(model.clone(), Vec::new());
    for expected in [CacheUse::Miss, CacheUse::Hit] {
        let answer = front.chat(ChatRequest { sampling: Sampling::GREEDY, ..colour() }).await.unwrap();
        assert_eq!(answer.served().cache, expected);
        let events: Vec<_> = answer.map(Result::unwrap).collect().await;
        assert_eq!(events[0], ChatEvent::Text(GREEN.into()));
    }
    assert_eq!(model.requests().len(), 2);
}
