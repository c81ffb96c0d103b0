//! Bodies of one JSON document a line, without IO: how Ollama sends everything that takes time.

use std::collections::VecDeque;

use serde::de::IgnoredAny;
use sutazai_core::{Error, Result};

use super::refusal::unreadable;
use crate::http::Decode;

/// Makes of the lines of a body what they say.
pub(super) trait ReadLine: Send + 'static {
    /// What they say.
    type Item: Send + 'static;

    /// Takes in a line and adds to `out` what it says. Whether another may follow.
    fn read(&mut self, line: &[u8], out: &mut VecDeque<Self::Item>) -> Result<bool>;

    /// What it means that no line follows although one might.
    fn broke_off(&self) -> Error;

    /// The same error, with what was being done.
    fn explained(&self, error: Error) -> Error;
}

/// A body, read by `R`.
#[derive(Debug)]
pub(super) struct Ndjson<R> {
    lines: Lines,
    reader: R,
}

impl<R> Ndjson<R> {
    /// A body of which nothing has come yet.
    pub(super) fn new(reader: R) -> Self {
        Self { lines: Lines::default(), reader }
    }
}

impl<R: ReadLine> Decode for Ndjson<R> {
    type Item = R::Item;

    fn push(&mut self, bytes: &[u8], out: &mut VecDeque<R::Item>) -> Result<bool> {
        let read = self.take(bytes, out);
        read.map_err(|error| self.reader.explained(error))
    }

    fn end(&mut self, out: &mut VecDeque<R::Item>) -> Result<()> {
        let read = self.close(out);
        read.map_err(|error| self.reader.explained(error))
    }
}

impl<R: ReadLine> Ndjson<R> {
    fn take(&mut self, bytes: &[u8], out: &mut VecDeque<R::Item>) -> Result<bool> {
        let mut whole = Vec::new();
        let pushed = self.lines.push(bytes, &mut whole);
        for line in whole {
            if !self.reader.read(&line, out)? {
                return Ok(false);
            }
        }
        pushed.map(|()| true)
    }

    fn close(&mut self, out: &mut VecDeque<R::Item>) -> Result<()> {
        // Half a line says nothing, and neither does half a character.
        let is_whole = |line: &Vec<u8>| serde_json::from_slice::<IgnoredAny>(line).is_ok();
        if let Some(line) = self.lines.rest().filter(is_whole)
            && !self.reader.read(&line, out)?
        {
            return Ok(());
        }
        Err(self.reader.broke_off())
    }
}

/// Splits bytes into lines. Characters may be cut anywhere: a line is handed out only when it is whole.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// No line of Ollama's is longer; one that is would fill the memory.
    const LONGEST: usize = 16 << 20;

    /// Takes bytes and adds to `whole` the lines that they complete, without empty ones and before a failure too. Fails for a line that is too long.
    fn push(&mut self, bytes: &[u8], whole: &mut Vec<Vec<u8>>) -> Result<()> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.pending.len() + piece.len() > Self::LONGEST {
                return Err(unreadable());
            }
            self.pending.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                whole.extend(self.rest());
            }
        }
        Ok(())
    }

    /// What stands after the last line break.
    fn rest(&mut self) -> Option<Vec<u8>> {
        let rest = std::mem::take(&mut self.pending).trim_ascii().to_vec();
        (!rest.is_empty()).then_some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_they_are_cut() {
        let text = "{\"a\":\"Grüße\"}\n\n  {\"b\":\"東京 🦀\"}\r\n{}\n\r\n{\"c\":1}";
        let expected =
            ["{\"a\":\"Grüße\"}", "{\"b\":\"東京 🦀\"}", "{}", "{\"c\":1}"].map(|line| line.as_bytes().to_vec());
        for size in [1, 2, 3, 7, 100, text.len()] {
            let (mut lines, mut whole) = (Lines::default(), Vec::new());
            text.as_bytes().chunks(size).for_each(|piece| lines.push(piece, &mut whole).unwrap());
            whole.extend(lines.rest());
            assert_eq!(whole, expected, "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut lines, mut whole) = (Lines::default(), Vec::new());
        lines.push(b"before\n", &mut whole).unwrap();
        assert!((0..20).any(|_| lines.push(&[b'x'; 1 << 20], &mut whole).is_err()));
        assert_eq!(whole, [b"before"]);
    }
}
