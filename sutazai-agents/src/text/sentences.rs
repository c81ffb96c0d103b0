//! Sentences: the smallest pieces of a text that can answer a question.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// The byte ranges of the sentences of `text`. A list item, a heading, a table row and a line of code are sentences too; the wrapped lines of a
/// paragraph are read as one.
pub(crate) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for block in blocks(text) {
        // UAX 29 ends a sentence at every line feed. Same length, so ranges hold.
        let flowing = text[block.clone()].replace('\n', " ");
        let mut start: Option<usize> = None;
        for (at, sentence) in flowing.split_sentence_bound_indices() {
            let from = *start.get_or_insert(at);
            if ends_within(sentence) {
                continue;
            }
            push(text, block.start + from..block.start + at + sentence.len(), &mut found);
            start = None;
        }
        if let Some(from) = start {
            push(text, block.start + from..block.end, &mut found);
        }
    }
    found
}

/// UAX 29 knows no abbreviations.
fn ends_within(sentence: &str) -> bool {
    const ABBREVIATIONS: [&str; 9] = ["e.g.", "i.e.", "etc.", "cf.", "vs.", "Dr.", "Mr.", "Mrs.", "No."];
    let sentence = sentence.trim_end();
    ABBREVIATIONS
        .iter()
        .any(|end| sentence.strip_suffix(end).is_some_and(|rest| !rest.ends_with(|c: char| c.is_alphanumeric())))
}

fn push(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    let end = range.start + piece.trim_end().len();
    if text.get(start..end).is_some_and(|piece| piece.chars().any(char::is_alphanumeric)) {
        found.push(start..end);
    }
}

/// Runs of lines that flow into each other.
fn blocks(text: &str) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let (mut at, mut fenced, mut open) = (0, false, false);
    for line in text.split_inclusive('\n') {
        let range = at..at + line.len();
        at = range.end;
        let content = line.trim();
        if content.starts_with("```") || content.starts_with("~~~") {
            fenced = !fenced;
            open = false;
        } else if content.is_empty() {
            open = false;
        } else if open && !fenced && !starts_block(content) {
            if let Some(last) = blocks.last_mut() {
                last.end = range.end;
            }
        } else {
            blocks.push(range);
            open = !content.starts_with(['#', '|']);
        }
    }
    blocks
}

/// Whether a line begins a heading, a list item, a table row or a quotation.
fn starts_block(line: &str) -> bool {
    let numbered = line.find(['.', ')']).is_some_and(|dot| dot > 0 && line[..dot].bytes().all(|b| b.is_ascii_digit()));
    numbered || line.starts_with(['#', '|', '>']) || ["- ", "* ", "+ "].iter().any(|marker| line.starts_with(marker))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn wrapped_lines_are_one_sentence_and_items_are_their_own() {
        let text = "# Cranes\nThe crane lifts\n37 tonnes. It is old, e.g. built in 1950.\n\n* one item\n* another\n  wrapped\n\n| a | b |\n| 1 | 2 |";
        assert_eq!(
            of(text),
            [
                "# Cranes",
                "The crane lifts\n37 tonnes.",
                "It is old, e.g. built in 1950.",
                "* one item",
                "* another\n  wrapped",
                "| a | b |",
                "| 1 | 2 |"
            ]
        );
    }

    #[test]
    fn code_stays_line_by_line_and_rules_are_no_sentences() {
        assert_eq!(of("```\nlet a = 1;\nlet b = 2;\n```\n---\n\n***"), ["let a = 1;", "let b = 2;"]);
        assert!(of("").is_empty());
        assert_eq!(of("Grüße aus Köln! Wirklich?"), ["Grüße aus Köln!", "Wirklich?"]);
    }
}
