//! How an address tells errors: as problem documents, or in the form that clients of another API expect.

use axum::{http::StatusCode, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem::Problem;

/// The form of errors at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Problem documents.
    House,
    /// `{"error": {"message", "type", "param", "code"}}`.
    OpenAi,
    /// `{"error": "message"}`.
    Ollama,
}

impl Dialect {
    /// That of the address `path`, whether anything is there or not.
    pub(super) fn of(path: &str) -> Self {
        match path.strip_prefix("/api/") {
            Some(rest) if rest == "v1" || rest.starts_with("v1/") => Self::House,
            Some(_) => Self::Ollama,
            None if path.starts_with("/v1/") => Self::OpenAi,
            None => Self::House,
        }
    }

    /// The whole answer.
    pub(super) fn respond(self, problem: &Problem, request_id: &str) -> Response {
        match self {
            Self::House => problem.respond(request_id),
            Self::OpenAi | Self::Ollama => {
                problem.respond_as(self.status(problem), "application/json", self.text(problem, request_id))
            }
        }
    }

    /// What is wrong, with every field at fault.
    fn message(self, problem: &Problem) -> String {
        let faults = problem.faults().iter().map(|fault| match self.place(&fault.path) {
            place if place.is_empty() => fault.message.clone(),
            place => format!("{place}: {}", fault.message),
        });
        // What is wrong with an answer of a model is told by the error itself.
        let faults: Vec<_> = faults.filter(|fault| !problem.detail().contains(fault.as_str())).collect();
        match &*faults {
            [] => problem.detail().to_owned(),
            faults => format!("{}: {}", problem.detail(), faults.join("; ")),
        }
    }

    /// The field of a request in this form that a JSON pointer into what was made of it means.
    fn place(self, pointer: &str) -> String {
        let beside = |of: &str| pointer.strip_prefix(of).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let schema = match self {
            Self::Ollama => "/format",
            _ => "/response_format/json_schema/schema",
        };
        match (beside("/response_format/schema"), beside("/input/text")) {
            (Some(rest), _) => dotted(&format!("{schema}{rest}")),
            // An agent's task has the text of the last message.
            (_, Some(_)) => "messages".to_owned(),
            _ => dotted(pointer),
        }
    }

    /// The status, where the model is what the request names, and nobody tells wrong from malformed.
    pub(super) fn status(self, problem: &Problem) -> StatusCode {
        match (self, problem.code(), problem.status()) {
            (Self::House, _, status) => status,
            (_, "model_not_found", _) => StatusCode::NOT_FOUND,
            (.., StatusCode::UNPROCESSABLE_ENTITY) => StatusCode::BAD_REQUEST,
            (.., status) => status,
        }
    }

    /// What is said, as one line of JSON.
    pub(super) fn text(self, problem: &Problem, request_id: &str) -> String {
        let text = match self {
            Self::House => serde_json::to_string(&problem.view(request_id)),
            Self::OpenAi => serde_json::to_string(&OpenAiError::of(problem)),
            Self::Ollama => serde_json::to_string(&OllamaError { error: self.message(problem) }),
        };
        text.unwrap_or_default()
    }
}

/// The code, where whatever is awaited is a model.
fn code(problem: &Problem) -> &'static str {
    match problem.code() {
        "timeout" => "model_timeout",
        "unavailable" => "model_unavailable",
        code => code,
    }
}

/// A JSON pointer as clients of these APIs know places: `/messages/0/role` is `messages[0].role`.
fn dotted(pointer: &str) -> String {
    let mut place = String::new();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            place.push_str(&format!("[{part}]"));
        } else {
            place.push_str(if place.is_empty() { "" } else { "." });
            place.push_str(&part);
        }
    }
    place
}

/// An error in OpenAI's form.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub(super) struct OpenAiError<'a> {
    /// What is wrong.
    error: OpenAiFault<'a>,
}

/// What is wrong, in OpenAI's form.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiFault)]
struct OpenAiFault<'a> {
    /// For people.
    message: String,
    /// The class of the error.
    #[schema(example = "invalid_request_error")]
    r#type: &'a str,
    /// The field at fault.
    #[schema(required = true)]
    param: Option<String>,
    /// Stable; programs match on it.
    #[schema(example = "model_not_found")]
    code: &'a str,
}

