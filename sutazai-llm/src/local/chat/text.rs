//! Bytes of tokens to pieces of text: whole characters, and nothing of a stop sequence.

/// Turns the bytes of an answer's tokens into text that may be shown.
pub(crate) struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// Text that may turn out to begin a stop sequence.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before any of `stops`; empty ones are ignored.
    pub(crate) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, bytes: Vec::new(), held: String::new(), stopped: false }
    }

    /// Whether a stop sequence has come.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token's bytes; returns the text that is certain now.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.bytes.extend_from_slice(bytes);
        self.take_characters();
        if let Some(end) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let certain = self.held.len() - self.maybe_stop();
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, once nothing more will come. A character that never became whole is left out.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from bytes to text; bytes that can never be one become U+FFFD.
    fn take_characters(&mut self) {
        let mut rest = self.bytes.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    self.held.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.bytes = rest.to_vec();
    }

    /// The length of the longest end of the held text with which a stop sequence begins.
    fn maybe_stop(&self) -> usize {
        let longest = |stop: &String| {
            (1..stop.len()).rev().find(|&length| stop.is_char_boundary(length) && self.held.ends_with(&stop[..length]))
        };
        self.stops.iter().filter_map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], tokens: &[&[u8]]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut pieces: Vec<String> = tokens.iter().map(|token| stream.push(token)).collect();
        pieces.push(stream.finish());
        pieces.retain(|piece| !piece.is_empty());
        (pieces, stream.stopped())
    }

    #[test]
    fn characters_come_whole() {
        assert_eq!(
            run(&[], &[b"caf", b"\xc3", b"\xa9 \xf0\x9f", b"\x99\x82"]),
            (vec!["caf".into(), "é ".into(), "🙂".into()], false)
        );
        assert_eq!(run(&[], &[b"a\xff\xfeb", b"\xe2\x82"]).0, ["a\u{fffd}\u{fffd}b"]);
    }

    #[test]
    fn a_stop_sequence_is_never_shown_even_in_pieces() {
        assert_eq!(run(&["END"], &[b"text E", b"N", b"D more"]), (vec!["text ".into()], true));
        assert_eq!(run(&["END"], &[b"text E", b"N", b"X"]), (vec!["text ".into(), "ENX".into()], false));
        assert_eq!(run(&["END"], &[b"text EN"]), (vec!["text ".into(), "EN".into()], false));
        assert_eq!(run(&["aab", ""], &[b"aaab"]), (vec!["a".into()], true));
        assert_eq!(run(&["é!"], &[b"x\xc3", b"\xa9", b"!"]), (vec!["x".into()], true));
    }

    #[test]
    fn the_first_of_several_stops_counts() {
        assert_eq!(run(&["three", "two"], &[b"one two three"]), (vec!["one ".into()], true));
    }
}
