//! How fast the embedded chat model reads and writes, beside llama.cpp on the same file: `cargo bench --bench local_model -- [--json] [CASE...]`.
//!
//! A prompt of 112 tokens, 128 tokens of greedy answer, 2 threads; medians. Without the weights nothing is measured.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use sutazai_benches::{
    figures::Figure,
    notes::{note, peer},
    stats::median,
};
use sutazai_core::model::{ChatModelExt, ChatReply, ChatRequest, Sampling};
use sutazai_llm::{
    local::{LocalChat, LocalChatConfig, Tokenizer},
    registry::{ModelStore, Role},
};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "local_model";
const MODEL: &str = "smollm2:135m";
const THREADS: usize = 2;
const PROMPT: usize = 112;
const ANSWER: u32 = 128;
const RUNS: usize = 7;

/// With the words that the model's template puts around it, [`PROMPT`] tokens.
const QUESTION: &str = "Write a long story about an old lighthouse keeper who finds a letter in a bottle on the beach. Describe the sea, the \
                        weather, the lighthouse and the village behind it. Tell what stands in the letter, who wrote it, how long it was under \
                        way, and what the keeper does when he has read it. Begin with the morning on which he finds it. Take your time and leave nothing out.";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let path = match ModelStore::from_env()?.installed(MODEL).await {
        Ok(model) => model.file(Role::Weights)?.0,
        Err(error) => {
            note(BENCH, format_args!("left out: {}", error.report()));
            return Ok(());
        }
    };
    let (mut prompt, mut generate) = (Vec::new(), Vec::new());
    let model = LocalChat::new(LocalChatConfig { threads: THREADS, ..LocalChatConfig::new(MODEL, &path) });
    // The first run loads the model and warms up.
    for run in 0..=RUNS {
        let reply = model.complete(request()).await?;
        let (read, written) = rates(&reply)?;
        if run > 0 {
            prompt.push(read);
            generate.push(written);
        }
    }
    drop(model);
    let peer = peer(BENCH, "llama.cpp", llama_cpp(&path));
    for (case, rates) in [("prompt", prompt), ("generate", generate)] {
        if wanted.is_empty() || wanted.iter().any(|word| word == case) {
            Figure::new(BENCH, case, median(rates), "tokens/s")
                .against("llama_cpp", peer.as_ref().and_then(|peer| peer[case].as_f64()))
                .print();
        }
    }
    Ok(())
}

fn request() -> ChatRequest {
    ChatRequest { sampling: Sampling::GREEDY, max_tokens: Some(ANSWER), ..ChatRequest::ask(QUESTION) }
}

/// Tokens per second of prompt and of answer.
fn rates(reply: &ChatReply) -> Fallible<(f64, f64)> {
    let finish = reply.finish;
    let used = (usize::try_from(finish.usage.prompt_tokens)?, finish.usage.completion_tokens);
    if used != (PROMPT, ANSWER) {
        return Err(
            format!("{used:?} tokens instead of {PROMPT} and {ANSWER}: other weights, or another template").into()
        );
    }
    let rate = |tokens: u32, millis: Option<u64>| -> Fallible<f64> {
        let millis = u32::try_from(millis.ok_or("no timings")?)?;
        Ok(f64::from(tokens) * 1000.0 / f64::from(millis.max(1)))
    };
    Ok((rate(used.0.try_into()?, finish.prompt_ms)?, rate(used.1, finish.completion_ms)?))
}

/// What llama.cpp reaches on as many tokens, where `benches/peers/llama_cpp/install` has put it.
fn llama_cpp(path: &Path) -> Fallible<Value> {
    let program: PathBuf = [env!("CARGO_MANIFEST_DIR"), "peers/llama_cpp/bin/llama-cpp-bench"].iter().collect();
    if !program.is_file() {
        return Err("it is not installed; benches/peers/llama_cpp/install does".into());
    }
    let tokens = Tokenizer::open(path)?.encode(QUESTION)?;
    let prompt: Vec<String> = tokens.iter().cycle().take(PROMPT).map(u32::to_string).collect();
    let [threads, answer, runs] = [THREADS.to_string(), ANSWER.to_string(), RUNS.to_string()];
    let output = Command::new(program).arg(path).args([threads, prompt.join(","), answer, runs]).output()?;
    let figures = serde_json::from_slice(&output.stdout);
    Ok(figures.map_err(|error| format!("llama.cpp failed ({error}): {}", String::from_utf8_lossy(&output.stderr)))?)
}
