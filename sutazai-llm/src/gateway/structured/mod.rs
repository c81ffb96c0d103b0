//! Structured output and tool calls: what a model answers is checked, mended by the model itself where that helps, and only then given on.

mod answer;
mod calls;
mod exchange;
mod form;
mod loops;
mod mistake;
mod passing;
mod rules;
mod schema;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::StreamExt;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatEvent, ChatModel, ChatRequest, ChatStream, ModelCapabilities, ModelInfo, ResponseFormat},
};

use self::exchange::Exchange;
use super::observer::GatewayObserver;

/// How answers are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructuredConfig {
    /// How often a model is asked to mend an answer at most; with 0 a wrong answer is an error at once. Default 2.
    pub repairs: u32,
    /// How often the same calls may have had the same results before they are stopped; with 0 they never are. Default 3.
    pub loop_after: usize,
    /// Backends whose grammar cannot but keep to a schema. Default `local` and `llama-cpp`, the models in this process; what servers do with a schema
    /// depends on their version, the model and whether it thinks.
    pub enforcing: Vec<String>,
}

impl Default for StructuredConfig {
    fn default() -> Self {
        Self { repairs: 2, loop_after: 3, enforcing: ["local", "llama-cpp"].map(String::from).into() }
    }
}

/// A model whose answers have the form that was asked for, and whose tool calls can be made.
///
/// It stands inside the caches, which so keep nothing but what is right, and outside of everything else: each round of repair is a call like any other,
/// with its turn, its retries, its budget, and a fallback if there has to be one. Requests that ask for no form and offer no tools pass it untouched.
///
/// **Form.** A request for JSON or for a schema is passed on to a model that declares schemas. Any other model is asked in words, in a system message, so that
/// this one always declares them, and so is one whose backend cannot bind an answer to that schema, and one that is offered tools as well: what is bound
/// from its first token on cannot call any. What the model thinks is given on as it comes; its text is read and validated as a whole before anything of it is
/// given on, as one piece. Text that is all but JSON is mended by rules that guess nothing:
///
/// * a byte order mark, white space and a Markdown fence around all of it are left out;
/// * a comma behind a last element or field is left out;
/// * a control character that stands in a string as it is, is escaped.
///
/// With any other fault the model is asked again: the conversation, its answer, and the question once more with each fault, its place, what was found and
/// what is allowed. What an answer that the backend itself bound to the schema has to say (see [`enforcing`](StructuredConfig::enforcing)) is given on as it
/// comes and validated at the end; a fault is then an error there, since nothing can be mended any more. An answer that was cut, by `max_tokens` or the
/// context, may be the beginning of one; its end says so. If it is none, it is not asked for again: the same limit would cut it again.
///
/// **Tool calls.** The text before them is given on as it comes; they are, together, when each of them is right: its tool is one that the request offers, its
/// arguments are a JSON object that fits the tool's schema. Arguments written as a text are read by the same rules, a string where another type or value
/// is needed is read as JSON if that fits, none at all are `{}`, and an id that is missing or given twice is replaced. With any other fault none of the calls
/// is given on, and the model is asked to make them again, with the fault as each one's result. A text that comes in place of calls which were wrong follows
/// what was said before in a paragraph of its own. An answer that makes calls need not have the form.
///
/// Without tools there are no calls: one that a backend makes all the same ends the answer.
///
/// **Loops.** If the conversation ends with [`loop_after`](StructuredConfig::loop_after) rounds of the same calls with the same results, or with as many turns
/// of up to four rounds, and the model makes the same calls again, they are not given on.
///
/// The usage of an answer is that of all its rounds, as far as it is known. What it thought is what it thought in the first round and in the last. What
/// serves it is what served the first round.
///
/// Errors: kind `Invalid`, code `schema_unsupported` for a schema that nothing can be checked against, before the model is asked; kind `Failed`, code
/// `answer_invalid` with the faults for an answer that is still wrong after the last repair, or when there is none since the answer was cut, the context has
/// no room for it or the backend refuses it; the same for one of more than 16 MiB; kind `Failed`, code `tool_loop`, for calls that are stopped. None of them
/// quotes what the model wrote, beyond the name of a tool that does not exist; a backend's own words are passed on. What is wrong with an answer is told in
/// it, in place of its end, and not by the call that began it.
pub struct Structured {
    inner: Arc<dyn ChatModel>,
    /// What it says of itself, where that is more than the model does.
    info: Option<ModelInfo>,
    config: StructuredConfig,
    observer: Arc<dyn GatewayObserver>,
}

impl Structured {
    /// The answers of `inner`, checked. The observer is told of every round of repair and of every loop.
    #[must_use]
    pub fn new(inner: Arc<dyn ChatModel>, config: StructuredConfig, observer: Arc<dyn GatewayObserver>) -> Self {
        let can = inner.info().capabilities;
        let info = (can.chat && !can.schema)
            .then(|| ModelInfo { capabilities: ModelCapabilities { schema: true, ..can }, ..inner.info().clone() });
        Self { inner, info, config, observer }
    }
}

#[async_trait]
impl ChatModel for Structured {
    fn info(&self) -> &ModelInfo {
        self.info.as_ref().unwrap_or_else(|| self.inner.info())
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        if request.tools.is_empty() && request.response_format == ResponseFormat::Text {
            let answer = self.inner.chat(request).await?;
            let model = Arc::clone(&self.inner);
            return Ok(answer.map_events(|events| events.map(move |event| without_calls(&*model, event))));
        }
        request.check(self.info())?;
        let (model, observer) = (Arc::clone(&self.inner), Arc::clone(&self.observer));
        Exchange::new(model, observer, self.config.clone(), request)?.begin().await
    }

    async fn load(&self) -> Result<()> {
        self.inner.load().await
    }

    async fn unload(&self) -> Result<()> {
        self.inner.unload().await
    }
}

/// Calls are of no use to who has offered no tools.
fn without_calls(model: &dyn ChatModel, event: Result<ChatEvent>) -> Result<ChatEvent> {
    match event {
        Ok(ChatEvent::ToolCall(_)) => {
            Err(Error::new(ErrorKind::Failed, "the answer calls a tool, and the request offers none")
                .with_code("answer_invalid")
                .during("chat with")
                .about(&model.info().name))
        }
        event => event,
    }
}

impl fmt::Debug for Structured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Structured")
            .field("model", &self.info().name)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
