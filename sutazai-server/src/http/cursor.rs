//! Cursors of lists: opaque to clients, so that what they hold may change.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sutazai_core::task::TaskId;

use super::problem::Problem;

const TASK: u8 = 1;
const NAME: u8 = 2;
const NUMBER: u8 = 3;

/// After this task.
pub(super) fn of_task(id: TaskId) -> String {
    write(TASK, id.as_bytes())
}

/// After this name.
pub(super) fn of_name(name: &str) -> String {
    write(NAME, name.as_bytes())
}

/// From this number on.
pub(super) fn of_number(number: u64) -> String {
    write(NUMBER, &number.to_be_bytes())
}

/// Reads a cursor of [`of_number`].
pub(super) fn number(text: &str) -> Result<u64, Problem> {
    let bytes = read(NUMBER, text).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_be_bytes).ok_or_else(refused)
}

/// Reads a cursor of [`of_task`].
pub(super) fn task(text: &str) -> Result<TaskId, Problem> {
    let bytes = read(TASK, text).and_then(|bytes| bytes.try_into().ok());
    bytes.map(TaskId::from_bytes).ok_or_else(refused)
}

/// Reads a cursor of [`of_name`].
pub(super) fn name(text: &str) -> Result<String, Problem> {
    read(NAME, text).and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(refused)
}

fn write(kind: u8, bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&[kind], bytes].concat())
}

fn read(kind: u8, text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (&first, rest) = bytes.split_first()?;
    (first == kind).then(|| rest.to_vec())
}

fn refused() -> Problem {
    Problem::field("/cursor", "not a cursor of this list; take `next_cursor` of the page before")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_was_written_and_nothing_else_does() {
        let id = TaskId::from_bytes([7; 16]);
        assert_eq!(task(&of_task(id)).unwrap(), id);
        assert_eq!(name(&of_name("dev.echo")).unwrap(), "dev.echo");
        assert_eq!(number(&of_number(u64::MAX)).unwrap(), u64::MAX);
        for bad in ["", "\0garbage", "AQ", &of_name("dev.echo"), "%00"] {
            assert!(task(bad).is_err(), "{bad:?}");
        }
        assert!(name(&of_task(id)).is_err() && number(&of_task(id)).is_err());
    }
}
