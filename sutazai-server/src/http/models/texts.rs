//! A string or several, which both formats allow in many places.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// One string, or an array of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::http) struct Texts(pub(in crate::http) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(Text(text)) = texts.next_element()? {
                    all.push(text);
                }
                Ok(Texts(all))
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

/// A string of an array. OpenAI takes the numbers of tokens as well, but of a vocabulary that no model here has.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OnlyText;

        impl Visitor<'_> for OnlyText {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string; the numbers of tokens are not taken")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(OnlyText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_as_good_as_many_and_numbers_are_refused() {
        let read = |json: &str| serde_json::from_str::<Texts>(json).map(|texts| texts.0);
        assert_eq!(read(r#""a""#).unwrap(), ["a"]);
        assert_eq!(read(r#"["a", "b"]"#).unwrap(), ["a", "b"]);
        assert_eq!(read("[]").unwrap(), [""; 0]);
        for numbers in ["[1, 2]", "[[1, 2]]"] {
            assert!(read(numbers).unwrap_err().to_string().contains("numbers of tokens are not taken"), "{numbers}");
        }
        assert!(read("1").is_err() && read("null").is_err() && read("{}").is_err());
    }
}
