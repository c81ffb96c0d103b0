//! What JSON alone lets pass and the API does not: repeated keys, bottomless nesting, and arrays for objects.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use sutazai_core::{Payload, task::Labels};

use super::problem::Problem;
pub(super) use crate::object::Object;

/// Levels of arrays and objects in an input: less than the 127 that most readers of JSON bear, for it stands in answers that nest as well.
const MAX_DEPTH: usize = 100;

/// Refuses a document that readers of JSON do not: nested too deep, a number beyond 64 bits of floating point, half a character in a string.
pub(super) fn check_readable(payload: &Payload, path: &str) -> Result<(), Problem> {
    if depth(payload.as_str().as_bytes()) > MAX_DEPTH {
        return Err(Problem::field(path, format!("arrays and objects are nested deeper than {MAX_DEPTH} levels")));
    }
    payload.read::<Readable>().map(drop).map_err(|error| {
        let fault = error.faults().first().map(|fault| fault.clone().below(path));
        fault.map_or_else(|| error.into(), |fault| Problem::field(fault.path, fault.message))
    })
}

/// JSON of which every part can be read.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// How deep arrays and objects nest in `json`, which is well-formed.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A field that is there, be it `null`: without this an `Option` would take `null` for absent.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Payload>, D::Error> {
    Payload::deserialize(deserializer).map(Some)
}

/// Refuses a key that comes twice in a map, of which only one value could count.
pub(super) fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    struct Unique;

    impl<'de> Visitor<'de> for Unique {
        type Value = Labels;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut labels = Self::Value::new();
            while let Some((key, value)) = map.next_entry::<String, String>()? {
                if labels.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("the key {key:?} comes twice")));
                }
                labels.insert(key, value);
            }
            Ok(labels)
        }
    }

    deserializer.deserialize_any(Unique)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert_eq!(depth(b"1"), 0);
        assert_eq!(depth(br#"{"a":[1,{"b":"]][[{\"["}],"c":[]}"#), 3);
        assert_eq!(depth("[".repeat(20_000).as_bytes()), 20_000);
        let deepest = "[".repeat(MAX_DEPTH) + &"]".repeat(MAX_DEPTH);
        let wrapped = format!("{}{deepest}{}", "[".repeat(27), "]".repeat(27));
        assert!(serde_json::from_str::<serde_json::Value>(&wrapped).is_ok(), "what is let in can be read");
    }

    #[test]
    fn what_nobody_could_read_is_refused_with_its_place() {
        let check = |text: &str| {
            let problem = check_readable(&Payload::from_text(text).unwrap(), "/input").err();
            problem.map(|problem| problem.faults()[0].path.clone())
        };
        for good in ["1", "null", r#"{"a":[1.5,-2,true,"\ud83d\ude00",12345678901234567890123]}"#] {
            assert_eq!(check(good), None, "{good}");
        }
        assert_eq!(check(r#""\ud800""#).as_deref(), Some("/input"));
        assert_eq!(check(r#"{"a":[0,"\udc00x"]}"#).as_deref(), Some("/input/a/1"));
        assert_eq!(check(r#"{"a":{"b":1e999}}"#).as_deref(), Some("/input/a/b"));
        assert!(check(r#"{"\ud800":1}"#).is_some());
        assert_eq!(check(&format!("{}1{}", "[".repeat(101), "]".repeat(101))).as_deref(), Some("/input"));
    }

    #[test]
    fn an_object_is_an_object_and_a_key_comes_once() {
        #[derive(Debug, Deserialize)]
        struct One {
            #[serde(deserialize_with = "unique")]
            labels: Labels,
        }
        let read = |text: &str| serde_json::from_str::<Object<One>>(text).map(|one| one.0.labels.len());
        assert_eq!(read(r#"{"labels":{"a":"1","b":"2"}}"#).unwrap(), 2);
        assert_eq!(read(r#"{"labels":null}"#).unwrap(), 0);
        assert!(read(r#"[{"a":"1"}]"#).is_err());
        assert!(read(r#"{"labels":{"a":"1","a":"2"}}"#).unwrap_err().to_string().contains("twice"));
    }
}
