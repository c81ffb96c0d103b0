//! An answer from evidence: the prompt, the check of what the model said, the citations.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::model::{ChatRequest, Message, Sampling};

use super::{
    Citation,
    evidence::{Sentence, squeeze},
};
use crate::text::Terms;

/// Who worded an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grounded {
    /// The model, in words and numbers that its quotes hold.
    Model,
    /// The documents: the best quote itself, because what the model said was empty or not in the quotes.
    Quote,
}

/// The answer where there is no evidence.
pub(super) const NOT_FOUND: &str = "This is not in the documents.";

/// One word in so many may be the model's own.
const OWN_WORDS: usize = 8;

/// What to ask the model: short, since a small one reads slowly and forgets, with the best sentence first.
pub(super) fn prompt(question: &str, evidence: &[Sentence], model: Option<String>, max_tokens: u32) -> ChatRequest {
    let text: Vec<_> = evidence.iter().map(|sentence| plain(&sentence.text)).collect();
    let system =
        "Answer the question in one short sentence. Use only the given text and repeat its names and numbers exactly.";
    let user = format!("Text: {}\n\nQuestion: {}", text.join(" "), squeeze(question));
    ChatRequest {
        model,
        sampling: Sampling::GREEDY,
        max_tokens: Some(max_tokens),
        stop: vec!["\n\n".into(), "Question:".into()],
        ..ChatRequest::new(vec![Message::system(system), Message::user(user)])
    }
}

/// The model's answer if the evidence bears it out, the best quote otherwise.
pub(super) fn grounded(said: &str, question: &str, evidence: &[Sentence]) -> (String, Grounded) {
    let said = squeeze(said.trim());
    if is_borne_out(&said, question, evidence) {
        return (said, Grounded::Model);
    }
    (evidence.first().map(|sentence| plain(&sentence.text)).unwrap_or_default(), Grounded::Quote)
}

/// Every number it names stands in the evidence or the question, of its other words all but one in [`OWN_WORDS`] too, and it says something that the
/// question did not. Strict, because a small model turns a sentence into its opposite with one word of its own.
fn is_borne_out(said: &str, question: &str, evidence: &[Sentence]) -> bool {
    let terms = Terms::default();
    let set = |text: &str| terms.of(text).into_iter().collect::<HashSet<String>>();
    let (said_terms, asked) = (set(said), set(question));
    let quoted: HashSet<String> =
        evidence.iter().flat_map(|sentence| set(&format!("{} {}", sentence.heading, sentence.text))).collect();
    let is_number = |term: &&String| term.starts_with(|c: char| c.is_numeric());
    let known = |term: &&String| quoted.contains(*term) || asked.contains(*term);
    let numbers_stand = said_terms.iter().filter(is_number).all(|term| known(&term));
    let shared = said_terms.iter().filter(known).count();
    let adds = said_terms.iter().any(|term| quoted.contains(term) && !asked.contains(term));
    numbers_stand && adds && (said_terms.len() - shared) * OWN_WORDS <= said_terms.len()
}

/// A sentence without the marks of a list, a heading, a table row or emphasis.
fn plain(text: &str) -> String {
    let text = text.trim_start_matches(['#', '>', '-', '*', '+', ' ']).replace("**", "");
    if !text.starts_with('|') {
        return text.trim().to_owned();
    }
    let cells = text.split('|').map(str::trim).filter(|cell| !cell.is_empty());
    cells.collect::<Vec<_>>().join(", ")
}

/// The evidence as citations, each sentence once.
pub(super) fn citations(evidence: &[Sentence]) -> Vec<(usize, Citation)> {
    let mut found: Vec<(usize, Citation)> = Vec::new();
    for sentence in evidence {
        let citation = Citation {
            path: sentence.path.clone(),
            start_line: sentence.start_line,
            end_line: sentence.end_line,
            quote: sentence.text.clone(),
        };
        if !found.contains(&(sentence.snapshot, citation.clone())) {
            found.push((sentence.snapshot, citation));
        }
    }
    found
}

/// Whether the quote stands in those lines of the file as it is now, whitespace aside.
pub(super) fn stands(citation: &Citation, file: &str) -> bool {
    let (start, end) = (citation.start_line as usize, citation.end_line as usize);
    if start == 0 || end < start {
        return false;
    }
    let lines: Vec<_> = file.split('\n').skip(start - 1).take(end - start + 1).collect();
    squeeze(&lines.join("\n")).contains(&squeeze(&citation.quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentence(path: &str, line: u32, text: &str) -> Sentence {
        Sentence {
            snapshot: 0,
            path: path.into(),
            start_line: line,
            end_line: line,
            text: text.into(),
            heading: String::new(),
            support: 1.0,
        }
    }

    #[test]
    fn an_answer_that_the_quotes_do_not_hold_is_replaced() {
        let evidence = [sentence("a.md", 1, "- The Zellweger harbour crane lifts at most 37 tonnes.")];
        let question = "How many tonnes can the Zellweger harbour crane lift?";
        let check = |said: &str| grounded(said, question, &evidence);
        assert_eq!(check("It lifts at most 37 tonnes.").1, Grounded::Model);
        assert_eq!(check("37").1, Grounded::Model);
        for said in [
            "",
            "The crane can lift 370 tonnes.",
            "The Zellweger harbour crane can lift.",
            "I think bananas are yellow at 37 degrees.",
        ] {
            let (answer, by) = check(said);
            assert_eq!(by, Grounded::Quote, "{said}");
            assert_eq!(answer, "The Zellweger harbour crane lifts at most 37 tonnes.");
        }
    }

    #[test]
    fn the_prompt_is_short_and_greedy() {
        let request = prompt("What?", &[sentence("a.md", 1, "**Bold** fact.")], None, 96);
        assert_eq!(request.sampling, Sampling::GREEDY);
        assert_eq!(request.messages[1].content, "Text: Bold fact.\n\nQuestion: What?");
    }

    #[test]
    fn a_quote_must_stand_in_its_lines() {
        let file = "one\ntwo  three\r\nfour\n";
        let citation = |start_line, end_line, quote: &str| Citation {
            path: "a".into(),
            start_line,
            end_line,
            quote: quote.into(),
        };
        assert!(stands(&citation(2, 3, "two three four"), file));
        assert!(!stands(&citation(1, 1, "two"), file));
        assert!(!stands(&citation(0, 3, "one"), file));
        assert!(!stands(&citation(9, 9, "one"), file));
    }

    #[test]
    fn a_sentence_is_cited_once() {
        let found = citations(&[sentence("a", 1, "x y"), sentence("a", 1, "x y"), sentence("b", 1, "x y")]);
        assert_eq!(found.len(), 2);
    }
}
