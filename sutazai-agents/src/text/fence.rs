//! Fenced code in Markdown: lines that are neither prose nor headings.

use serde::{Deserialize, Serialize};

/// Whether a text, read line by line, is within fenced code, and which mark ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fence(Option<(char, usize)>);

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Neither of the others.
    Prose,
    /// Begins or ends code.
    Mark,
    /// Between two marks.
    Code,
}

impl Fence {
    /// Reads the next line.
    pub(crate) fn read(&mut self, line: &str) -> Line {
        let line = line.trim();
        let mark = ['`', '~'].into_iter().find(|mark| line.starts_with(*mark)).map(|mark| {
            let rest = line.trim_start_matches(mark);
            (mark, line.len() - rest.len(), rest.is_empty())
        });
        match (self.0, mark) {
            // A run of marks with another one in its line is code within prose.
            (None, Some((mark, count, _))) if count >= 3 && !line.trim_start_matches(mark).contains('`') => {
                self.0 = Some((mark, count))
            }
            (Some((open, least)), Some((mark, count, true))) if mark == open && count >= least => self.0 = None,
            (Some(_), _) => return Line::Code,
            (None, _) => return Line::Prose,
        }
        Line::Mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_ends_with_its_own_mark() {
        let mut fence = Fence::default();
        let lines = ["a", "```rust", "# b", "~~~", "``` c", "````", "```d```", "~~~", "```", "~~~"];
        use Line::{Code as C, Mark as M, Prose as P};
        assert_eq!(lines.map(|line| fence.read(line)), [P, M, C, C, C, M, P, M, C, M]);
    }
}
