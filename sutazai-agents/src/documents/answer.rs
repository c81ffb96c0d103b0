//! An answer from evidence: the prompt, the check of what the model said, the citations.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::model::{ChatRequest, Message, Sampling};
use unicode_segmentation::UnicodeSegmentation;

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

/// Words that turn a sentence round, or say when and how much of it holds. Most count as stop words elsewhere.
const TURNS: &str = "above after all always before below earlier every except fewer first instead last later less more neither never no nobody none \
                     nor not nothing only over under unless until without";

/// Words that bound a number: an answer may leave one out, but not bring one in.
const BOUNDS: &str = "exactly least maximum minimum most up";

/// How an answer is worded.
pub(super) struct Wording {
    pub model: Option<String>,
    pub sampling: Sampling,
    pub max_tokens: u32,
}

/// What to ask the model: short, since a small one reads slowly and forgets, with the best sentence first.
pub(super) fn prompt(question: &str, evidence: &[Sentence], how: Wording) -> ChatRequest {
    let text: Vec<_> = evidence.iter().map(|sentence| plain(&sentence.text)).collect();
    let system =
        "Answer the question in one short sentence. Use only the given text and repeat its names and numbers exactly.";
    let user = format!("Text: {}\n\nQuestion: {}", text.join(" "), squeeze(question));
    ChatRequest {
        model: how.model,
        sampling: how.sampling,
        max_tokens: Some(how.max_tokens),
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

/// One sentence of the evidence bears all of it out, and it says something that the question did not. Strict, because a small model turns a sentence
/// into its opposite with one word of its own, and joins two sentences into one that nobody wrote.
fn is_borne_out(said: &str, question: &str, evidence: &[Sentence]) -> bool {
    let terms = Terms::default();
    let set = |text: &str| terms.of(text).into_iter().collect::<HashSet<String>>();
    let (said_terms, asked) = (set(said), set(question));
    let (said_numbers, asked_numbers) = (numbers(said), numbers(question));
    let (said_turns, said_bounds) = (words(said, TURNS), words(said, BOUNDS));
    evidence.iter().any(|sentence| {
        let text = plain(&sentence.text);
        let holds = set(&format!("{} {text}", sentence.heading));
        let own = numbers(&text);
        said_terms.iter().all(|term| holds.contains(term) || asked.contains(term))
            && said_terms.iter().any(|term| holds.contains(term) && !asked.contains(term))
            && said_numbers.iter().all(|number| own.contains(number) || asked_numbers.contains(number))
            && said_turns == words(&text, TURNS)
            && said_bounds.is_subset(&words(&text, BOUNDS))
    })
}

/// Those words of `text` that are in `list`; every way to say `not` is one word.
fn words(text: &str, list: &str) -> HashSet<String> {
    let lower = text.to_lowercase().replace('’', "'");
    let word = |word: &str| if word == "cannot" || word.ends_with("n't") { "not".into() } else { word.to_owned() };
    lower.unicode_words().map(word).filter(|word| list.split_whitespace().any(|known| known == word)).collect()
}

/// The numbers of `text`, each with its sign.
fn numbers(text: &str) -> HashSet<String> {
    let is_part = |c: char| c.is_numeric() || matches!(c, '.' | ',');
    let mut found = HashSet::new();
    let (mut rest, mut before) = (text, ' ');
    while let Some(at) = rest.find(char::is_numeric) {
        let mut lead = rest[..at].chars().rev().chain([before]);
        let sign = lead.next().unwrap_or(' ');
        // A dash after a letter or a digit is a hyphen or a range.
        let is_sign = matches!(sign, '-' | '−') && !lead.next().unwrap_or(' ').is_alphanumeric();
        let end = rest[at..].find(|c| !is_part(c)).map_or(rest.len(), |length| at + length);
        let digits = rest[at..end].trim_end_matches(['.', ',']);
        found.insert(format!("{}{digits}", if is_sign { "-" } else { "" }));
        before = rest[..end].chars().next_back().unwrap_or(' ');
        rest = &rest[end..];
    }
    found
}

/// A sentence without the marks of a list, a heading, a table row or emphasis.
fn plain(text: &str) -> String {
    let mut text = text.trim();
    let is_mark = |mark: &str| {
        let number = mark.strip_suffix(['.', ')']).is_some_and(|number| number.parse::<u8>().is_ok());
        number || matches!(mark, ">" | "-" | "*" | "+" | "#" | "##" | "###" | "####" | "#####" | "######")
    };
    while let Some((_, rest)) = text.split_once(' ').filter(|(mark, _)| is_mark(mark)) {
        text = rest.trim_start();
    }
    let text = without_bold(text);
    if !text.starts_with('|') {
        return text;
    }
    let cells = text.split('|').map(str::trim).filter(|cell| !cell.is_empty());
    cells.collect::<Vec<_>>().join(", ")
}

/// Takes away the pairs of `**` that stand around words; others are powers, patterns or arguments.
fn without_bold(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once("**") {
        out.push_str(before);
        let apart = out.chars().next_back().is_none_or(|c| c.is_whitespace() || "([{\"'“‘|_—".contains(c));
        let opens = apart && after.starts_with(|c: char| c.is_alphanumeric() || "`\"'“‘([_".contains(c));
        let is_end = |inner: &str, next: &str| {
            !inner.ends_with(|c: char| c.is_whitespace() || matches!(c, '/' | '*'))
                && next.chars().next().is_none_or(|c| c.is_whitespace() || ".,;:!?)]}\"'”’|_—".contains(c))
        };
        match after.split_once("**").filter(|(inner, next)| opens && is_end(inner, next)) {
            Some((inner, next)) => {
                out.push_str(inner);
                rest = next;
            }
            None => {
                out.push_str("**");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
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
    fn a_turned_sentence_is_not_borne_out() {
        let by = |said: &str, text: &str| grounded(said, "What about the valve?", &[sentence("a.md", 1, text)]).1;
        let (opened, shut) = ("The valve must be opened by hand.", "The valve must not be opened by hand.");
        assert_eq!((by(opened, opened), by(shut, shut)), (Grounded::Model, Grounded::Model));
        assert_eq!((by(shut, opened), by(opened, shut)), (Grounded::Quote, Grounded::Quote));
        assert_eq!(by("It can't be opened.", shut), Grounded::Model);
        assert_eq!(by("Open it after the pump.", "Open it before the pump."), Grounded::Quote);
        assert_eq!(by("It opens at -40.", "- It opens at 40."), Grounded::Quote);
        assert_eq!(by("It opens at 40.", "It opens at −40."), Grounded::Quote);
        assert_eq!(by("It opens at -40.", "It opens at −40."), Grounded::Model);
        assert_eq!(by("It takes at least 3 bar.", "It takes at most 3 bar."), Grounded::Quote);
        let two = [sentence("a", 1, "The valve is red."), sentence("a", 2, "The pump is loud.")];
        assert_eq!(grounded("The pump is red.", "Which machine?", &two).1, Grounded::Quote, "no one sentence says it");
        assert_eq!(numbers("3-4, −5 (-6.5) v-7, 8."), ["3", "4", "-5", "-6.5", "7", "8"].map(str::to_owned).into());
    }

    #[test]
    fn plain_changes_nothing_that_a_document_says() {
        for same in [
            "-40 °C",
            "--max-running N",
            "2**10 is 1024",
            "#[test]",
            "src/**/a and b/**/c",
            "f(**kwargs), **x",
            "a ** b",
            "1950. A year",
        ] {
            assert_eq!(plain(same), same);
        }
        for (marked, bare) in [
            ("> - **Bold** fact.", "Bold fact."),
            ("### A **b c**, `d`", "A b c, `d`"),
            ("| a | **2** |", "a, 2"),
            ("* (**`x`**) y", "(`x`) y"),
            ("2. the store", "the store"),
        ] {
            assert_eq!(plain(marked), bare);
        }
    }

    #[test]
    fn the_prompt_is_short_and_greedy() {
        let how = Wording { model: None, sampling: Sampling::GREEDY, max_tokens: 96 };
        let request = prompt("What?", &[sentence("a.md", 1, "**Bold** fact.")], how);
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