impl OpenAiError<'_> {
    fn of(problem: &Problem) -> Self {
        let code = code(problem);
        let r#type = match Dialect::OpenAi.status(problem).as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 if code == "budget_exceeded" => "insufficient_quota",
            429 => "rate_limit_error",
            // A task that failed is no mistake of whoever asked for it.
            424 | 500.. => "server_error",
            _ => "invalid_request_error",
        };
        let place = problem.faults().first().map(|fault| Dialect::OpenAi.place(&fault.path));
        let place = place.filter(|place| !place.is_empty());
        let param = place.or_else(|| match code {
            "model_not_found" => Some("model".to_owned()),
            "context_length_exceeded" => Some("messages".to_owned()),
            _ => None,
        });
        Self { error: OpenAiFault { message: Dialect::OpenAi.message(problem), r#type, param, code } }
    }
}

/// An error in Ollama's form.
#[derive(Serialize, ToSchema)]
#[schema(as = OllamaError)]
pub(super) struct OllamaError {
    /// For people.
    error: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sutazai_core::{Error, ErrorKind, Fault};

    use super::*;

    fn told(dialect: Dialect, problem: &Problem) -> (u16, Value) {
        let response = dialect.respond(problem, "r-1");
        (response.status().as_u16(), serde_json::from_str(&dialect.text(problem, "r-1")).unwrap())
    }

    #[test]
    fn the_address_decides_the_form() {
        for (path, dialect) in [
            ("/v1/models", Dialect::OpenAi),
            ("/v1/no/such", Dialect::OpenAi),
            ("/v1", Dialect::House),
            ("/api/chat", Dialect::Ollama),
            ("/api/v1", Dialect::House),
            ("/api/v1/tasks", Dialect::House),
            ("/api/v10", Dialect::Ollama),
            ("/agents/a/v1/jobs", Dialect::House),
            ("/health", Dialect::House),
        ] {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }

    #[test]
    fn a_wrong_field_is_named_in_each_form() {
        let problem = Problem::field("/messages/0/tool_calls/1/a~1b", "no");
        let message = "the request is wrong: messages[0].tool_calls[1].a/b: no";
        let error = json!({"message": message, "type": "invalid_request_error",
            "param": "messages[0].tool_calls[1].a/b", "code": "invalid"});
        assert_eq!(told(Dialect::OpenAi, &problem), (400, json!({"error": error})));
        assert_eq!(told(Dialect::Ollama, &problem), (400, json!({"error": message})));
        assert_eq!(told(Dialect::House, &problem).0, 422);
        let whole = Problem::from(Error::invalid("the JSON does not fit", vec![Fault::new("", "no object")]));
        let (_, told) = told(Dialect::OpenAi, &whole);
        assert_eq!(
            (&told["error"]["param"], told["error"]["message"].as_str()),
            (&Value::Null, Some("the JSON does not fit: no object"))
        );
    }

    #[test]
    fn codes_and_statuses_are_those_of_the_contract() {
        for (kind, code, status, told_code, class) in [
            (ErrorKind::NotFound, "model_not_found", 404, "model_not_found", "invalid_request_error"),
            (ErrorKind::Invalid, "context_length_exceeded", 400, "context_length_exceeded", "invalid_request_error"),
            (ErrorKind::Full, "budget_exceeded", 429, "budget_exceeded", "insufficient_quota"),
            (ErrorKind::Full, "queue_full", 429, "queue_full", "rate_limit_error"),
            (ErrorKind::Unavailable, "model_unavailable", 503, "model_unavailable", "server_error"),
            (ErrorKind::Unavailable, "unavailable", 503, "model_unavailable", "server_error"),
            (ErrorKind::Timeout, "timeout", 504, "model_timeout", "server_error"),
            (ErrorKind::Unsupported, "unsupported", 400, "unsupported", "invalid_request_error"),
            (ErrorKind::Failed, "task_failed", 424, "task_failed", "server_error"),
            (ErrorKind::Internal, "model_failed", 500, "internal", "server_error"),
        ] {
            let problem = Problem::from(Error::new(kind, "m").with_code(code));
            let (got, told) = told(Dialect::OpenAi, &problem);
            let error = &told["error"];
            assert_eq!((got, &error["code"], &error["type"]), (status, &json!(told_code), &json!(class)), "{code}");
            let comes_back = Dialect::Ollama.respond(&problem, "").headers().contains_key("retry-after");
            assert_eq!(comes_back, matches!(status, 429 | 503), "{code}");
        }
    }
}
