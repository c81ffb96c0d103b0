//! Loops: a model that makes the same calls, has the same results, and makes them again.

use serde_json::Value;
use sutazai_core::model::{Image, Message, Role, ToolCall};

use super::calls::object;

/// Rounds that may take turns in a loop: one that calls A, then B, then A again is found as well.
const LONGEST: usize = 4;

/// A loop that an answer would go on with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loop {
    /// The tools that it calls.
    pub(super) tools: Vec<String>,
    /// How often these calls were made already with these results.
    pub(super) times: usize,
}

/// Whether an answer that makes these calls goes on with a loop.
///
/// It does if the conversation ends with `turns` times the same: a round of the same calls that had the same results, or several rounds that took turns.
/// Calls are the same whatever their ids, their order and the order of fields in their arguments. What the user said is the start of something new.
/// With 0 turns nothing is a loop.
pub(super) fn find(conversation: &[Message], calls: &[ToolCall], turns: usize) -> Option<Loop> {
    if turns == 0 || calls.is_empty() {
        return None;
    }
    let (rounds, next) = (rounds(conversation), Round::of(calls));
    for length in 1..=LONGEST {
        let start = rounds.len().checked_sub(length.saturating_mul(turns))?;
        let (first, later) = (rounds.get(start..)?, rounds.get(start + length..)?);
        let Some(same) = first.first().filter(|round| alike(&round.calls, &next.calls)) else { continue };
        if first.iter().zip(later).all(|(before, after)| before == after) {
            let times = rounds.iter().filter(|round| *round == same).count();
            let mut tools: Vec<_> = calls.iter().map(|call| call.name.clone()).collect();
            tools.sort();
            tools.dedup();
            return Some(Loop { tools, times });
        }
    }
    None
}

/// Calls that were made together, and what came of them.
struct Round<'a> {
    calls: Vec<(&'a str, Value)>,
    results: Vec<(&'a str, &'a [Image])>,
}

impl<'a> Round<'a> {
    fn of(calls: &'a [ToolCall]) -> Self {
        let call = |call: &'a ToolCall| {
            let arguments = object(&call.arguments).unwrap_or_else(|_| call.arguments.clone());
            (call.name.as_str(), arguments)
        };
        Self { calls: calls.iter().map(call).collect(), results: Vec::new() }
    }
}

impl PartialEq for Round<'_> {
    fn eq(&self, other: &Self) -> bool {
        alike(&self.calls, &other.calls) && alike(&self.results, &other.results)
    }
}

/// The rounds since the user spoke last.
fn rounds(conversation: &[Message]) -> Vec<Round<'_>> {
    let mut rounds = Vec::new();
    for message in conversation {
        match message.role {
            Role::User => rounds.clear(),
            Role::Assistant if !message.tool_calls.is_empty() => rounds.push(Round::of(&message.tool_calls)),
            Role::Tool => {
                if let Some(round) = rounds.last_mut() {
                    round.results.push((message.content.as_str(), message.images.as_slice()));
                }
            }
            Role::Assistant | Role::System => {}
        }
    }
    rounds
}

