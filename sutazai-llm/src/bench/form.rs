//! Whether a model's answers keep to a JSON schema.

use serde_json::{Map, Value, json};
use sutazai_core::{
    Result,
    clock::Clock,
    model::{ChatModel, ResponseFormat},
};

use super::{
    ask::{ask, request},
    measured::Marks,
};

/// Tokens that an answer may have: several times what any of them needs, so that what is cut off has rambled.
const LONGEST: u32 = 160;

/// A question whose answer is an object with exactly these fields.
struct Form {
    question: &'static str,
    fields: &'static [(&'static str, Kind)],
}

/// What a field may hold.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Whole,
    Truth,
    OneOf(&'static [&'static str]),
    Texts,
    Wholes,
}

static FORMS: [Form; 8] = [
    Form {
        question: "Mara is 34 years old. Who is it, and how old?",
        fields: &[("name", Kind::Text), ("age", Kind::Whole)],
    },
    Form { question: "Which colour has fresh grass?", fields: &[("colour", Kind::OneOf(&["red", "green", "blue"]))] },
    Form {
        question: "Is Berlin the capital of Germany, and how many letters has its name?",
        fields: &[("capital", Kind::Truth), ("letters", Kind::Whole)],
    },
    Form { question: "Name three animals that live in the sea.", fields: &[("animals", Kind::Texts)] },
    Form { question: "Which whole numbers lie between 3 and 7?", fields: &[("numbers", Kind::Wholes)] },
    Form {
        question: "The package of 2 kg goes to Oslo by ship. Fill in the order.",
        fields: &[("city", Kind::Text), ("kilograms", Kind::Whole), ("by", Kind::OneOf(&["air", "ship", "rail"]))],
    },
    Form {
        question: "\"The food was cold and the waiter was rude.\" What does the guest feel, and what about?",
        fields: &[("mood", Kind::OneOf(&["good", "neutral", "bad"])), ("topics", Kind::Texts)],
    },
    Form {
        question: "A meeting begins at 9 and ends at 11, and everybody must come. Fill in the entry.",
        fields: &[("title", Kind::Text), ("from", Kind::Whole), ("to", Kind::Whole), ("required", Kind::Truth)],
    },
];

/// Asks all of them. A model that can be bound to a schema is; any other is told what it looks like, and has to keep to it by itself.
pub(super) async fn measure(
    model: &dyn ChatModel,
    clock: &dyn Clock,
    tell: &(dyn Fn(usize, usize) + Send + Sync),
) -> Result<Marks> {
    let mut marks = Marks::default();
    for (done, form) in FORMS.iter().enumerate() {
        tell(done, FORMS.len());
        let info = model.info();
        let mut request = request(info, form.text(), LONGEST);
        if info.capabilities.schema {
            request.response_format = ResponseFormat::Schema(form.schema());
        }
        marks.note(form.fits(&ask(model, request, clock).await?.text));
    }
    Ok(marks)
}

impl Form {
    fn text(&self) -> String {
        let fields: Vec<_> = self.fields.iter().map(|(name, kind)| format!("{name:?}: {}", kind.words())).collect();
        format!(
            "{}\nAnswer with one JSON object and nothing else. It has exactly these fields: {}.",
            self.question,
            fields.join("; ")
        )
    }

    fn schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|(name, kind)| ((*name).to_owned(), kind.schema())).collect();
        let names: Vec<_> = self.fields.iter().map(|(name, _)| *name).collect();
        json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
    }

    /// Whether `answer` is JSON, and nothing else, that fits the schema.
    fn fits(&self, answer: &str) -> bool {
        let Ok(Value::Object(object)) = serde_json::from_str::<Value>(answer) else { return false };
        let fits = |(name, kind): &(&str, Kind)| object.get(*name).is_some_and(|value| kind.fits(value));
        object.len() == self.fields.len() && self.fields.iter().all(fits)
    }
}

