//! Server-sent events, as far as answers use them: the data of each event.
//!
//! By hand: the crate that most use, `eventsource-stream`, has had no release since 2022, keeps an event without end in memory for ever, and drops a last
//! event that is not ended.

use std::mem;

use sutazai_core::Result;

use super::refusal::unreadable;

/// No event of an answer is longer; one that is would fill the memory.
const LONGEST: usize = 16 << 20;

/// Splits bytes into events. They may be cut anywhere, within a character too: an event is handed out only when it is whole.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The line that is being read.
    line: Vec<u8>,
    /// The data of the event that is being read.
    data: Option<Vec<u8>>,
    /// The last byte was a carriage return: a line feed after it ends no other line.
    after_return: bool,
}

impl Events {
    /// Takes bytes and adds to `whole` the data of the events that they complete, those before a failure too. Comments, and events without data,
    /// are left out. Fails for an event that is too long.
    pub(super) fn push(&mut self, bytes: &[u8], whole: &mut Vec<Vec<u8>>) -> Result<()> {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\r' | b'\n')) {
            let after_return = mem::take(&mut self.after_return);
            if after_return && piece == b"\n" {
                continue;
            }
            match piece.split_last() {
                Some((&end, line)) if matches!(end, b'\r' | b'\n') => {
                    self.after_return = end == b'\r';
                    self.grow(line)?;
                    whole.extend(self.end_of_line());
                }
                _ => self.grow(piece)?,
            }
        }
        Ok(())
    }

    /// The data of an event that was not ended, since some servers do not end their last.
    pub(super) fn rest(&mut self) -> Option<Vec<u8>> {
        self.end_of_line().or_else(|| self.data.take())
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<()> {
        let data = self.data.as_ref().map_or(0, Vec::len);
        if data + self.line.len() + bytes.len() > LONGEST {
            return Err(unreadable());
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Takes in the line; if it is empty, the event is whole.
    fn end_of_line(&mut self) -> Option<Vec<u8>> {
        let line = mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        let value = match line.strip_prefix(b"data")? {
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            nothing @ [] => nothing,
            // The name of another field begins so.
            _ => return None,
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str, size: usize) -> Vec<String> {
        let (mut events, mut whole) = (Events::default(), Vec::new());
        text.as_bytes().chunks(size).for_each(|piece| events.push(piece, &mut whole).unwrap());
        whole.extend(events.rest());
        whole.into_iter().map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_are_whole_wherever_they_are_cut() {
        let text = ": ping\n\nevent: message\nid: 7\ndata: Grüße\nretry: 10\n\ndata:{\ndata:  \"東京\": \"🦀\"\ndata\ndata: }\n\n\
                    database: none\ndata\n\n: data: no\n\n\n\ndata: the last";
        let expected = ["Grüße", "{\n \"東京\": \"🦀\"\n\n}", "", "the last"];
        for ending in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', ending);
            for size in [1, 2, 3, 5, 64, text.len()] {
                assert_eq!(events(&text, size), expected, "{ending:?} in pieces of {size}");
            }
        }
        assert!(events(": nothing but a comment\r\n\r\n", 3).is_empty());
    }

    #[test]
    fn an_event_without_end_is_refused() {
        for line in [vec![b'x'; 1 << 20], [b"data: ".as_slice(), &[b'x'; 1 << 20], b"\n"].concat()] {
            let (mut events, mut whole) = (Events::default(), Vec::new());
            events.push(b"data: before\n\n", &mut whole).unwrap();
            assert!((0..20).any(|_| events.push(&line, &mut whole).is_err()));
            assert_eq!(whole, [b"before"]);
        }
    }
}
