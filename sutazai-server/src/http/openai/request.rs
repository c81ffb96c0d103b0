//! What `POST /v1/chat/completions` takes.

use serde::Deserialize;
use serde_json::Value;
use sutazai_core::model::{ChatRequest, ResponseFormat};
use utoipa::ToSchema;

use super::{
    common::{only_one, seed},
    messages::{MessageBody, messages},
};
use crate::http::{
    models::{Texts, ToolBody, max_tokens, named, sampling, tools},
    problem::Problem,
    strict::Object,
};

/// A conversation to go on with, in OpenAI's format. Other fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ChatCompletionRequest, example = json!({"model": "smollm2:135m", "messages": [{"role": "user", "content": "Name a colour."}]}))]
pub(super) struct ChatBody {
    /// A model of `/v1/models`, or `agent:NAME`: its task has the last message of the user as `input.text`.
    #[schema(required = true)]
    model: Option<String>,
    /// Oldest first: `role`, `content` as a string or as parts (`text`, `image_url` with a `data:` URL), `tool_calls`, `tool_call_id`.
    #[serde(default)]
    #[schema(value_type = Vec<serde_json::Value>, required = true)]
    messages: Vec<Object<MessageBody>>,
    /// 0 to 2.
    temperature: Option<f32>,
    /// 0 to 1.
    top_p: Option<f32>,
    /// The same seed gives the same answer where the model can.
    seed: Option<i64>,
    /// Tokens of answer at most.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The same by its older name.
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
    /// `text`, `json_object` or `json_schema`.
    #[schema(value_type = serde_json::Value, required = false)]
    response_format: Option<Object<FormatBody>>,
    /// Functions that the model may call.
    #[schema(value_type = Vec<serde_json::Value>, required = false)]
    tools: Option<Vec<Object<ToolBody>>>,
    /// `auto` or `none`.
    #[schema(value_type = serde_json::Value, required = false)]
    tool_choice: Option<Value>,
    /// Only 1.
    n: Option<u32>,
}

/// How a stream is wanted.
#[derive(Debug, Default, Deserialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct FormatBody {
    r#type: String,
    json_schema: Option<Object<SchemaBody>>,
}

#[derive(Debug, Deserialize)]
struct SchemaBody {
    schema: Option<Value>,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Of whom.
    pub(super) model: String,
    /// What.
    pub(super) request: ChatRequest,
    /// To be sent as it comes.
    pub(super) stream: bool,
    /// With the tokens at the end of a stream.
    pub(super) include_usage: bool,
}

impl ChatBody {
    /// The request as a model takes it.
    pub(super) fn into_asked(self) -> Result<Asked, Problem> {
        only_one(self.n)?;
        let offered = tools(self.tools.unwrap_or_default())?;
        let max_new = max_tokens("/max_completion_tokens", self.max_completion_tokens)?;
        let max_old = max_tokens("/max_tokens", self.max_tokens)?;
        let request = ChatRequest {
            messages: messages(self.messages)?,
            tools: if may_call(self.tool_choice.as_ref())? { offered } else { Vec::new() },
            response_format: self
                .response_format
                .map_or(Ok(ResponseFormat::Text), |Object(format)| format.into_format())?,
            sampling: sampling("", self.temperature, self.top_p, seed(self.seed))?,
            max_tokens: max_new.or(max_old),
            stop: self.stop.unwrap_or_default().0,
            ..ChatRequest::default()
        };
        Ok(Asked {
            model: named(self.model)?,
            request,
            stream: self.stream.unwrap_or_default(),
            include_usage: include_usage(self.stream_options),
        })
    }
}

/// Whether a stream shall end with the tokens used.
pub(super) fn include_usage(options: Option<Object<StreamOptions>>) -> bool {
    options.and_then(|Object(options)| options.include_usage).unwrap_or_default()
}

/// Whether the model may call tools. It cannot be made to.
fn may_call(choice: Option<&Value>) -> Result<bool, Problem> {
    match choice.map(|choice| choice.as_str().unwrap_or_default()) {
        None | Some("auto") => Ok(true),
        Some("none") => Ok(false),
        Some(_) => {
            Err(Problem::field("/tool_choice", "\"auto\" and \"none\" are supported; a call cannot be asked for"))
        }
    }
}

impl FormatBody {
    fn into_format(self) -> Result<ResponseFormat, Problem> {
        match &*self.r#type {
            "text" => Ok(ResponseFormat::Text),
            "json_object" => Ok(ResponseFormat::Json),
            "json_schema" => match self.json_schema.and_then(|Object(body)| body.schema) {
                Some(schema) => Ok(ResponseFormat::Schema(schema)),
                None => Err(Problem::field("/response_format/json_schema/schema", "the schema is missing")),
            },
            other => {
                let message = format!("{other:?} is not supported; text, json_object and json_schema are");
                Err(Problem::field("/response_format/type", message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sutazai_core::model::Sampling;

    use super::*;

    fn asked(more: Value) -> Result<Asked, String> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}], "unheard": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body: ChatBody = serde_json::from_value(body).unwrap();
        body.into_asked().map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn what_is_said_is_taken_over() {
        let asked = asked(json!({
            "temperature": 0, "top_p": 0.5, "seed": -1, "max_tokens": 9, "max_completion_tokens": 7, "stop": "END", "stream": true,
            "stream_options": {"include_usage": true}, "response_format": {"type": "json_object"},
            "tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "auto", "n": 1, "user": "u",
        }))
        .unwrap();
        assert!(asked.stream && asked.include_usage && asked.model == "m");
        let request = asked.request;
        assert_eq!(request.sampling, Sampling { temperature: 0.0, top_p: 0.5, seed: Some(u64::MAX) });
        assert_eq!((request.max_tokens, &*request.stop), (Some(7), &["END".to_owned()][..]));
        assert_eq!((request.response_format, request.tools.len()), (ResponseFormat::Json, 1));
    }

    #[test]
    fn what_is_left_open_or_null_is_the_houses() {
        let null =
            asked(json!({"temperature": null, "stop": null, "tools": null, "response_format": null, "stream": null}));
        for asked in [asked(json!({})).unwrap(), null.unwrap()] {
            assert_eq!(asked.request, ChatRequest::ask("Hi"));
            assert!(!asked.stream && !asked.include_usage);
        }
        let none = json!({"tools": [{"type": "function", "function": {"name": "now"}}], "tool_choice": "none"});
        assert!(asked(none).unwrap().request.tools.is_empty());
        let schema = json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}});
        assert_eq!(asked(schema).unwrap().request.response_format, ResponseFormat::Schema(json!({"type": "object"})));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, path) in [
            (json!({"messages": []}), "/messages"),
            (json!({"model": null}), "/model"),
            (json!({"temperature": -3}), "/temperature"),
            (json!({"top_p": 1.5}), "/top_p"),
            (json!({"max_tokens": 0}), "/max_tokens"),
            (json!({"max_completion_tokens": 0}), "/max_completion_tokens"),
            (json!({"n": 2}), "/n"),
            (json!({"tool_choice": "required"}), "/tool_choice"),
            (json!({"tool_choice": {"type": "function"}}), "/tool_choice"),
            (json!({"tools": [{"type": "custom"}]}), "/tools/0/type"),
            (json!({"response_format": {"type": "xml"}}), "/response_format/type"),
            (json!({"response_format": {"type": "json_schema"}}), "/response_format/json_schema/schema"),
        ] {
            assert_eq!(asked(more.clone()).err().as_deref(), Some(path), "{more}");
        }
    }
}
