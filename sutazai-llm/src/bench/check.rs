//! Whether an answer is right, by rules that need no other model.

/// What makes an answer right. Letter case and line breaks do not count, nor does what a model thought before its answer, between `<think>` and
/// `</think>`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Check {
    /// The last number in it is this one. So are answers of the GSM8K set read, where a model shows its working first.
    Number(f64),
    /// The first of all these words and phrases to come is one of `right`.
    Says {
        /// Any of these is the answer.
        right: &'static [&'static str],
        /// Any of these is another one.
        instead: &'static [&'static str],
    },
    /// All of these are in it, and their last mentions come in this order.
    Order(&'static [&'static str]),
    /// One of these stands in it, white space aside.
    Writes(&'static [&'static str]),
}

impl Check {
    /// Whether `answer` is right.
    #[must_use]
    pub fn passes(&self, answer: &str) -> bool {
        let said = answer.rsplit("</think>").next().unwrap_or(answer).to_lowercase();
        match *self {
            Self::Number(wanted) => last_number(&said).is_some_and(|found| (found - wanted).abs() < 1e-9),
            Self::Says { right, instead } => {
                let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
                let first = |phrases: &[&str]| phrases.iter().filter_map(|phrase| first_mention(&said, phrase)).min();
                first(right).is_some_and(|at| first(instead).is_none_or(|other| at < other))
            }
            Self::Order(items) => {
                let places: Option<Vec<_>> =
                    items.iter().map(|item| said.rfind(item.to_lowercase().as_str())).collect();
                places.is_some_and(|places| places.is_sorted_by(|a, b| a < b))
            }
            Self::Writes(forms) => {
                let bare = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != '`').collect::<String>();
                let said = bare(&said);
                forms.iter().any(|form| said.contains(&bare(&form.to_lowercase())))
            }
        }
    }
}

/// Where `phrase` first stands in `text` by itself and not within a longer word.
fn first_mention(text: &str, phrase: &str) -> Option<usize> {
    let phrase = phrase.to_lowercase();
    let in_a_word = |neighbour: Option<char>| neighbour.is_some_and(char::is_alphanumeric);
    let alone = |at: usize| {
        let (before, after) = (text[..at].chars().next_back(), text[at + phrase.len()..].chars().next());
        !in_a_word(before) && !in_a_word(after)
    };
    text.match_indices(phrase.as_str()).map(|(at, _)| at).find(|at| alone(*at))
}

/// The last number in `text`, such as `-1.5`. A minus behind a letter or a digit is a dash.
fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        if !is_digit(at) {
            at += 1;
            continue;
        }
        let start = at;
        while is_digit(at) || (bytes.get(at) == Some(&b'.') && is_digit(at + 1)) {
            at += 1;
        }
        let signed = start > 0 && bytes[start - 1] == b'-' && (start == 1 || !bytes[start - 2].is_ascii_alphanumeric());
        if let Ok(number) = text[start..at].parse::<f64>() {
            last = Some(if signed { -number } else { number });
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_number_counts() {
        for (text, number) in [
            ("9", Some(9.0)),
            ("17 - 8 is 9.", Some(9.0)),
            ("It is -1.5", Some(-1.5)),
            ("from 3-4", Some(4.0)),
            ("ends with 25 %", Some(25.0)),
            ("version 1.2.3", None),
            ("3.0.", Some(3.0)),
            ("vier", None),
            ("", None),
            ("٣", None),
        ] {
            assert_eq!(last_number(text), number, "{text:?}");
        }
        assert!(Check::Number(9.0).passes("<think>17? 8?</think>So 9.00 are left."));
        assert!(!Check::Number(9.0).passes("9, and not 8"));
    }

    #[test]
    fn the_first_of_the_words_counts() {
        let check = Check::Says { right: &["carbon dioxide", "CO2"], instead: &["oxygen"] };
        for right in ["Carbon\ndioxide.", "co2", "Plants take in carbon dioxide and give oxygen off.", "It is *CO2*"] {
            assert!(check.passes(right), "{right}");
        }
        for wrong in ["Oxygen", "oxygen, not CO2", "carbon dioxides", "CO23", "", "nitrogen"] {
            assert!(!check.passes(wrong), "{wrong}");
        }
        let no = Check::Says { right: &["no"], instead: &["yes"] };
        assert!(no.passes("No, it does not.") && !no.passes("Yes. There is no doubt.") && !no.passes("I do not know"));
    }

    #[test]
    fn the_last_mentions_come_in_order() {
        let check = Check::Order(&["a1", "B2", "c3"]);
        assert!(check.passes("c3 b2 a1 in order are A1, B2, C3"));
        assert!(!check.passes("a1 c3 b2") && !check.passes("a1 b2") && !check.passes(""));
    }

    #[test]
    fn white_space_does_not_count_in_code() {
        let check = Check::Writes(&["max(a, b)", "a if a > b else b"]);
        assert!(check.passes("```python\nreturn max( a,b )\n```") && check.passes("`a if a>b else b`"));
        assert!(!check.passes("min(a, b)") && !check.passes(""));
    }

    proptest! {
        #[test]
        fn whatever_is_said_can_be_judged(answer in "\\PC{0,60}") {
            let _ = Check::Number(1.0).passes(&answer);
            let _ = Check::Says { right: &["ß", "é"], instead: &["é e"] }.passes(&answer);
            let _ = Check::Order(&["a", "İ"]).passes(&answer);
            let _ = Check::Writes(&["x = 1"]).passes(&answer);
        }

        #[test]
        fn a_number_is_found_as_it_was_written(number in -1e6..1e6_f64) {
            prop_assert_eq!(last_number(&format!("it is {number} now")), Some(number));
        }
    }
}
