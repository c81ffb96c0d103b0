//! One request and its answer, in as many rounds as that takes.

use std::{mem, sync::Arc};

use futures_util::stream;
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatRequest, ChatStream, Served, ToolCall},
};
use tokio::runtime::Handle;

use super::{
    StructuredConfig,
    answer::{Answer, Checked, is_unreadable, sum},
    calls::{Tools, name_apart},
    form::{Form, Reading, in_words},
    loops::{self, Loop},
    mistake::Mistake,
    passing,
    rules::{Judged, Rules},
};
use crate::gateway::{first::begin, observer::GatewayObserver};

/// A request whose answer is checked.
pub(super) struct Exchange {
    model: Arc<dyn ChatModel>,
    observer: Arc<dyn GatewayObserver>,
    config: StructuredConfig,
    /// As the model is asked.
    request: ChatRequest,
    rules: Arc<Rules>,
    /// Whether the backend is told of the form, and not the model.
    bound: bool,
}

impl Exchange {
    /// Prepares what the answer is checked against; code `schema_unsupported` if it cannot be.
    pub(super) fn new(
        model: Arc<dyn ChatModel>,
        observer: Arc<dyn GatewayObserver>,
        config: StructuredConfig,
        request: ChatRequest,
    ) -> Result<Self> {
        let about = |error: Error| error.about(&model.info().name);
        let form = Form::of(&request.response_format).map_err(about)?;
        let tools = Tools::of(&request.tools).map_err(about)?;
        // What a backend binds an answer to holds from the first token on, and leaves no room for a call.
        let bound = model.info().capabilities.schema && tools.is_empty();
        let request = if bound { request } else { in_words(request) };
        Ok(Self { model, observer, config, request, rules: Arc::new(Rules { form, tools }), bound })
    }

    /// The answer: its thoughts as they come, and its text too where that can be, else when it is right.
    pub(super) async fn begin(mut self) -> Result<ChatStream> {
        let mut begun = begin(&*self.model, self.request.clone()).await;
        if self.bound && begun.as_ref().is_err_and(|error| error.code() == "schema_unsupported") {
            self.bound = false;
            self.request = in_words(mem::take(&mut self.request));
            begun = begin(&*self.model, self.request.clone()).await;
        }
        let answer = match begun {
            Err(error) if is_unreadable(&error) => ChatStream::new(self.model.info(), stream::iter([Err(error)])),
            begun => begun?,
        };
        let holds_text = !self.may_pass_on(answer.served());
        Ok(passing::passed_on(self, answer, holds_text))
    }

    /// The name of the model.
    pub(super) fn model(&self) -> &str {
        &self.model.info().name
    }

    /// Whether the text of an answer that is served so need not be held back: it has no form, or its backend cannot but keep to it.
    fn may_pass_on(&self, served: &Served) -> bool {
        self.rules.form.is_none() || (self.bound && self.config.enforcing.contains(&served.backend))
    }

    /// The answer as it may be given on, after as many rounds of repair as it takes and there may be. What it `said` is with the caller.
    pub(super) async fn settle(&self, mut answer: Answer, said: bool) -> Result<Checked> {
        let reading = if said { Reading::Strict } else { Reading::Mended };
        let (mut repairs, mut spent) = (0, None);
        loop {
            name_apart(&mut answer.calls, &self.request.messages);
            let (read, judged) = self.judged(answer, reading).await?;
            answer = read;
            let mistake = match judged {
                Ok(Judged { text, calls, finish }) => {
                    self.stop_loop(&calls)?;
                    return Ok(Checked { thinking: answer.thinking, text, calls, finish: sum(spent, finish), repairs });
                }
                Err(mistake) => mistake,
            };
            if said && self.rules.form.is_some() {
                return Err(self.invalid(&mistake, repairs, "its text is with the caller, and cannot be mended"));
            }
            // The same limit would cut it again.
            if answer.was_cut() {
                return Err(self.invalid(&mistake, repairs, "it was cut"));
            }
            if repairs >= self.config.repairs {
                return Err(self.invalid(&mistake, repairs, ""));
            }
            self.observer.repaired(self.model(), repairs + 1);
            spent = answer.spent().map(|finish| sum(spent, finish)).or(spent);
            let begun = self.model.chat(mistake.ask_again(&self.request, &answer)).await;
            answer = match Answer::read(begun, self.model.info()).await {
                // What is refused is not what the caller sent, but what was made of it here.
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    return Err(self.invalid(&mistake, repairs, &refused(&error)));
                }
                read => read?,
            };
            repairs += 1;
        }
    }

    /// The answer, and what of it may be given on. A long one is checked on a thread where that holds up nobody.
    async fn judged(&self, answer: Answer, reading: Reading) -> Result<(Answer, Result<Judged, Mistake>)> {
        let (rules, long) = (Arc::clone(&self.rules), answer.is_long());
        let judge = move || {
            let judged = rules.judge(&answer, reading);
            (answer, judged)
        };
        let (true, Ok(runtime)) = (long, Handle::try_current()) else { return Ok(judge()) };
        runtime.spawn_blocking(judge).await.map_err(|error| {
            Error::new(ErrorKind::Internal, "the answer could not be checked")
                .during("chat with")
                .about(self.model())
                .because(error)
        })
    }

    /// Fails if these calls go on with a loop.
    fn stop_loop(&self, calls: &[ToolCall]) -> Result<()> {
        match loops::find(&self.request.messages, calls, self.config.loop_after) {
            Some(found) => Err(self.stopped(&found)),
            None => Ok(()),
        }
    }

    /// The error of an answer with this mistake, after so many repairs; `why` there is no other one, if not for their number.
    fn invalid(&self, mistake: &Mistake, repairs: u32, why: &str) -> Error {
        let message = match repairs {
            0 => "the answer is not what was asked for".to_owned(),
            1 => "the answer is not what was asked for, nor is it after a repair".to_owned(),
            more => format!("the answer is not what was asked for, nor is it after {more} repairs"),
        };
        let faults = mistake.faults();
        let mut reasons: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        reasons.extend((!why.is_empty()).then(|| why.to_owned()));
        Error::new(ErrorKind::Failed, message)
            .with_code("answer_invalid")
            .during("chat with")
            .about(self.model())
            .with_faults(faults)
            .because(reasons.join("; "))
    }

    fn stopped(&self, Loop { tools, times }: &Loop) -> Error {
        self.observer.tool_loop(self.model());
        let tools: Vec<_> = tools.iter().map(|tool| format!("{tool:?}")).collect();
        let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
        let message = format!(
            "the model calls {} again after it did so {times} with the same arguments and the same results",
            tools.join(" and ")
        );
        Error::new(ErrorKind::Failed, message).with_code("tool_loop").during("chat with").about(self.model())
    }
}

/// Why there is no other repair.
fn refused(error: &Error) -> String {
    let what = match error.code() {
        "context_length_exceeded" => "there is no room for another repair",
        _ => "another repair is refused",
    };
    format!("{what}: {}", error.report())
}
