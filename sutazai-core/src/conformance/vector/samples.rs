//! Records and conditions for the cases of filters.

use serde_json::{Value, json};

use super::record;
use crate::store::{Filter, VectorRecord};

/// Records whose payloads differ in the ways that conditions tell apart, in the order of their ids.
pub(super) fn fields() -> Vec<VectorRecord> {
    let payloads = [
        json!({}),
        json!({"kind": "text", "page": 1}),
        json!({"kind": "text", "page": 1.0}),
        json!({"kind": "text", "page": "1"}),
        json!({"kind": "code", "page": 2, "tags": ["a", "b"]}),
        json!({"kind": "code", "tags": ["b", "a"]}),
        json!({"kind": null}),
        json!({"kind": {"a": 1, "b": 2}, "done": true}),
        json!({"kind": "Text", "done": false}),
    ];
    let numbered = payloads.into_iter().enumerate();
    numbered.map(|(i, payload)| record(&format!("r{i}"), [1.0, i as f32, 0.5], payload)).collect()
}

/// Every kind of condition, alone and nested.
pub(super) fn filters() -> Vec<Filter> {
    let equals = |field: &str, value: Value| Filter::Equals(field.into(), value);
    let not = |filter: Filter| Filter::Not(Box::new(filter));
    let text = || equals("kind", json!("text"));
    vec![
        text(),
        equals("page", json!(1)),
        equals("page", json!(1.0)),
        equals("kind", json!(null)),
        equals("kind", json!({"b": 2, "a": 1})),
        equals("tags", json!(["a", "b"])),
        equals("missing", json!(null)),
        Filter::OneOf("kind".into(), vec![json!("code"), json!("Text"), json!("nothing")]),
        Filter::OneOf("kind".into(), Vec::new()),
        Filter::All(Vec::new()),
        Filter::Any(Vec::new()),
        Filter::All(vec![text(), equals("page", json!(1))]),
        Filter::Any(vec![text(), equals("done", json!(true))]),
        not(text()),
        not(Filter::All(Vec::new())),
        not(not(equals("done", json!(false)))),
        Filter::All(vec![
            Filter::Any(vec![text(), Filter::OneOf("page".into(), vec![json!(2)])]),
            not(equals("page", json!("1"))),
        ]),
    ]
}
