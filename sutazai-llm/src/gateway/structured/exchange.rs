//! One request and its answer, in as many rounds as that takes.

use std::sync::Arc;

use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ChatModel, ChatRequest, ChatStream, Finish, Served, StopReason, ToolCall},
};

use super::{
    StructuredConfig,
    answer::{Answer, Checked, End, sum},
    calls::{Tools, name_apart},
    form::{Form, Reading, in_words},
    loops::{self, Loop},
    mistake::Mistake,
    passing,
    schema::Flaw,
};
use crate::gateway::observer::GatewayObserver;

/// A request whose answer is checked.
pub(super) struct Exchange {
    model: Arc<dyn ChatModel>,
    observer: Arc<dyn GatewayObserver>,
    config: StructuredConfig,
    /// As the model is asked.
    request: ChatRequest,
    form: Option<Form>,
    tools: Tools,
    /// Whether the backend is told of the form, and not the model.
    bound: bool,
    /// Whether the text of the answer is with the caller before it is checked.
    passes_on: bool,
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
        let bound = model.info().capabilities.schema;
        let request = if bound { request } else { in_words(request) };
        Ok(Self { model, observer, config, request, form, tools, bound, passes_on: false })
    }

    /// The answer: as it comes where that can be, else when it is right.
    pub(super) async fn begin(mut self) -> Result<ChatStream> {
        let begun = self.model.chat(self.request.clone()).await;
        match begun {
            Ok(answer) if self.may_pass_on(answer.served()) => {
                self.passes_on = true;
                Ok(passing::passed_on(self, answer))
            }
            begun => {
                let answer = Answer::read(begun, self.model.info()).await?;
                Ok(self.settle(answer).await?.into_stream())
            }
        }
    }

    /// Whether the text of an answer that is served so need not be held back: it has no form, or its backend cannot but keep to it.
    fn may_pass_on(&self, served: &Served) -> bool {
        let enforced = self.bound && self.tools.is_empty() && self.config.enforcing.contains(&served.backend);
        self.form.is_none() || enforced
    }

    /// The answer as it may be given on, after as many rounds of repair as it takes and there may be.
    pub(super) async fn settle(&self, mut answer: Answer) -> Result<Checked> {
        let (mut repairs, mut spent) = (0, None);
        loop {
            name_apart(&mut answer.calls, &self.request.messages);
            let mistake = match self.judge(&answer) {
                Ok(Judged { text, calls, finish }) => {
                    let Answer { served, thinking, .. } = answer;
                    return Ok(Checked { served, thinking, text, calls, finish: sum(spent, finish), repairs });
                }
                Err(Mistake::Loop(found)) => return Err(self.stopped(&found)),
                Err(mistake) => mistake,
            };
            // What is with the caller cannot be mended.
            if repairs >= self.config.repairs || (self.passes_on && matches!(mistake, Mistake::Form(_))) {
                return Err(self.invalid(&mistake, repairs, None));
            }
            repairs += 1;
            self.observer.repaired(&self.model.info().name, repairs);
            if let Some(End::Finish(finish)) = answer.end {
                spent = Some(sum(spent, finish));
            }
            let begun = self.model.chat(mistake.ask_again(&self.request, &answer)).await;
            answer = match Answer::read(begun, self.model.info()).await {
                Err(error) if error.code() == "context_length_exceeded" => {
                    return Err(self.invalid(&mistake, repairs - 1, Some(&error)));
                }
                read => read?,
            };
        }
    }

    /// What of the answer may be given on, or why nothing of it.
    fn judge(&self, answer: &Answer) -> std::result::Result<Judged, Mistake> {
        let finish = match &answer.end {
            Some(End::Finish(finish)) => *finish,
            // The cause may quote what it could not read.
            Some(End::Unreadable(error)) => {
                return Err(Mistake::Unreadable(Flaw::new("", error).found(error.report())));
            }
            None => return Err(Mistake::Unreadable(Flaw::new("", "the answer has no end"))),
        };
        if !answer.calls.is_empty() && self.tools.is_empty() {
            return Err(Mistake::Form(vec![Flaw::new("", "it calls tools, and there are none")]));
        }
        if !answer.calls.is_empty() {
            let calls = self.checked(&answer.calls)?;
            return Ok(Judged { text: answer.text.clone(), calls, finish });
        }
        let text = match &self.form {
            None => answer.text.clone(),
            Some(form) => {
                let reading = if self.passes_on { Reading::Strict } else { Reading::Mended };
                let cut = finish.stop == StopReason::Length;
                form.check(&answer.text, cut, reading).map_err(Mistake::Form)?.into_owned()
            }
        };
        Ok(Judged { text, calls: Vec::new(), finish })
    }

    fn checked(&self, calls: &[ToolCall]) -> std::result::Result<Vec<ToolCall>, Mistake> {
        let checked: Vec<_> = calls.iter().map(|call| self.tools.check(call)).collect();
        if checked.iter().any(std::result::Result::is_err) {
            let flaws = checked.into_iter().map(|call| call.err().unwrap_or_default());
            return Err(Mistake::Calls(flaws.collect()));
        }
        let calls: Vec<_> = checked.into_iter().flatten().collect();
        match loops::find(&self.request.messages, &calls, self.config.loop_after) {
            Some(found) => Err(Mistake::Loop(found)),
            None => Ok(calls),
        }
    }

    fn invalid(&self, mistake: &Mistake, repairs: u32, no_room: Option<&Error>) -> Error {
        let message = match repairs {
            0 => "the answer is not what was asked for".to_owned(),
            1 => "the answer is not what was asked for, nor is it after a repair".to_owned(),
            more => format!("the answer is not what was asked for, nor is it after {more} repairs"),
        };
        let faults = mistake.faults();
        let places: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        let mut reason = places.join("; ");
        if let Some(error) = no_room {
            reason.push_str("; there is no room for another repair: ");
            reason.push_str(&error.report());
        }
        Error::new(ErrorKind::Failed, message)
            .with_code("answer_invalid")
            .during("chat with")
            .about(&self.model.info().name)
            .with_faults(faults)
            .because(reason)
    }

    fn stopped(&self, Loop { tools, times }: &Loop) -> Error {
        let name = &self.model.info().name;
        self.observer.tool_loop(name);
        let tools: Vec<_> = tools.iter().map(|tool| format!("{tool:?}")).collect();
        let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
        let message = format!(
            "the model calls {} again after it did so {times} with the same arguments and the same results",
            tools.join(" and ")
        );
        Error::new(ErrorKind::Failed, message).with_code("tool_loop").during("chat with").about(name)
    }
}

/// What of an answer may be given on.
struct Judged {
    text: String,
    calls: Vec<ToolCall>,
    finish: Finish,
}
