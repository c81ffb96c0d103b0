//! An agent that is asked as if it were a model: a durable task, whose output is the answer.

use axum::http::HeaderValue;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sutazai_core::{
    Error, ErrorKind, Orchestrator, Payload, Result,
    engine::Submitted,
    model::{ChatEvent, ChatRequest, ChatStream, Finish, ModelInfo, Role, StopReason, Usage},
    task::{Task, TaskId, TaskRequest, TaskState},
};

use super::{
    ask::{AGENT, Begun},
    headers::TASK_ID,
};
use crate::http::{
    problem::Problem,
    state::AppState,
    tasks::{IdempotencyKey, mark},
};

/// Fields of an output that are what the agent says.
const SAID: [&str; 2] = ["text", "answer"];

/// Submits the last message of the user to the agent called `name`. The task is stored when this returns, and goes on whatever becomes of the answer.
pub(super) async fn ask(
    state: &AppState,
    name: &str,
    request: &ChatRequest,
    key: IdempotencyKey,
) -> Result<Begun, Problem> {
    let engine = state.orchestrator();
    let agent = engine.agent(name).ok_or_else(|| {
        Problem::not_found("model_not_found", format!("there is no agent {name:?}; /api/v1/agents lists them"))
    })?;
    if !takes_text(&agent.input_schema) {
        let message = format!("{name} has no input `text`, so it cannot be asked as a model; POST /api/v1/tasks");
        return Err(Problem::field("/model", message));
    }
    let said = request.messages.iter().rev().find(|message| message.role == Role::User);
    let said = said.ok_or_else(|| Problem::field("/messages", "an agent needs a message of the user"))?;
    let mut task = TaskRequest::new(name, Payload::of(&json!({"text": said.content}))?);
    task.idempotency_key = key.0;
    let Submitted { task, replayed } = engine.submit_request(task).await?;
    let id = task.id;
    let events = stream::once(answer(engine.clone(), id)).flat_map(stream::iter);
    let mut begun = Begun::new(ChatStream::new(&ModelInfo::new(format!("{AGENT}{name}"), "agent", 0), events));
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        begun.headers.insert(TASK_ID, id);
    }
    mark(&mut begun.headers, replayed);
    Ok(begun)
}

fn takes_text(input: &Value) -> bool {
    input.pointer("/properties/text").is_some()
}

/// What the task has to say at its end. Its tokens, if it used any, are not counted here.
async fn answer(engine: Orchestrator, id: TaskId) -> Vec<Result<ChatEvent>> {
    let ended = engine.handle(id).result().await;
    match ended.and_then(|task| output(&task)) {
        Ok(text) => {
            let finish =
                Finish { stop: StopReason::Stop, usage: Usage::default(), prompt_ms: None, completion_ms: None };
            let text = (!text.is_empty()).then_some(ChatEvent::Text(text));
            text.into_iter().chain([ChatEvent::Finish(finish)]).map(Ok).collect()
        }
        Err(error) => vec![Err(error)],
    }
}

/// The output in words: what it says it is, else its JSON.
fn output(task: &Task) -> Result<String> {
    let (kind, code, message) = match (task.state, &task.output, &task.error) {
        (TaskState::Completed, Some(output), _) => return words(output),
        (TaskState::Cancelled, ..) => (ErrorKind::Cancelled, "task_cancelled", "the task was cancelled".to_owned()),
        (_, _, Some(error)) => (ErrorKind::Failed, "task_failed", format!("the task failed: {error}")),
        _ => (ErrorKind::Failed, "task_failed", "the task failed".to_owned()),
    };
    Err(Error::new(kind, message).with_code(code).during("run task").about(task.id))
}

fn words(output: &Payload) -> Result<String> {
    Ok(match output.read::<Value>()? {
        Value::String(text) => text,
        Value::Object(fields) => {
            let said = SAID.iter().find_map(|name| fields.get(*name)?.as_str());
            said.unwrap_or(output.as_str()).to_owned()
        }
        _ => output.as_str().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_speaks_for_itself() {
        let words = |json: &str| words(&Payload::from_text(json).unwrap()).unwrap();
        assert_eq!(words(r#"{"answer":"forty-two","found":true}"#), "forty-two");
        assert_eq!(words(r#"{"answer":"b","text":"a"}"#), "a");
        assert_eq!(words(r#"{"answer":42}"#), r#"{"answer":42}"#);
        assert_eq!((&*words("\"plain\""), &*words("[1]"), &*words("null")), ("plain", "[1]", "null"));
    }

    #[test]
    fn only_an_agent_that_takes_text_is_asked() {
        assert!(takes_text(&json!({"properties": {"text": {"type": "string"}}})));
        assert!(!takes_text(&json!({"properties": {"ms": {"type": "integer"}}})) && !takes_text(&json!(true)));
    }
}
