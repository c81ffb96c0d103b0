//! JSON as models write it: what is all but JSON is read by rules that cannot guess wrong.
//!
//! A text that is JSON stays as it is. In any other
//!
//! * white space and a byte order mark before it, and white space behind it, are left out;
//! * so is a Markdown fence around all of it, whose language, if it names one, is `json`, `jsonc` or `json5`;
//! * so is a comma behind the last element of an array or the last field of an object;
//! * a line break, a tab or another control character that stands in a string as it is, is written there as JSON has it, with a backslash.
//!
//! Nothing else is done: what stands around the JSON, what is missing from it and what may have been meant is for the model to say again.

use std::{borrow::Cow, fmt::Write as _};

use serde_json::{Error, Value};

/// The languages that a fence around JSON names.
const LANGUAGES: [&str; 3] = ["json", "jsonc", "json5"];

/// The JSON in `text`, and `text` as JSON: the same where it is JSON already. The error is that of the text after the rules.
pub(crate) fn read(text: &str) -> Result<(Cow<'_, str>, Value), Error> {
    if let Ok(value) = serde_json::from_str(text) {
        return Ok((Cow::Borrowed(text), value));
    }
    let text = mended(unfenced(text));
    let value = serde_json::from_str(&text)?;
    Ok((text, value))
}

/// A text whose end was cut off, without what stands before its JSON: the fence that opens around it, or the beginning of that.
#[cfg(feature = "json-schema")]
pub(crate) fn beginning(text: &str) -> &str {
    let text = begun(text);
    let (ticks, inside) = text.split_at(ticks(text));
    if inside.is_empty() {
        return inside;
    }
    if ticks.len() < 3 {
        return text;
    }
    let (language, rest) = language(inside);
    let is_cut = rest.is_empty() && LANGUAGES.iter().any(|known| known.starts_with(&language.to_ascii_lowercase()));
    if is_cut || is_json(language) { rest.trim_start() } else { inside.trim_start() }
}

/// Without what stands around the whole text.
fn unfenced(text: &str) -> &str {
    let text = begun(text).trim_end();
    let (fence, rest) = text.split_at(ticks(text));
    let Some(inside) = rest.strip_suffix(fence).filter(|_| fence.len() >= 3) else { return text };
    let (language, rest) = language(inside);
    if is_json(language) { rest.trim() } else { inside.trim() }
}

/// Without white space and a byte order mark before it.
fn begun(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// How many backticks it begins with.
fn ticks(text: &str) -> usize {
    text.len() - text.trim_start_matches('`').len()
}

/// What a fence names as its language, and what follows.
fn language(inside: &str) -> (&str, &str) {
    inside.split_at(inside.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inside.len()))
}

fn is_json(language: &str) -> bool {
    LANGUAGES.iter().any(|known| known.eq_ignore_ascii_case(language))
}

/// The same text with its last commas and control characters mended.
fn mended(text: &str) -> Cow<'_, str> {
    let mut out = String::with_capacity(text.len());
    let mut place = Place::Between;
    // What came last between strings, and where a comma stands behind which nothing has come yet.
    let (mut last, mut comma) = (None, None);
    for c in text.chars() {
        match place {
            Place::Between if c.is_ascii_whitespace() => {}
            Place::Between => {
                if let (']' | '}', Some(comma)) = (c, comma) {
                    out.remove(comma);
                }
                let behind_a_value = !matches!(last, None | Some('[' | '{' | ',' | ':'));
                comma = (c == ',' && behind_a_value).then_some(out.len());
                last = Some(c);
                if c == '"' {
                    place = Place::String;
                }
            }
            Place::String if c < ' ' => {
                escape(c, &mut out);
                continue;
            }
            Place::String => {
                place = match c {
                    '"' => Place::Between,
                    '\\' => Place::Escape,
                    _ => Place::String,
                };
            }
            Place::Escape => place = Place::String,
        }
        out.push(c);
    }
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// Where in a JSON text something stands.
#[derive(Clone, Copy)]
enum Place {
    Between,
    String,
    /// In a string, behind a backslash.
    Escape,
}

