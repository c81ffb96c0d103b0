//! A prompt in place of a conversation.

use std::time::Instant;

use axum::{extract::State, http::HeaderMap};
use serde::Deserialize;
use serde_json::Value;
use sutazai_core::model::{ChatRequest, Message};
use utoipa::ToSchema;

use super::{
    keep::keep,
    messages::pictures,
    options::{OptionsBody, format, think},
    wire::{Form, OllamaWire},
};
use crate::http::{
    body::UntypedBody,
    dialect::OllamaError,
    edge::request_id,
    models::{ask_model, named, reply},
    problem::Problem,
    reply::Reply,
    state::AppState,
    strict::Object,
};

/// A prompt, in Ollama's format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = OllamaGenerateRequest, example = json!({"model": "smollm2:135m", "prompt": "Name a colour.", "stream": false}))]
pub(super) struct GenerateBody {
    /// A model of `/api/tags`.
    #[schema(required = true)]
    model: Option<String>,
    /// What the model reads as a user's message. An empty one loads the model.
    prompt: Option<String>,
    /// Instructions.
    system: Option<String>,
    /// Pictures in base64.
    images: Option<Vec<String>>,
    /// Send the answer as it comes; so it is unless this is false.
    stream: Option<bool>,
    /// `temperature`, `top_p`, `seed`, `num_predict` (-1: what fits), `stop`.
    #[schema(value_type = serde_json::Value, required = false)]
    options: Option<Object<OptionsBody>>,
    /// `json` or a JSON schema.
    #[schema(value_type = serde_json::Value, required = false)]
    format: Option<Value>,
    /// Whether the model thinks aloud first.
    #[schema(value_type = serde_json::Value, required = false)]
    think: Option<Value>,
    /// 0 without a prompt unloads the model; otherwise it stays.
    #[schema(value_type = serde_json::Value, required = false)]
    keep_alive: Option<Value>,
    /// Not supported: a model's prompts have the form it was trained with.
    raw: Option<bool>,
    /// Not supported, for the same reason.
    template: Option<String>,
    /// Not supported.
    suffix: Option<String>,
    /// Not supported: `/api/chat` goes on with a conversation.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    context: Option<Vec<Value>>,
}

impl GenerateBody {
    /// The request as a model takes it, if there is a question.
    fn into_request(self) -> Result<Option<ChatRequest>, Problem> {
        let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        for (path, given, message) in [
            ("/raw", self.raw == Some(true), "a model's prompts have the form it was trained with"),
            ("/template", said(&self.template), "a model's prompts have the form it was trained with"),
            ("/suffix", said(&self.suffix), "text cannot be filled in between"),
            (
                "/context",
                self.context.is_some_and(|context| !context.is_empty()),
                "POST /api/chat goes on with a conversation",
            ),
        ] {
            if given {
                return Err(Problem::field(path, message));
            }
        }
        let images = pictures("/images", self.images.unwrap_or_default())?;
        let prompt = self.prompt.unwrap_or_default();
        if prompt.is_empty() && images.is_empty() {
            return Ok(None);
        }
        let system = self.system.filter(|system| !system.is_empty()).map(Message::system);
        let question = Message { images, ..Message::user(prompt) };
        let mut request = ChatRequest::new(system.into_iter().chain([question]).collect());
        request.response_format = format(self.format)?;
        request.think = think(self.think.as_ref())?;
        self.options.unwrap_or_default().0.apply(&mut request)?;
        Ok(Some(request))
    }
}

/// Answer a prompt, as Ollama does
#[utoipa::path(
    post, path = "/api/generate", tag = "ollama", operation_id = "ollama_generate",
    params(
        ("Cache-Control" = Option<String>, Header, description = "`no-store`: no answer from the cache; `max-age=N`: one that is no older than N seconds, whatever the temperature"),
    ),
    request_body = GenerateBody,
    responses(
        (status = 200, description = "Lines that each say more, the last of which is `done` and has the figures; without `stream` one document", content(
            (String = "application/x-ndjson"), (serde_json::Value = "application/json"),
        )),
        (status = 404, description = "No such model", body = OllamaError),
    ),
)]
pub(super) async fn generate(
    State(state): State<AppState>,
    headers: HeaderMap,
    UntypedBody(body): UntypedBody,
) -> Reply {
    let began = Instant::now();
    let Object(mut body) = body.parse::<Object<GenerateBody>>()?;
    let (stream, keep_alive) = (body.stream.unwrap_or(true), body.keep_alive.take());
    let model = named(body.model.take())?;
    let Some(request) = body.into_request()? else {
        return keep(&state, Form::Generate, &model, keep_alive.as_ref(), began).await;
    };
    let begun = ask_model(&state, &model, request, &headers).await?;
    let wire = OllamaWire::new(Form::Generate, begun.model().to_owned(), began);
    reply(&state, begun, wire, stream, request_id(&headers)).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(body: Value) -> Result<Option<ChatRequest>, String> {
        let body: GenerateBody = serde_json::from_value(body).unwrap();
        body.into_request().map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn a_prompt_is_a_question() {
        let null = json!({"prompt": "Hi", "system": "", "template": "", "raw": false, "suffix": null, "context": []});
        assert_eq!(asked(null).unwrap(), Some(ChatRequest::ask("Hi")));
        let request = asked(json!({"prompt": "Hi", "system": "Be brief.", "format": "json"})).unwrap().unwrap();
        assert_eq!(request.messages, [Message::system("Be brief."), Message::user("Hi")]);
        assert_eq!(asked(json!({"prompt": "", "keep_alive": 0})).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        for (body, path) in [
            (json!({"prompt": "a", "raw": true}), "/raw"),
            (json!({"prompt": "a", "template": "{{ .Prompt }}"}), "/template"),
            (json!({"prompt": "a", "suffix": "b"}), "/suffix"),
            (json!({"prompt": "a", "context": [1, 2]}), "/context"),
            (json!({"prompt": "a", "images": ["x"]}), "/images/0"),
            (json!({"prompt": "a", "format": "xml"}), "/format"),
            (json!({"prompt": "a", "options": {"temperature": 3}}), "/options/temperature"),
        ] {
            assert_eq!(asked(body).unwrap_err(), path);
        }
    }
}
