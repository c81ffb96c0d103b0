//! How long a prompt is, as well as that can be known.

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatRequest, Message, ToolCall},
};
use tokio::runtime::Handle;

use super::TokenCounter;

/// Bytes of conversation from which on a counter is not trusted to be quick.
pub(super) const LONG: usize = 64 << 10;

/// Bytes of UTF-8 to a token, cautiously: English has 4 to 5, code and other languages fewer.
const BYTES: usize = 3;
/// Tokens of a message at least: its role and the marks around it.
const MESSAGE: usize = 4;
/// Tokens of a picture; models differ widely.
const PICTURE: usize = 768;
/// Bytes to a token that no text has on the average, runs of one character aside.
const MOST_BYTES: usize = 32;

/// The tokens of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Prompt {
    /// What it has, or probably no more than it has.
    pub(in crate::gateway) likely: usize,
    /// What it has for certain.
    pub(in crate::gateway) least: usize,
    /// Whether the two are what the backend counts.
    pub(in crate::gateway) exact: bool,
}

impl Prompt {
    /// Of `request`, by the counter if there is one that can say.
    pub(in crate::gateway) fn of(request: &ChatRequest, counter: Option<&dyn TokenCounter>) -> Self {
        let counted = counter.and_then(|counter| Some((tokens(counter.count(request)?), counter.is_exact())));
        match counted {
            Some((count, true)) => Self { likely: count, least: count, exact: true },
            Some((count, false)) => Self { likely: count, least: least(request).min(count), exact: false },
            None => Self { likely: likely(request), least: least(request), exact: false },
        }
    }
}

/// What `measure` finds in a request for this model. Where something counts and the request is long, that is done on a thread where it holds up nobody.
pub(in crate::gateway) async fn measured<T: Send + 'static>(
    model: &str,
    request: ChatRequest,
    counts: bool,
    measure: impl FnOnce(&ChatRequest) -> T + Send + 'static,
) -> Result<(ChatRequest, T)> {
    let long = counts && written(&request.messages) >= LONG;
    let measure = move || {
        let found = measure(&request);
        (request, found)
    };
    let (true, Ok(runtime)) = (long, Handle::try_current()) else { return Ok(measure()) };
    runtime.spawn_blocking(measure).await.map_err(|error| {
        Error::new(ErrorKind::Internal, "the prompt could not be counted")
            .during("chat with")
            .about(model)
            .because(error)
    })
}

/// The tokens of so many bytes of an answer, cautiously.
pub(in crate::gateway) fn spoken(bytes: usize) -> usize {
    bytes.div_ceil(BYTES)
}

/// A number of tokens as one that can be compared with a context's.
pub(in crate::gateway) fn tokens(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Bytes of what is said and called in these messages.
fn written(messages: &[Message]) -> usize {
    messages.iter().map(text).sum()
}

fn text(message: &Message) -> usize {
    let called = |call: &ToolCall| call.name.len() + call.arguments.to_string().len();
    message.content.len() + message.tool_calls.iter().map(called).sum::<usize>()
}

fn likely(request: &ChatRequest) -> usize {
    let message = |message: &Message| {
        text(message).div_ceil(BYTES).max(MESSAGE).saturating_add(message.images.len().saturating_mul(PICTURE))
    };
    let tools = request
        .tools
        .iter()
        .map(|tool| (tool.name.len() + tool.description.len() + tool.parameters.to_string().len()).div_ceil(BYTES));
    request.messages.iter().map(message).chain(tools).fold(0, usize::saturating_add)
}

/// Tools are not counted: some backends show them to the model in a shorter form.
fn least(request: &ChatRequest) -> usize {
    request.messages.iter().map(|message| squeezed(&message.content)).sum::<usize>() / MOST_BYTES
}

/// Bytes of a text with each run of one character as a single one.
fn squeezed(text: &str) -> usize {
    let mut last = None;
    text.chars().filter(|c| last.replace(*c) != Some(*c)).map(char::len_utf8).sum()
}

#[cfg(test)]
mod tests {
    use sutazai_core::model::{Image, Role, ToolSpec};

    use super::*;

    /// Counts messages as a token each.
    struct Messages {
        exact: bool,
        blind: bool,
    }

    impl TokenCounter for Messages {
        fn count(&self, request: &ChatRequest) -> Option<u32> {
            (!self.blind).then(|| u32::try_from(request.messages.len()).unwrap())
        }

        fn is_exact(&self) -> bool {
            self.exact
        }
    }

    #[test]
    fn an_estimate_goes_by_bytes() {
        let likely = |request: &ChatRequest| Prompt::of(request, None).likely;
        assert_eq!(likely(&ChatRequest::default()), 0);
        assert_eq!(likely(&ChatRequest::ask("")), 4);
        assert_eq!(likely(&ChatRequest::ask("x".repeat(13))), 5);
        assert_eq!(likely(&ChatRequest::ask("ü".repeat(30))), 20);
        assert_eq!(likely(&ChatRequest::new(vec![Message::system("a"), Message::user("b")])), 8);
        let call =
            ToolCall { id: "ignored".into(), name: "look".into(), arguments: serde_json::json!({"at": "the moon"}) };
        let called = Message { tool_calls: vec![call], ..Message::new(Role::Assistant, "") };
        assert_eq!(likely(&ChatRequest::new(vec![called])), 7);
        let image = Image { media_type: "image/png".into(), data: "x".repeat(9_000) };
        let seen = Message { images: vec![image], ..Message::user("") };
        assert_eq!(likely(&ChatRequest::new(vec![seen])), 772);
        let tool = ToolSpec { name: "look".into(), description: "looks".into(), parameters: serde_json::json!({}) };
        assert_eq!(likely(&ChatRequest { tools: vec![tool], ..ChatRequest::default() }), 4);
    }

    #[test]
    fn the_least_forgives_what_vocabularies_have_tokens_for() {
        let least = |text: &str| Prompt::of(&ChatRequest::ask(text), None).least;
        assert_eq!(least(&"word ".repeat(64)), 10);
        assert_eq!(least(&" ".repeat(10_000)), 0);
        assert_eq!(least(&"-".repeat(10_000)), 0);
        assert_eq!(least(&"ab".repeat(160)), 10);
    }

    #[test]
    fn a_counter_is_believed_as_far_as_it_goes() {
        let request = ChatRequest::ask("word ".repeat(64));
        let counted = |exact, blind| Prompt::of(&request, Some(&Messages { exact, blind }));
        assert_eq!(counted(true, false), Prompt { likely: 1, least: 1, exact: true });
        assert_eq!(counted(false, false), Prompt { likely: 1, least: 1, exact: false });
        assert_eq!(counted(true, true), Prompt::of(&request, None));
        assert!(!Prompt::of(&request, None).exact);
    }
}
