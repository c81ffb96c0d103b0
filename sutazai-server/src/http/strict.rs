//! What JSON alone lets pass and the API does not: arrays for objects, repeated keys, bottomless nesting.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use sutazai_core::{Payload, task::Labels};

use super::problem::Problem;

/// Levels of arrays and objects in an input: as deep as serde_json reads, so that every reader can.
const MAX_DEPTH: usize = 127;

/// Refuses a document that is nested deeper than readers of JSON accept.
pub(super) fn check_depth(payload: &Payload, path: &str) -> Result<(), Problem> {
    if depth(payload.as_str().as_bytes()) <= MAX_DEPTH {
        return Ok(());
    }
    Err(Problem::field(path, format!("arrays and objects are nested deeper than {MAX_DEPTH} levels")))
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

/// A `T` that is written as an object and nothing else: derived readers would take an array of its fields too.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
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
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok(), "what is let in can be read");
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
