//! A backend of your own: a chat model without weights, behind the same trait as the real ones. Agents do not see the difference.
//! A store works the same way, with `TaskStore` or `VectorStore`; `sutazai_core::conformance` has the suite it should pass.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream;
use sutazai_core::{
    model::{
        ChatEvent, ChatModel, ChatRequest, ChatStream, Finish, Message, ModelCapabilities, ModelInfo, Role, StopReason,
        Usage,
    },
    prelude::*,
};

/// Answers as Joseph Weizenbaum's program of 1966 did, only less well.
struct Eliza {
    info: ModelInfo,
}

impl Eliza {
    fn new() -> Self {
        let capabilities = ModelCapabilities { chat: true, ..ModelCapabilities::default() };
        Self { info: ModelInfo { capabilities, ..ModelInfo::new("eliza", "rules", 1_000) } }
    }

    fn answer(said: &str) -> String {
        let said = said.trim_end_matches(['.', '!', '?']).to_lowercase();
        match said.split_once("i am ") {
            Some((_, state)) => format!("How long have you been {state}?"),
            None => "Please go on.".into(),
        }
    }
}

fn words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

#[async_trait]
impl ChatModel for Eliza {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        // Refuses what the capabilities do not promise: tools, schemas, values out of range.
        request.check(&self.info)?;
        let said = |message: &&Message| message.role == Role::User;
        let said = request.messages.iter().rfind(said).map_or("", |message| message.content.as_str());
        let answer = Self::answer(said);
        let usage = Usage { prompt_tokens: words(said), completion_tokens: words(&answer) };
        let finish = Finish { stop: StopReason::Stop, usage, prompt_ms: None, completion_ms: None };
        let events = [Ok(ChatEvent::Text(answer)), Ok(ChatEvent::Finish(finish))];
        Ok(ChatStream::new(&self.info, stream::iter(events)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let doctor = agent_fn("doctor", |context: Context, complaint: String| async move {
        Ok(context.chat(ChatRequest::ask(complaint)).await?.text)
    });
    let orchestrator = Orchestrator::builder().agent(doctor).chat_model(Arc::new(Eliza::new())).start().await?;
    for complaint in ["I am unhappy.", "My tests are flaky."] {
        let answer: String = orchestrator.submit("doctor", complaint).await?.output().await?;
        println!("> {complaint}\n{answer}");
    }
    Ok(())
}
