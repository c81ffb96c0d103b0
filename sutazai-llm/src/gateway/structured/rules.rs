//! What an answer has to be, and what of it may be given on.

use sutazai_core::model::{Finish, ToolCall};

use super::{
    answer::{Answer, End},
    calls::Tools,
    form::{Form, Reading},
    mistake::Mistake,
    schema::Flaw,
};

/// What answers are checked against.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) form: Option<Form>,
    pub(super) tools: Tools,
}

/// What of an answer may be given on.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) text: String,
    pub(super) calls: Vec<ToolCall>,
    pub(super) finish: Finish,
}

impl Rules {
    /// What of the answer may be given on, or why nothing of it.
    pub(super) fn judge(&self, answer: &Answer, reading: Reading) -> Result<Judged, Mistake> {
        let calls = matches!(answer.end, Some(End::Unreadable(_))) || !answer.calls.is_empty();
        if calls && self.tools.is_empty() {
            return Err(Mistake::Form(vec![Flaw::new("", "it calls tools, and there are none")]));
        }
        let finish = match &answer.end {
            Some(End::Finish(finish)) => *finish,
            // The cause may quote what it could not read.
            Some(End::Unreadable(error)) => {
                return Err(Mistake::Unreadable(Flaw::new("", error).found(error.report())));
            }
            None => return Err(Mistake::Unreadable(Flaw::new("", "the answer has no end"))),
        };
        if calls {
            let calls = self.checked(&answer.calls)?;
            return Ok(Judged { text: answer.text.clone(), calls, finish });
        }
        let text = match &self.form {
            None => answer.text.clone(),
            Some(form) => form.check(&answer.text, answer.was_cut(), reading).map_err(Mistake::Form)?.into_owned(),
        };
        Ok(Judged { text, calls: Vec::new(), finish })
    }

    fn checked(&self, calls: &[ToolCall]) -> Result<Vec<ToolCall>, Mistake> {
        let checked: Vec<_> = calls.iter().map(|call| self.tools.check(call)).collect();
        if checked.iter().any(Result::is_err) {
            let flaws = checked.into_iter().map(|call| call.err().unwrap_or_default());
            return Err(Mistake::Calls(flaws.collect()));
        }
        Ok(checked.into_iter().flatten().collect())
    }
}
