//! Tools that a model may call, which both formats describe alike.

use serde::Deserialize;
use serde_json::{Value, json};
use sutazai_core::model::ToolSpec;

use crate::http::{problem::Problem, strict::Object};

/// A tool of a request.
#[derive(Debug, Deserialize)]
pub(in crate::http) struct ToolBody {
    r#type: Option<String>,
    function: Option<Object<FunctionBody>>,
}

#[derive(Debug, Deserialize)]
struct FunctionBody {
    name: String,
    description: Option<String>,
    parameters: Option<Value>,
}

/// The tools of a request, where only functions are tools.
pub(in crate::http) fn tools(bodies: Vec<Object<ToolBody>>) -> Result<Vec<ToolSpec>, Problem> {
    let tool = |(index, Object(body)): (usize, Object<ToolBody>)| match (body.r#type.as_deref(), body.function) {
        (None | Some("function"), Some(Object(function))) => Ok(ToolSpec {
            name: function.name,
            description: function.description.unwrap_or_default(),
            parameters: function.parameters.unwrap_or_else(|| json!({"type": "object", "properties": {}})),
        }),
        (None | Some("function"), None) => {
            Err(Problem::field(format!("/tools/{index}/function"), "a function has a name and parameters"))
        }
        (Some(other), _) => {
            Err(Problem::field(format!("/tools/{index}/type"), format!("{other:?} is not supported; \"function\" is")))
        }
    };
    bodies.into_iter().enumerate().map(tool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bodies: Value) -> Result<Vec<ToolSpec>, String> {
        tools(serde_json::from_value(bodies).unwrap()).map_err(|problem| problem.faults()[0].path.clone())
    }

    #[test]
    fn functions_are_tools_and_nothing_else_is() {
        let add = json!({"type": "function", "function": {"name": "add", "description": "adds", "parameters": {"type": "object"}}});
        let spec = ToolSpec { name: "add".into(), description: "adds".into(), parameters: json!({"type": "object"}) };
        assert_eq!(read(json!([add])).unwrap(), [spec]);
        let bare = read(json!([{"function": {"name": "now"}}])).unwrap();
        assert_eq!((&*bare[0].description, &bare[0].parameters["type"]), ("", &json!("object")));
        assert_eq!(read(json!([add, {"type": "custom"}])).unwrap_err(), "/tools/1/type");
        assert_eq!(read(json!([{"type": "function"}])).unwrap_err(), "/tools/0/function");
    }
}
