//! A chat model that says what its script says, for tests.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};

use crate::{
    error::{Error, ErrorKind, Result},
    model::{
        ChatEvent, ChatModel, ChatRequest, ChatStream, Finish, ModelCapabilities, ModelInfo, StopReason, ToolCall,
        Usage,
    },
};

type Say = Arc<dyn Fn(&ChatRequest) -> String + Send + Sync>;
type Fail = Arc<dyn Fn() -> Error + Send + Sync>;
type Matches = Box<dyn Fn(&ChatRequest) -> bool + Send + Sync>;

/// What a [`ScriptedChat`] does with one request.
#[derive(Clone)]
pub struct Script {
    say: Say,
    calls: Vec<ToolCall>,
    refuse: Option<Fail>,
    break_off: Option<Fail>,
    before: Duration,
    between: Duration,
}

impl Script {
    /// Says `text`, a word at a time.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::by(move |_| text.clone())
    }

    /// Says what `say` makes of the request.
    pub fn by(say: impl Fn(&ChatRequest) -> String + Send + Sync + 'static) -> Self {
        Self {
            say: Arc::new(say),
            calls: Vec::new(),
            refuse: None,
            break_off: None,
            before: Duration::ZERO,
            between: Duration::ZERO,
        }
    }

    /// Fails before the first piece.
    pub fn error(error: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        Self { refuse: Some(Arc::new(error)), ..Self::text("") }
    }

    /// Calls a tool, after the text if there is any.
    #[must_use]
    pub fn calling(mut self, call: ToolCall) -> Self {
        self.calls.push(call);
        self
    }

    /// Ends in an error where the end of the answer would be.
    #[must_use]
    pub fn breaking_off(mut self, error: impl Fn() -> Error + Send + Sync + 'static) -> Self {
        self.break_off = Some(Arc::new(error));
        self
    }

    /// Waits before it answers or fails.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.before = delay;
        self
    }

    /// Waits before each piece.
    #[must_use]
    pub fn pausing(mut self, delay: Duration) -> Self {
        self.between = delay;
        self
    }

    fn events(&self, request: &ChatRequest, prompt_tokens: u32) -> Vec<Result<ChatEvent>> {
        let text = (self.say)(request);
        let end = request.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min();
        let mut words: Vec<&str> = text[..end.unwrap_or(text.len())].split_inclusive(char::is_whitespace).collect();
        let most = request.max_tokens.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let cut = words.len() > most;
        words.truncate(most);
        let calls: &[ToolCall] = if cut { &[] } else { &self.calls };
        let stop = match (cut, calls) {
            (true, _) => StopReason::Length,
            (false, []) => StopReason::Stop,
            (false, _) => StopReason::ToolCalls,
        };
        let usage = Usage { prompt_tokens, completion_tokens: count(words.len()) };
        let end = match &self.break_off {
            Some(error) => Err(error()),
            None => Ok(ChatEvent::Finish(Finish { stop, usage, prompt_ms: None, completion_ms: None })),
        };
        words
            .into_iter()
            .map(|word| Ok(ChatEvent::Text(word.to_owned())))
            .chain(calls.iter().cloned().map(|call| Ok(ChatEvent::ToolCall(call))))
            .chain([end])
            .collect()
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl From<&str> for Script {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Script {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

/// A chat model for tests. For each request the first matching [`when`](Self::when) decides, then the next
/// [`reply`](Self::reply) in order, then [`otherwise`](Self::otherwise); without any of them the call fails.
///
/// A token of it is a word with the white space behind it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use sutazai_core::{memory::ScriptedChat, model::{ChatModelExt, ChatRequest}};
///
/// let model = ScriptedChat::new("actor").reply("To be, or not to be.").otherwise("The rest is silence.");
/// assert_eq!(model.complete(ChatRequest::ask("Your line?")).await?.text, "To be, or not to be.");
/// assert_eq!(model.complete(ChatRequest::ask("And then?")).await?.text, "The rest is silence.");
/// assert_eq!(model.requests().len(), 2);
/// # Ok::<_, sutazai_core::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct ScriptedChat {
    info: ModelInfo,
    rules: Vec<(Matches, Script)>,
    queue: Mutex<VecDeque<Script>>,
    otherwise: Option<Script>,
    requests: Mutex<Vec<ChatRequest>>,
}

impl ScriptedChat {
    /// A model called `name` without a script yet. It declares chat, tools, schemas and seeds; what it says is the script's affair.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            info: ModelInfo {
                capabilities: ModelCapabilities {
                    chat: true,
                    tools: true,
                    schema: true,
                    seed: true,
                    ..ModelCapabilities::NONE
                },
                ..ModelInfo::new(name, "scripted", 8192)
            },
            rules: Vec::new(),
            queue: Mutex::default(),
            otherwise: None,
            requests: Mutex::default(),
        }
    }

    /// Adds a script for one request; these are used up in order.
    #[must_use]
    pub fn reply(self, script: impl Into<Script>) -> Self {
        lock(&self.queue).push_back(script.into());
        self
    }

    /// Adds a script for every request that `matches`.
    #[must_use]
    pub fn when(
        mut self,
        matches: impl Fn(&ChatRequest) -> bool + Send + Sync + 'static,
        script: impl Into<Script>,
    ) -> Self {
        self.rules.push((Box::new(matches), script.into()));
        self
    }

    /// Sets the script for requests that nothing else answers.
    #[must_use]
    pub fn otherwise(mut self, script: impl Into<Script>) -> Self {
        self.otherwise = Some(script.into());
        self
    }

    /// Sets what it declares that it can do.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: ModelCapabilities) -> Self {
        self.info.capabilities = capabilities;
        self
    }

    /// Sets the words that prompt and answer may have together.
    #[must_use]
    pub fn with_context_length(mut self, words: usize) -> Self {
        self.info.context_length = words;
        self
    }

    /// Every request so far, oldest first, the refused ones too.
    pub fn requests(&self) -> Vec<ChatRequest> {
        lock(&self.requests).clone()
    }

    fn script(&self, request: &ChatRequest) -> Result<Script> {
        let rule = self.rules.iter().find(|(matches, _)| matches(request)).map(|(_, script)| script.clone());
        rule.or_else(|| lock(&self.queue).pop_front()).or_else(|| self.otherwise.clone()).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the script is used up; add a reply").with_code("script_used_up")
        })
    }
}

