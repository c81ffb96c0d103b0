//! What comes back, as it is read.

use sutazai_core::{ErrorKind, Result};

use super::*;
use crate::ollama::{answer::Answer, ndjson::Ndjson};

/// What an answer says that comes in pieces of this size, and how it ends.
fn read_in_pieces(bytes: &[u8], size: usize) -> (Vec<ChatEvent>, Result<()>) {
    fake_wire::read_in_pieces(Ndjson::new(Answer::new("tiny")), bytes, size)
}

fn read(text: &str) -> (Vec<ChatEvent>, Result<()>) {
    read_in_pieces(text.as_bytes(), text.len().max(1))
}

#[test]
fn answers_are_read_so_wherever_they_are_cut() {
    let measured = Finish { prompt_ms: Some(325), completion_ms: Some(4709), ..finish(StopReason::Length, 26, 290) };
    let chat = vec![text("Grüße"), text(" 東京 🦀"), ChatEvent::Finish(measured)];
    let measured = Finish { prompt_ms: Some(65), completion_ms: Some(812), ..finish(StopReason::ToolCalls, 172, 24) };
    let tools = vec![
        call("call_0", "weather", json!({"city": "Bern", "days": 2})),
        call("given", "clock", json!({})),
        ChatEvent::Finish(measured),
    ];
    let thinking = vec![
        thought("The user"),
        thought(" greets. 🤔"),
        text("Hello!"),
        ChatEvent::Finish(finish(StopReason::Stop, 11, 9)),
    ];
    let measured = Finish { prompt_ms: Some(325), completion_ms: Some(470), ..finish(StopReason::Stop, 26, 8) };
    let generate = vec![thought("Hm."), text("Grüße"), text(" 東京 🦀"), ChatEvent::Finish(measured)];
    for (sent, expected) in [(CHAT, chat), (TOOLS, tools), (THINKING, thinking), (GENERATE, generate)] {
        // The last line need not end, and what comes after the end is nobody's.
        for sent in [sent.to_owned(), sent.replace('\n', "\r\n\n"), sent.trim().into(), format!("{sent}<html>\n")] {
            for size in [1, 2, 3, 7, 100, sent.len()] {
                let (events, end) = read_in_pieces(sent.as_bytes(), size);
                end.unwrap();
                assert_eq!(events, expected, "pieces of {size}");
            }
        }
    }
}

#[test]
fn what_a_server_leaves_out_is_made_up_for() {
    let bare = concat!(
        r#"{"message":{"tool_calls":[{"id":"","function":{"name":"clock"}},{"function":{"name":"now","arguments":null}}]}}"#,
        "\n",
        r#"{"done":true,"message":null,"new":{"field":1}}"#,
    );
    let (events, end) = read(bare);
    end.unwrap();
    let expected = [
        call("call_0", "clock", json!({})),
        call("call_1", "now", json!({})),
        ChatEvent::Finish(finish(StopReason::ToolCalls, 0, 0)),
    ];
    assert_eq!(events, expected);
}

#[test]
fn an_answer_that_does_not_end_well_is_an_error_after_what_it_said() {
    let said = "{\"message\":{\"content\":\"Grü\"},\"done\":false}\n";
    let unavailable = (ErrorKind::Unavailable, "model_unavailable");
    let died = "llama runner process no longer running: -1";
    for (rest, (kind, code), words) in [
        (String::new(), unavailable, "broke off"),
        ("{\"message\":{\"content\":\"ß".into(), unavailable, "broke off"),
        ("<html>\n".into(), unavailable, "cannot be read"),
        ("{}x\n".into(), unavailable, "cannot be read"),
        ("{\"done\":\"yes\"}\n".into(), unavailable, "cannot be read"),
        ("{\"error\":\"something\"}".into(), unavailable, "something"),
        (format!("{{\"error\":\"{died}\"}}\n"), unavailable, died),
        ("{\"error\":{\"message\":\"something\"}}\n".into(), unavailable, "something"),
        ("{\"error\":\"CUDA error: out of memory\"}\n".into(), (ErrorKind::Failed, "out_of_memory"), "CUDA"),
        (
            "{\"error\":\"context size has been exceeded\"}\n".into(),
            (ErrorKind::Invalid, "context_length_exceeded"),
            "exceeded",
        ),
    ] {
        let (events, end) = read(&format!("{said}{rest}"));
        let error = end.unwrap_err();
        assert_eq!(events, [text("Grü")], "{rest}");
        assert_eq!((error.kind(), error.code()), (kind, code), "{rest}");
        assert!(error.report().starts_with("ask tiny: ") && error.report().contains(words), "{}", error.report());
    }

    // Half a character at the end.
    let whole = format!("{said}{{\"message\":{{\"content\":\"ß");
    let (events, end) = read_in_pieces(&whole.as_bytes()[..whole.len() - 1], 10);
    assert_eq!((events, end.unwrap_err().code()), (vec![text("Grü")], "model_unavailable"));
}