impl Kind {
    fn words(self) -> String {
        match self {
            Self::Text => "a text".into(),
            Self::Whole => "a whole number".into(),
            Self::Truth => "true or false".into(),
            Self::OneOf(words) => format!("one of {}", json!(words)),
            Self::Texts => "an array of texts".into(),
            Self::Wholes => "an array of whole numbers".into(),
        }
    }

    fn schema(self) -> Value {
        match self {
            Self::Text => json!({ "type": "string" }),
            Self::Whole => json!({ "type": "integer" }),
            Self::Truth => json!({ "type": "boolean" }),
            Self::OneOf(words) => json!({ "type": "string", "enum": words }),
            Self::Texts => json!({ "type": "array", "items": Self::Text.schema() }),
            Self::Wholes => json!({ "type": "array", "items": Self::Whole.schema() }),
        }
    }

    fn fits(self, value: &Value) -> bool {
        let all = |kind: Self| value.as_array().is_some_and(|items| items.iter().all(|item| kind.fits(item)));
        match self {
            Self::Text => value.is_string(),
            // As JSON schema has it, 1.0 is a whole number.
            Self::Whole => value.as_f64().is_some_and(|number| number.fract() == 0.0),
            Self::Truth => value.is_boolean(),
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Texts => all(Self::Text),
            Self::Wholes => all(Self::Whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Kind {
        fn example(self) -> Value {
            match self {
                Self::Text => json!("Oslo"),
                Self::Whole => json!(3),
                Self::Truth => json!(true),
                Self::OneOf(words) => json!(words[0]),
                Self::Texts => json!(["a", "b"]),
                Self::Wholes => json!([4, 5]),
            }
        }

        /// What has another type or value.
        fn other(self) -> Value {
            match self {
                Self::Text => json!(1),
                Self::Whole => json!(1.5),
                Self::Truth => json!("true"),
                Self::OneOf(_) => json!("none of them"),
                Self::Texts => json!(["a", 1]),
                Self::Wholes => json!("4, 5"),
            }
        }
    }

    fn example(form: &Form) -> Map<String, Value> {
        form.fields.iter().map(|(name, kind)| ((*name).to_owned(), kind.example())).collect()
    }

    #[test]
    fn what_fits_is_told_from_what_does_not() {
        for form in &FORMS {
            let right = example(form);
            assert!(form.fits(&Value::Object(right.clone()).to_string()), "{}", form.question);
            for (name, kind) in form.fields {
                let mut missing = right.clone();
                missing.remove(*name);
                let mut other = right.clone();
                other.insert((*name).to_owned(), kind.other());
                let mut more = right.clone();
                more.insert("more".into(), json!(1));
                for wrong in [missing, other, more] {
                    assert!(!form.fits(&Value::Object(wrong.clone()).to_string()), "{}: {wrong:?}", form.question);
                }
            }
            let text = Value::Object(right).to_string();
            for wrong in
                [format!("Here it is: {text}"), format!("```json\n{text}\n```"), text[1..].to_owned(), String::new()]
            {
                assert!(!form.fits(&wrong), "{wrong}");
            }
            assert!(form.fits(&format!(" \n{text}\n")), "white space around it is JSON");
        }
    }

    #[cfg(feature = "json-schema")]
    #[test]
    fn the_rules_are_those_of_the_schema() {
        for form in &FORMS {
            let schema = jsonschema::validator_for(&form.schema()).unwrap();
            let right = example(form);
            let mut values = vec![Value::Object(right.clone()), json!([]), json!({})];
            for (name, kind) in form.fields {
                let mut other = right.clone();
                other.insert((*name).to_owned(), kind.other());
                values.push(Value::Object(other));
            }
            for value in values {
                assert_eq!(schema.is_valid(&value), form.fits(&value.to_string()), "{value}");
            }
        }
    }

    #[test]
    fn the_question_says_what_the_answer_looks_like() {
        let text = FORMS[5].text();
        for part in ["to Oslo by ship", "\"kilograms\": a whole number", "\"by\": one of [\"air\",\"ship\",\"rail\"]"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
