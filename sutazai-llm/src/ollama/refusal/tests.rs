//! The words of Ollama, and what each means.

use serde_json::json;

use super::*;

fn refusal(status: u16, body: impl Into<Vec<u8>>) -> Refusal {
    Refusal { status, wait: None, body: body.into() }
}

/// Words of Ollama and of what it runs, with the status they come with.
#[test]
fn refusals_are_told_apart() {
    let none = (ErrorKind::NotFound, "model_not_found");
    let full = (ErrorKind::Full, "queue_full");
    let memory = (ErrorKind::Failed, "out_of_memory");
    let beyond = (ErrorKind::Invalid, "context_length_exceeded");
    let away = (ErrorKind::Unavailable, "model_unavailable");
    let invalid = (ErrorKind::Invalid, "invalid");
    for (status, words, expected) in [
        (404, "model 'tiny' not found", none),
        (500, "model \"tiny\" not found, try pulling it first", none),
        (500, "pull model manifest: file does not exist", none),
        (503, "server busy, please try again.  maximum pending requests exceeded", full),
        (500, "Server busy, please try again", full),
        (500, "unexpected server status: llm server loading model", full),
        (429, "slow down", full),
        (500, "model requires more system memory (9.1 GiB) than is available (2.0 GiB)", memory),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", memory),
        (500, "llama-server process has terminated: exit status 1: unable to allocate CUDA0 buffer", memory),
        (400, "the input length exceeds the context length", beyond),
        (400, "the prompt is longer than the context length currently available to the model; shorten it", beyond),
        (400, "input exceeds maximum context length and cannot be truncated further", beyond),
        (500, "model runner has unexpectedly stopped, this may be due to resource limitations", away),
        (500, "llama runner process has terminated: exit status 2", away),
        (500, "llama-server binary not found", away),
        (502, "bad gateway", away),
        (504, "gateway timeout", (ErrorKind::Timeout, "model_timeout")),
        (501, "this model does not support embeddings", (ErrorKind::Unsupported, "unsupported")),
        (500, "invalid JSON schema in format", (ErrorKind::Invalid, "schema_unsupported")),
        (500, "write /models/blobs/x: no space left on device", (ErrorKind::Full, "full")),
        (401, "unauthorized", (ErrorKind::Invalid, "model_unauthorised")),
        (403, "ollama cloud is disabled", (ErrorKind::Invalid, "model_unauthorised")),
        (400, "\"tiny\" does not support thinking", invalid),
        (400, "invalid options: num_ctx", invalid),
        (405, "not allowed", (ErrorKind::Unsupported, "model_unavailable")),
    ] {
        let error = refused(&refusal(status, json!({"error": words}).to_string()), Some("tiny"));
        assert_eq!((error.kind(), error.code()), expected, "{status} {words}");
        assert!(error.report().ends_with(&format!(": {words}")), "{}", error.report());
        if expected == full {
            assert_eq!(error.delay(), Some(Duration::from_secs(1)));
        }
        // The same server asked again would load the same model into the same memory.
        assert_eq!(
            error.is_temporary(),
            ["full", "queue_full", "model_timeout"].contains(&error.code()) || expected == away
        );
    }
}

#[test]
fn what_is_no_ollama_is_told_by_its_status() {
    for (status, kind) in [
        (404, ErrorKind::Unsupported),
        (503, ErrorKind::Full),
        (500, ErrorKind::Unavailable),
        (400, ErrorKind::Invalid),
    ] {
        for body in ["", "<html>404 page not found</html>", "{\"error\":null}", "[1]"] {
            assert_eq!(refused(&refusal(status, body), Some("tiny")).kind(), kind, "{status} {body}");
        }
    }
    let waiting = Refusal { wait: Some(Duration::from_secs(7)), ..refusal(500, "") };
    assert_eq!(refused(&waiting, None).delay(), Some(Duration::from_secs(7)));
}

#[test]
fn only_the_beginning_of_what_is_said_is_passed_on() {
    let long = format!("{} cudaMalloc failed", "x".repeat(5000));
    let error = broken(&json!(long), "tiny");
    assert_eq!(error.code(), "out_of_memory");
    assert!(error.report().len() < 1000);
}