/// Whether both have the same in them, in whatever order.
fn alike<T: PartialEq>(one: &[T], other: &[T]) -> bool {
    let count = |all: &[T], item: &T| all.iter().filter(|found| *found == item).count();
    one.len() == other.len() && (one == other || one.iter().all(|item| count(one, item) == count(other, item)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { id: String::new(), name: name.into(), arguments }
    }

    fn look() -> Vec<ToolCall> {
        vec![call("look", json!({"at": "sky", "far": true}))]
    }

    fn round(calls: Vec<ToolCall>, results: &[&str]) -> Vec<Message> {
        let asks = Message { tool_calls: calls, ..Message::new(Role::Assistant, "") };
        [asks].into_iter().chain(results.iter().map(|result| Message::new(Role::Tool, *result))).collect()
    }

    /// A question, and then these rounds.
    fn talk(rounds: &[Vec<Message>]) -> Vec<Message> {
        [vec![Message::user("What is there?")], rounds.concat()].concat()
    }

    fn times(rounds: &[Vec<Message>], calls: &[ToolCall]) -> Option<usize> {
        find(&talk(rounds), calls, 3).map(|found| found.times)
    }

    #[test]
    fn the_same_again_and_again_is_a_loop() {
        let same = || round(look(), &["grey"]);
        assert_eq!(times(&[same(), same()], &look()), None);
        assert_eq!(times(&[same(), same(), same()], &look()), Some(3));
        assert_eq!(times(&[same(), same(), same(), same()], &look()), Some(4));
        let found = find(&talk(&[same(), same(), same()]), &look(), 3).unwrap();
        assert_eq!(found.tools, ["look"]);
        assert_eq!(find(&talk(&[same(), same(), same()]), &look(), 0), None);
        assert_eq!(find(&talk(&[same()]), &look(), 1).unwrap().times, 1);
        assert_eq!(find(&talk(&[]), &look(), 1), None);
        assert_eq!(find(&talk(&[same()]), &look(), usize::MAX), None);
    }

    #[test]
    fn how_it_is_written_does_not_matter() {
        let other = vec![ToolCall { id: "x".into(), ..call("look", json!("{\"far\": true, \"at\": \"sky\"}")) }];
        let rounds = [look(), other.clone(), look()].map(|calls| round(calls, &["grey"]));
        assert_eq!(times(&rounds, &other), Some(3));
        let both = || vec![look().remove(0), call("clock", json!({}))];
        let turned = || both().into_iter().rev().collect::<Vec<_>>();
        let rounds = [round(both(), &["grey", "7"]), round(turned(), &["7", "grey"]), round(both(), &["grey", "7"])];
        assert_eq!(times(&rounds, &turned()), Some(3));
        assert_eq!(times(&rounds, &look()), None, "that is something else");
        assert_eq!(find(&talk(&rounds), &both(), 3).unwrap().tools, ["clock", "look"]);
    }

    #[test]
    fn whatever_changes_is_no_loop() {
        let same = || round(look(), &["grey"]);
        assert_eq!(times(&[same(), same(), round(look(), &["blue"])], &look()), None, "it sees something else");
        assert_eq!(times(&[round(look(), &["blue"]), same(), same(), same()], &look()), Some(3));
        let elsewhere = [call("look", json!({"at": "sea", "far": true}))];
        assert_eq!(times(&[same(), same(), same()], &elsewhere), None, "it looks elsewhere");
        let mut asked_again = talk(&[same(), same(), same()]);
        asked_again.push(Message::user("And now?"));
        assert_eq!(find(&asked_again, &look(), 3), None);
        let mut pictures = [same(), same(), same()];
        pictures[1][1].images.push(Image { media_type: "image/png".into(), data: String::new() });
        assert_eq!(times(&pictures, &look()), None, "a picture is a result");
    }

    #[test]
    fn rounds_that_take_turns_are_a_loop() {
        let (a, b) = (|| round(look(), &["grey"]), || round(vec![call("clock", json!({}))], &["7"]));
        assert_eq!(times(&[a(), b(), a(), b(), a()], &look()), None);
        assert_eq!(times(&[a(), b(), a(), b(), a(), b()], &look()), Some(3));
        assert_eq!(times(&[a(), b(), a(), b(), a(), b()], &[call("clock", json!({}))]), None, "it is not its turn");
        // Each edit is another one, and so what comes between them is no loop, whatever it finds.
        let edit = |line: u32| round(vec![call("edit", json!({"line": line}))], &["done"]);
        let test = || round(vec![call("test", json!({}))], &["failed"]);
        let work = [test(), edit(1), test(), edit(2), test(), edit(3)];
        assert_eq!(times(&work, &[call("test", json!({}))]), None);
    }
}
