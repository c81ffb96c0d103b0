//! Sentences: the smallest pieces of a text that can answer a question.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::{Fence, Line};

/// The byte ranges of the sentences of `text`. A list item, a heading, a table row and a line of code are sentences too; the wrapped lines of a
/// paragraph are read as one.
pub(crate) fn sentences(text: &str) -> Vec<Range<usize>> {
    sentences_from(text, Fence::default())
}

/// [`sentences`] of a piece of a longer text, which begins within code or not.
pub(crate) fn sentences_from(text: &str, fence: Fence) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for block in blocks(text, fence) {
        // UAX 29 ends a sentence at every end of a line. Same length, so ranges hold.
        let flowing = text[block.clone()].replace(['\r', '\n'], " ");
        let mut push = |range: Range<usize>| push(text, block.start + range.start..block.start + range.end, &mut found);
        let mut start: Option<usize> = None;
        for (at, sentence) in flowing.split_sentence_bound_indices() {
            let (mut from, end) = (*start.get_or_insert(at), at + sentence.len());
            // Nor does UAX 29 break before a lower-case word in quotation marks.
            for (dot, _) in sentence.match_indices('.') {
                let stop = at + dot + 1;
                let next = flowing[stop..end].trim_start();
                let apart = next.len() < end - stop;
                if apart && next.starts_with(['`', '"', '*', '“', '[']) && !goes_on(&flowing[from..stop]) {
                    push(from..stop);
                    from = stop;
                }
            }
            start = goes_on(&flowing[from..end]).then_some(from);
            if start.is_none() {
                push(from..end);
            }
        }
        if let Some(from) = start {
            push(from..flowing.len());
        }
    }
    found
}

/// UAX 29 knows neither abbreviations nor the numbers of lists.
fn goes_on(sentence: &str) -> bool {
    const ABBREVIATIONS: [&str; 9] = ["e.g.", "i.e.", "etc.", "cf.", "vs.", "Dr.", "Mr.", "Mrs.", "No."];
    let sentence = sentence.trim();
    let number = sentence.strip_suffix(['.', ')']);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        || ABBREVIATIONS
            .iter()
            .any(|end| sentence.strip_suffix(end).is_some_and(|rest| !rest.ends_with(char::is_alphanumeric)))
}

fn push(text: &str, range: Range<usize>, found: &mut Vec<Range<usize>>) {
    let piece = &text[range.clone()];
    let start = range.start + (piece.len() - piece.trim_start().len());
    let end = range.start + piece.trim_end().len();
    if text.get(start..end).is_some_and(|piece| piece.chars().any(char::is_alphabetic)) {
        found.push(start..end);
    }
}

/// Runs of lines that flow into each other.
fn blocks(text: &str, mut fence: Fence) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let (mut at, mut open) = (0, false);
    for line in text.split_inclusive('\n') {
        let range = at..at + line.len();
        at = range.end;
        let (kind, content) = (fence.read(line), line.trim());
        if kind == Line::Mark || content.is_empty() {
            open = false;
        } else if open && kind == Line::Prose && !starts_block(content) {
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
        let text = "# Cranes\nThe crane lifts\n37 tonnes. It is old, e.g. built in 1950.\n\n* one item\n* another\n  wrapped\n\n| a | b |\n| 1 | x |\n| 1 | 2 |";
        assert_eq!(
            of(text),
            [
                "# Cranes",
                "The crane lifts\n37 tonnes.",
                "It is old, e.g. built in 1950.",
                "* one item",
                "* another\n  wrapped",
                "| a | b |",
                "| 1 | x |"
            ]
        );
    }

    fn opened(mark: &str) -> Fence {
        let mut fence = Fence::default();
        fence.read(mark);
        fence
    }

    #[test]
    fn numbers_of_lists_and_ends_of_lines_end_no_sentence() {
        assert_eq!(of("1. Open the lid.\n2. `x` is set. Wait."), ["1. Open the lid.", "2. `x` is set.", "Wait."]);
        assert_eq!(of("3) Done.\n\n37\n\n4."), ["3) Done."]);
        assert_eq!(
            of("The crane\r\nlifts 37\r\ntonnes.  \"a\" is\r\none."),
            ["The crane\r\nlifts 37\r\ntonnes.", "\"a\" is\r\none."]
        );
        assert_eq!(of("Two kinds.\n`none`: nothing."), ["Two kinds.", "`none`: nothing."]);
    }

    #[test]
    fn code_stays_line_by_line_and_rules_are_no_sentences() {
        assert_eq!(of("```\nlet a = 1;\nlet b = 2;\n```\n---\n\n***"), ["let a = 1;", "let b = 2;"]);
        assert_eq!(
            of("Two kinds. `none`: nothing, e.g. `x`. **Bold** one."),
            ["Two kinds.", "`none`: nothing, e.g. `x`.", "**Bold** one."]
        );
        assert_eq!(sentences_from("# a\n```\n# B", opened("```")).len(), 2);
        assert!(of("").is_empty());
        assert_eq!(of("Grüße aus Köln! Wirklich?"), ["Grüße aus Köln!", "Wirklich?"]);
    }
}
