//! Completions, OpenAI's older form: a prompt in place of a conversation.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use sutazai_core::model::{ChatEvent, ChatRequest};
use utoipa::ToSchema;

use super::{
    common::{DONE, Head, UsageOut, finish_reason, only_one, seed},
    request::{StreamOptions, include_usage},
};
use crate::http::{
    body::JsonBody,
    dialect::{Dialect, OpenAiError},
    edge::request_id,
    models::{Texts, Whole, Wire, ask_model, line, max_tokens, named, reply, sampling},
    problem::Problem,
    reply::{Reply, json},
    state::AppState,
    strict::Object,
};

/// A prompt, in OpenAI's older format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CompletionRequest, example = json!({"model": "smollm2:135m", "prompt": "Name a colour."}))]
pub(super) struct CompletionBody {
    /// A model of `/v1/models`.
    #[schema(required = true)]
    model: Option<String>,
    /// A string, alone or in an array. The model reads it as a user's message.
    #[schema(value_type = serde_json::Value, required = true)]
    prompt: Option<Texts>,
    /// 0 to 2.
    temperature: Option<f32>,
    /// 0 to 1.
    top_p: Option<f32>,
    /// The same seed gives the same answer where the model can.
    seed: Option<i64>,
    /// Tokens of answer at most.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// A string or several: the answer ends before any of them.
    #[schema(value_type = serde_json::Value, required = false)]
    stop: Option<Texts>,
    /// Send the answer as it comes.
    stream: Option<bool>,
    /// `include_usage`: a stream ends with the tokens used.
    #[schema(value_type = serde_json::Value, required = false)]
    stream_options: Option<Object<StreamOptions>>,
    /// Only 1.
    n: Option<u32>,
    /// Not supported.
    suffix: Option<String>,
    /// Not supported.
    echo: Option<bool>,
}

impl CompletionBody {
    fn into_request(self) -> Result<ChatRequest, Problem> {
        only_one(self.n)?;
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(Problem::field("/suffix", "text cannot be filled in between"));
        }
        if self.echo == Some(true) {
            return Err(Problem::field("/echo", "the prompt is not given back"));
        }
        let Ok([prompt]) = <[String; 1]>::try_from(self.prompt.unwrap_or_default().0) else {
            return Err(Problem::field("/prompt", "one prompt is needed, and not more"));
        };
        Ok(ChatRequest {
            sampling: sampling("", self.temperature, self.top_p, seed(self.seed))?,
            max_tokens: max_tokens("/max_tokens", self.max_tokens)?,
            stop: self.stop.unwrap_or_default().0,
            ..ChatRequest::ask(prompt)
        })
    }
}

/// Complete a prompt
///
/// OpenAI's older form. The model reads the prompt as a user's message: `/v1/chat/completions` says the same and more.
#[utoipa::path(
    post, path = "/v1/completions", tag = "models", operation_id = "openai_complete",
    params(
        ("Cache-Control" = Option<String>, Header, description = "`no-store`: no answer from the cache; `max-age=N`: one that is no older than N seconds, whatever the temperature"),
    ),
    request_body = CompletionBody,
    responses(
        (status = 200, description = "The answer; with `stream` its pieces as server-sent events, the last of which is `[DONE]`", content(
            (serde_json::Value = "application/json"), (String = "text/event-stream"),
        )),
        (status = 404, description = "No such model", body = OpenAiError<'static>),
    ),
)]
pub(super) async fn complete(State(state): State<AppState>, headers: HeaderMap, body: JsonBody) -> Reply {
    let Object(mut body) = body.parse::<Object<CompletionBody>>()?;
    let (stream, usage) = (body.stream.unwrap_or_default(), include_usage(body.stream_options.take()));
    let model = named(body.model.take())?;
    let begun = ask_model(&state, &model, body.into_request()?, &headers).await?;
    let wire = TextWire { head: Head::new("cmpl", &begun), include_usage: usage };
    reply(&state, begun, wire, stream, request_id(&headers)).await
}

/// Writes an answer as text.
struct TextWire {
    head: Head,
    include_usage: bool,
}

#[derive(Serialize)]
struct Choice<'a> {
    text: &'a str,
    index: u32,
    /// Always null: they are not kept.
    logprobs: (),
    finish_reason: Option<&'static str>,
}

const OBJECT: &str = "text_completion";

fn choice<'a>(text: &'a str, finish_reason: Option<&'static str>) -> Vec<Choice<'a>> {
    vec![Choice { text, index: 0, logprobs: (), finish_reason }]
}

impl Wire for TextWire {
    const DIALECT: Dialect = Dialect::OpenAi;

    fn piece(&mut self, event: ChatEvent) -> Vec<String> {
        match event {
            ChatEvent::Text(text) => vec![line(&self.head.over(OBJECT, choice(&text, None), None))],
            // There is no place for them in this form.
            ChatEvent::Thinking(_) | ChatEvent::ToolCall(_) => Vec::new(),
            ChatEvent::Finish(finish) => {
                let end = choice("", Some(finish_reason(finish.stop)));
                let mut pieces = vec![line(&self.head.over(OBJECT, end, None))];
                if self.include_usage {
                    let usage = Some(finish.usage.into());
                    pieces.push(line(&self.head.over(OBJECT, Vec::<Choice<'_>>::new(), usage)));
                }
                pieces.push(DONE.to_owned());
                pieces
            }
        }
    }

    fn whole(self, answer: Whole) -> Reply {
        let choices = choice(&answer.text, Some(finish_reason(answer.finish.stop)));
        let usage = UsageOut::from(answer.finish.usage);
        json(StatusCode::OK, &self.head.over(OBJECT, choices, Some(usage)), 512 + answer.text.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn asked(body: Value) -> Result<ChatRequest, String> {
        let body: CompletionBody = serde_json::from_value(body).unwrap();
        body.into_request().map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn a_prompt_is_a_question() {
        for prompt in [json!("Hi"), json!(["Hi"])] {
            assert_eq!(
                asked(json!({"model": "m", "prompt": prompt, "echo": false, "suffix": null})).unwrap(),
                ChatRequest::ask("Hi")
            );
        }
        for (body, path) in [
            (json!({}), "/prompt"),
            (json!({"prompt": ["a", "b"]}), "/prompt"),
            (json!({"prompt": "a", "suffix": "b"}), "/suffix"),
            (json!({"prompt": "a", "echo": true}), "/echo"),
            (json!({"prompt": "a", "n": 3}), "/n"),
            (json!({"prompt": "a", "max_tokens": 0}), "/max_tokens"),
        ] {
            assert_eq!(asked(body).unwrap_err(), path);
        }
    }
}