#[async_trait]
impl ChatModel for ScriptedChat {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn chat(&self, request: ChatRequest) -> Result<ChatStream> {
        lock(&self.requests).push(request.clone());
        request.check(&self.info)?;
        let prompt: usize = request.messages.iter().map(|message| message.content.split_whitespace().count()).sum();
        if prompt >= self.info.context_length {
            let message = format!("the prompt has {prompt} words of at most {}", self.info.context_length);
            return Err(Error::new(ErrorKind::Invalid, message)
                .with_code("context_length_exceeded")
                .during("chat with")
                .about(&self.info.name));
        }
        let script = self.script(&request).map_err(|error| error.during("chat with").about(&self.info.name))?;
        pause(script.before).await;
        if let Some(error) = &script.refuse {
            return Err(error());
        }
        let between = script.between;
        let events = script.events(&request, count(prompt));
        let events = stream::iter(events).then(move |event| async move {
            pause(between).await;
            event
        });
        Ok(ChatStream::new(&self.info, events))
    }
}

impl fmt::Debug for ScriptedChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedChat").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Sleeps, but needs no timer for no time: scripts without delays run on any executor.
async fn pause(delay: Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

fn count(words: usize) -> u32 {
    u32::try_from(words).unwrap_or(u32::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ChatModelExt, ResponseFormat};

    crate::chat_conformance!(ScriptedChat::new("actor").otherwise(Script::by(|request| {
        match &request.response_format {
            ResponseFormat::Text => "one two three four five six seven eight nine ten and so on".into(),
            ResponseFormat::Json => r#"{"grass": "green"}"#.into(),
            ResponseFormat::Schema(_) => r#"{"colour": "green", "sure": true}"#.into(),
        }
    })));

    mod without_capabilities {
        use super::*;

        crate::chat_conformance!(
            ScriptedChat::new("actor")
                .otherwise("one two three four five six seven eight nine ten")
                .with_capabilities(ModelCapabilities { chat: true, ..ModelCapabilities::default() })
                .with_context_length(64)
        );
    }

    #[tokio::test]
    async fn rules_come_before_the_queue_and_the_queue_before_the_rest() {
        let model = ScriptedChat::new("actor")
            .when(|request| request.messages[0].content.contains("weather"), "rain")
            .reply("first")
            .reply(Script::error(|| Error::new(ErrorKind::Unavailable, "away")))
            .otherwise(Script::by(|request| request.messages[0].content.to_uppercase()));
        let ask = async |text: &str| model.complete(ChatRequest::ask(text)).await.map(|reply| reply.text);
        assert_eq!(ask("the weather?").await.unwrap(), "rain");
        assert_eq!(ask("a").await.unwrap(), "first");
        assert_eq!(ask("b").await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(ask("c").await.unwrap(), "C");
        assert_eq!(model.requests().len(), 4);
    }

    #[tokio::test]
    async fn a_used_up_script_fails_and_a_broken_one_breaks_off() {
        let model = ScriptedChat::new("actor")
            .reply(Script::text("half an ").breaking_off(|| Error::new(ErrorKind::Unavailable, "the line is dead")));
        let events: Vec<_> = model.chat(ChatRequest::ask("x")).await.unwrap().collect().await;
        assert_eq!(events.len(), 3);
        assert!(events[2].is_err());
        assert_eq!(model.complete(ChatRequest::ask("x")).await.unwrap_err().code(), "script_used_up");
    }

    #[tokio::test(start_paused = true)]
    async fn delays_are_kept() {
        let model = ScriptedChat::new("actor")
            .reply(Script::text("a b").after(Duration::from_secs(5)).pausing(Duration::from_secs(1)));
        let began = tokio::time::Instant::now();
        model.complete(ChatRequest::ask("x")).await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 8);
    }
}
