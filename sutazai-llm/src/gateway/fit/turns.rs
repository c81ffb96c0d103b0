//! What of a conversation belongs together, and what of it may be left out.

use sutazai_core::model::{Message, Role};

/// The numbers of the messages that may be left out, in parts that are left out whole, the oldest first.
///
/// A part is a turn: a user message with all that follows up to the next one. Of the last turn it is what one answer of the model's led to: its tool
/// calls and their results. System messages belong to none, the last user message is never left out, nor is the part that the conversation ends with.
pub(super) fn parts(messages: &[Message]) -> Vec<Vec<usize>> {
    let question = messages.iter().rposition(|message| message.role == Role::User);
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut part_of: Vec<Option<usize>> = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let current = parts.len().checked_sub(1);
        let in_last_turn = question.is_none_or(|question| at > question);
        let part = match message.role {
            Role::System => {
                part_of.push(None);
                continue;
            }
            Role::User => None,
            Role::Assistant => current.filter(|_| !in_last_turn),
            Role::Tool => called(messages, at).and_then(|call| *part_of.get(call)?).or(current),
        };
        let part = part.unwrap_or(parts.len());
        if part == parts.len() {
            parts.push(Vec::new());
        }
        if let Some(part) = parts.get_mut(part) {
            part.push(at);
        }
        part_of.push(Some(part));
    }
    let stays = |at: Option<usize>| at.and_then(|at| *part_of.get(at)?);
    let staying = [stays(question), part_of.iter().rev().flatten().next().copied()];
    let parts = parts.into_iter().enumerate().filter(|(number, _)| !staying.contains(&Some(*number)));
    parts.map(|(_, part)| part).collect()
}

/// The number of the message whose call message number `at` answers: ids are used again, so it is the last one before.
fn called(messages: &[Message], at: usize) -> Option<usize> {
    let id = messages.get(at)?.tool_call_id.as_ref()?;
    messages.get(..at)?.iter().rposition(|message| message.tool_calls.iter().any(|call| call.id == *id))
}

/// The messages that stay and those that are left out, whose `numbers` are given in order.
pub(super) fn split(messages: Vec<Message>, numbers: &[usize]) -> (Vec<Message>, Vec<Message>) {
    let numbered = messages.into_iter().enumerate();
    let (out, kept): (Vec<_>, Vec<_>) = numbered.partition(|(at, _)| numbers.binary_search(at).is_ok());
    let plain = |numbered: Vec<(usize, Message)>| numbered.into_iter().map(|(_, message)| message).collect();
    (plain(kept), plain(out))
}

#[cfg(test)]
mod tests {
    use sutazai_core::model::ToolCall;

    use super::*;

    /// A conversation in short: `s`, `u`, `a`; `c1` calls tool 1 and `r1` is its result, `r` that of who knows what.
    fn conversation(short: &str) -> Vec<Message> {
        let message = |word: &str| {
            let (kind, id) = word.split_at(1);
            match kind {
                "s" => Message::system(word),
                "u" => Message::user(word),
                "r" => {
                    Message { tool_call_id: (!id.is_empty()).then(|| id.to_owned()), ..Message::new(Role::Tool, word) }
                }
                _ => {
                    let call =
                        |id: char| ToolCall { id: id.into(), name: "look".into(), arguments: serde_json::Value::Null };
                    Message { tool_calls: id.chars().map(call).collect(), ..Message::new(Role::Assistant, word) }
                }
            }
        };
        short.split_whitespace().map(message).collect()
    }

    fn parts_of(short: &str) -> Vec<Vec<usize>> {
        parts(&conversation(short))
    }

    #[test]
    fn turns_go_whole() {
        assert_eq!(parts_of("s u a u c1 r1 a u"), [vec![1, 2], vec![3, 4, 5, 6]]);
        assert_eq!(parts_of("a u s a u"), [vec![0], vec![1, 3]], "a greeting goes first, and system messages stay");
        assert!(parts_of("").is_empty());
        assert!(parts_of("s u").is_empty());
        assert!(parts_of("s").is_empty());
    }

    #[test]
    fn rounds_of_the_last_turn_go_whole_and_the_last_one_stays() {
        assert_eq!(parts_of("u a u c12 r2 r1 c3 r3 c4 r4"), [vec![0, 1], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(parts_of("u c1 r c2 r"), [vec![1, 2]], "a result without an id is that of the call before");
        assert!(parts_of("u c1 r1").is_empty());
        assert_eq!(parts_of("c1 r1 c2 r2"), [vec![0, 1]], "without a user there is one turn");
    }

    #[test]
    fn a_result_stays_with_its_call_wherever_it_stands() {
        assert_eq!(parts_of("u c1 u r1 a u"), [vec![0, 1, 3], vec![2, 4]]);
        assert_eq!(parts_of("u c1 r1 u c1 r1 u"), [vec![0, 1, 2], vec![3, 4, 5]], "ids are used again");
        assert!(parts_of("u c1 u r1").is_empty(), "the last message's part stays, however old");
    }

    #[test]
    fn order_is_kept() {
        let (kept, out) = split(conversation("s u a u"), &[1, 2]);
        let said = |messages: Vec<Message>| messages.into_iter().map(|message| message.content).collect::<Vec<_>>();
        assert_eq!(
            (said(kept), said(out)),
            (vec!["s".to_owned(), "u".to_owned()], vec!["u".to_owned(), "a".to_owned()])
        );
    }
}
