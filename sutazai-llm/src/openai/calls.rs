//! Tool calls, put together from their pieces.

use serde::Deserialize;
use serde_json::{Map, Value};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::{ToolCall, Usage},
};

use super::refusal::unreadable;
use crate::{json, spent};

/// Bytes in all the calls of an answer.
const LONGEST: usize = 16 << 20;
/// Calls in an answer.
const MOST: usize = 1024;

/// A piece of a call.
#[derive(Debug, Deserialize)]
pub(super) struct CallPiece {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Debug, Default, Deserialize)]
struct FunctionPiece {
    name: Option<String>,
    /// A piece of a JSON text; some servers send the whole object instead.
    arguments: Option<Value>,
}

/// The calls of an answer, as far as they have come.
#[derive(Debug, Default)]
pub(super) struct Calls {
    begun: Vec<Begun>,
    size: usize,
}

#[derive(Debug)]
struct Begun {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Calls {
    /// Adds a piece to its call. Fails if that is more than an answer may hold.
    pub(super) fn add(&mut self, piece: CallPiece) -> Result<()> {
        let FunctionPiece { name, arguments } = piece.function.unwrap_or_default();
        let arguments = match arguments {
            None => String::new(),
            Some(Value::String(part)) => part,
            Some(whole) => whole.to_string(),
        };
        let (index, id, name) = (piece.index, piece.id.unwrap_or_default(), name.unwrap_or_default());
        self.size += id.len() + name.len() + arguments.len();
        if self.size > LONGEST || self.begun.len() > MOST {
            return Err(unreadable());
        }
        let mut newest_first = self.begun.iter_mut().rev();
        match newest_first.find(|call| index.is_none() || call.index == index) {
            Some(call) if !call.is_another(index, &id, &name) => call.grow(id, name, &arguments),
            _ => self.begun.push(Begun { index, id, name, arguments }),
        }
        Ok(())
    }

    /// The complete calls, in order. Where the answer was `cut`, a call that it was cut in is left out; else one that is not whole fails with code
    /// `model_malformed`, of an answer that has used so much.
    pub(super) fn finish(mut self, cut: bool, usage: Usage) -> Result<Vec<ToolCall>> {
        self.begun.sort_by_key(|call| call.index);
        let mut calls = Vec::with_capacity(self.begun.len());
        for (position, Begun { id, name, arguments, .. }) in self.begun.into_iter().enumerate() {
            let arguments = match arguments.trim() {
                // A tool without parameters is often called with nothing at all.
                "" if !cut => Ok(Map::new()),
                text => json::read(text).and_then(|(_, value)| serde_json::from_value::<Map<String, Value>>(value)),
            };
            match arguments {
                Ok(arguments) if !name.is_empty() => {
                    let id = if id.is_empty() { format!("call_{position}") } else { id };
                    calls.push(ToolCall { id, name, arguments: Value::Object(arguments) });
                }
                _ if cut => {}
                Ok(_) => {
                    let error = malformed("the model made a tool call that cannot be read");
                    return Err(spent::because(error, "it names no tool", usage));
                }
                Err(error) => {
                    let malformed = malformed("the model called a tool with arguments that are no JSON object");
                    return Err(spent::because(malformed, error, usage));
                }
            }
        }
        Ok(calls)
    }
}

impl Begun {
    /// Whether a piece begins another call although its number is this one's. Some servers send no numbers, and others the same for every call: then a
    /// name begins a call. An id alone does not: with some servers each piece has a new one.
    fn is_another(&self, index: Option<u64>, id: &str, name: &str) -> bool {
        let other_id = !id.is_empty() && !self.id.is_empty() && id != self.id;
        !name.is_empty() && (other_id || (index.is_none() && id.is_empty()))
    }

    fn grow(&mut self, id: String, name: String, arguments: &str) {
        if self.id.is_empty() {
            self.id = id;
        }
        if self.name.is_empty() {
            self.name = name;
        }
        self.arguments.push_str(arguments);
    }
}

fn malformed(message: &'static str) -> Error {
    Error::new(ErrorKind::Failed, message).with_code("model_malformed")
}