/// Writes a control character as a string of JSON has it. Writing to a text cannot fail.
fn escape(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ => {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What is read, and as which text.
    fn written(text: &str) -> Option<(String, Value)> {
        read(text).ok().map(|(text, value)| (text.into_owned(), value))
    }

    #[test]
    fn each_rule_mends_what_it_is_for() {
        for (text, json) in [
            ("\u{feff}{\"a\": 1}", "{\"a\": 1}"),
            ("\u{a0}[1]\u{3000}", "[1]"),
            ("```json\n{\"a\": 1}\n```", "{\"a\": 1}"),
            ("\n```JSON\n{\"a\": 1}\n```\n", "{\"a\": 1}"),
            ("```\n[1]\n```", "[1]"),
            ("````json5\n\"```\"\n````", "\"```\""),
            ("```[1]```", "[1]"),
            ("{\"a\": [1, 2,], \"b\": {\"c\": \",]\",\n},}", "{\"a\": [1, 2], \"b\": {\"c\": \",]\"\n}}"),
            ("[\"one\ntwo\r\n\tthree\u{1}\",]", "[\"one\\ntwo\\r\\n\\tthree\\u0001\"]"),
            ("[\"\\\"\",]", "[\"\\\"\"]"),
        ] {
            assert_eq!(written(text), Some((json.into(), serde_json::from_str(json).unwrap())), "{text:?}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        for text in [
            "",
            "Here it is: {\"a\": 1}",
            "{\"a\": 1} That is all.",
            "```json\n[1]\n```\nThat is all.",
            "```json\n[1]\n```\n```json\n[2]\n```",
            "```python\n[1]\n```",
            "``[1]``",
            "```json\n[1]",
            "[,]",
            "[1,,]",
            "{\"a\":,}",
            "{\"a\",}",
            "[1 2]",
            "{'a': 1}",
            "{a: 1}",
            "[True]",
            "[1] // one",
            "{\"a\": \"b}",
            "{\"a\": [1}",
            "[\"\\\n\"]",
        ] {
            assert!(read(text).is_err(), "{text:?} is read as {:?}", written(text));
        }
    }

    #[cfg(feature = "json-schema")]
    #[test]
    fn what_was_cut_begins_behind_its_fence() {
        for (text, begins) in [
            ("", ""),
            ("``", ""),
            ("```", ""),
            ("```js", ""),
            ("```json", ""),
            (" ```json\n{\"a\": \"```", "{\"a\": \"```"),
            ("```JSON5\n[1,", "[1,"),
            ("````\n[1", "[1"),
            ("\u{feff} {\"a\"", "{\"a\""),
            ("```python\n[1", "python\n[1"),
            ("``[1", "``[1"),
            ("Here it is: ```json\n[1", "Here it is: ```json\n[1"),
        ] {
            assert_eq!(beginning(text), begins, "{text:?}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let text = "[a-z \"\\\\\n\t`,\\]}]{0,6}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            let fields = prop::collection::vec((text, inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    /// The text of `value` as a careless writer has it: with a comma behind what is last, and control characters as they are.
    fn careless(value: &Value) -> String {
        let plain = |text: &str| json!(text).to_string().replace("\\n", "\n").replace("\\t", "\t");
        match value {
            // A backslash before one of these letters would be taken for theirs.
            Value::String(text) if !text.contains('\\') => plain(text),
            Value::Array(items) if !items.is_empty() => {
                let items: String = items.iter().map(|item| format!("{} ,\n", careless(item))).collect();
                format!("[{items}]")
            }
            Value::Object(fields) if !fields.is_empty() => {
                let field = |(name, value): (&String, &Value)| format!("{}: {},", json!(name), careless(value));
                format!("{{{}}}", fields.iter().map(field).collect::<String>())
            }
            other => other.to_string(),
        }
    }

    /// What no rule touches.
    fn kept(text: &str) -> String {
        text.chars().filter(|c| !matches!(c, '`' | ',' | '\u{feff}') && !c.is_whitespace()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn what_is_json_is_not_changed(value in values(), pretty in any::<bool>(), around in "[ \n\t\r]{0,3}") {
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let text = format!("{around}{text}{around}");
            let (read, found) = read(&text).unwrap();
            prop_assert!(matches!(read, Cow::Borrowed(read) if read == text), "{read:?}");
            prop_assert_eq!(found, value);
            let bare = text.trim();
            let untouched = mended(unfenced(bare));
            prop_assert!(untouched == bare, "a rule mended {bare:?} to {untouched:?}");
        }

        #[test]
        fn what_is_careless_is_read_as_what_it_is(value in values(), fence in "(```|````)", language in "(|json|JSONC)") {
            let text = careless(&value);
            let fenced = format!("\u{feff} {fence}{language}\n{text}\n{fence} \n");
            for text in [text, fenced] {
                let (read, found) = read(&text).unwrap();
                prop_assert_eq!(&found, &value, "{}", text);
                prop_assert_eq!(&serde_json::from_str::<Value>(&read).unwrap(), &value);
            }
        }

        #[test]
        fn what_is_read_differs_by_the_rules_alone(text in "(```|````|json|\u{feff}|[\\[\\]{},:\" \n1a`]){0,12}") {
            if let Ok((mended, value)) = read(&text) {
                prop_assert_eq!(&serde_json::from_str::<Value>(&mended).unwrap(), &value);
                prop_assert!(matches!(read(&mended), Ok((Cow::Borrowed(_), again)) if again == value), "it is JSON now");
                // Beside what is left out, a line break may have become the two letters that JSON has for it.
                let (before, after) = (kept(&text), kept(&mended.replace("\\n", "\n")));
                let language = before.strip_prefix("json").unwrap_or(&before);
                prop_assert!(after == before || after == language, "{:?} became {:?}", text, mended);
            }
        }
    }
}
