//! How fast the embedded chat model reads and writes, beside llama.cpp on the same file: `cargo bench --bench local_model -- [--json] [CASE...]`.
//!
//! A prompt of 112 tokens, 128 tokens of greedy answer, 2 threads; medians. Without the weights nothing is measured.

use std::{
    error::Error,
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use candle_core::{
    Device,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use serde_json::Value;
use sutazai_benches::{
    cases::wanted,
    disk,
    figures::Figure,
    memory::resident,
    notes::{note, peer},
    stats::median,
};
use sutazai_core::model::{Caller, ChatModelExt, ChatReply, ChatRequest, Message, Sampling};
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
/// Conversations at a time.
const SESSIONS: usize = 4;

/// With the words that the model's template puts around it, [`PROMPT`] tokens.
const QUESTION: &str = "Write a long story about an old lighthouse keeper who finds a letter in a bottle on the beach. Describe the sea, the \
                        weather, the lighthouse and the village behind it. Tell what stands in the letter, who wrote it, how long it was under \
                        way, and what the keeper does when he has read it. Begin with the morning on which he finds it. Take your time and leave nothing out.";

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Fallible<()> {
    let path = match ModelStore::from_env()?.installed(MODEL).await {
        Ok(model) => model.file(Role::Weights)?.0,
        Err(error) => {
            note(BENCH, format_args!("left out: {}", error.report()));
            return Ok(());
        }
    };
    let before = resident("self")?;
    let shipped = load(&path);
    if wanted("sessions_4") || wanted("memory") {
        sessions(&shipped, before).await?;
    }
    if wanted("first_token") || wanted("first_token_prefix") {
        first_token(&shipped).await?;
    }
    if wanted("prompt_shipped") || wanted("generate_shipped") {
        speed(&shipped, &path, ["prompt_shipped", "generate_shipped"]).await?;
    }
    drop(shipped);
    if wanted("prompt") || wanted("generate") {
        let directory = disk::directory()?;
        let eight = directory.path().join("q8_0.gguf");
        in_eight_bits(&path, &eight)?;
        speed(&load(&eight), &eight, ["prompt", "generate"]).await?;
    }
    Ok(())
}

fn load(path: &Path) -> Arc<LocalChat> {
    let config = LocalChatConfig { threads: THREADS, sessions: SESSIONS, ..LocalChatConfig::new(MODEL, path) };
    Arc::new(LocalChat::new(config))
}

/// Tokens a second of prompt and answer, beside llama.cpp.
async fn speed(model: &LocalChat, path: &Path, cases: [&'static str; 2]) -> Fallible<()> {
    let (mut prompt, mut generate) = (Vec::new(), Vec::new());
    // The first run loads the model and warms up.
    for run in 0..=RUNS {
        let reply = model.complete(request(run)).await?;
        let (read, written) = rates(&reply)?;
        if run > 0 {
            prompt.push(read);
            generate.push(written);
        }
    }
    let peer = peer(BENCH, "llama.cpp", llama_cpp(path));
    for (case, rates, name) in [(cases[0], prompt, "prompt"), (cases[1], generate, "generate")] {
        if wanted(case) {
            Figure::new(BENCH, case, median(rates), "tokens/s")
                .against("llama_cpp", peer.as_ref().and_then(|peer| peer[name].as_f64()))
                .print();
        }
    }
    Ok(())
}

/// Tokens a second of four answers at a time, beside one alone, and the memory that the model and its sessions have taken by then.
async fn sessions(model: &Arc<LocalChat>, before: u64) -> Fallible<()> {
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for run in 0..=RUNS {
        let reply = model.complete(request(run)).await?;
        let answers: Vec<_> = (0..SESSIONS)
            .map(|session| {
                let model = Arc::clone(model);
                tokio::spawn(async move {
                    // What was read before is read again: the same session has had another tenant.
                    let reply = model.complete(request(1000 + run * SESSIONS + session)).await;
                    (reply, Instant::now())
                })
            })
            .collect();
        let began = Instant::now();
        let (mut ended, mut tokens) = (began, 0.0);
        for answer in answers {
            let (reply, end) = answer.await?;
            tokens += f64::from(reply?.finish.usage.completion_tokens);
            ended = ended.max(end);
        }
        if run > 0 {
            together.push(tokens / (ended - began).as_secs_f64());
            let finish = reply.finish;
            let millis = finish.prompt_ms.unwrap_or(0) + finish.completion_ms.unwrap_or(0);
            alone.push(f64::from(finish.usage.completion_tokens) * 1000.0 / f64::from(u32::try_from(millis.max(1))?));
        }
    }
    if wanted("sessions_4") {
        Figure::new(BENCH, "sessions_4", median(together), "tokens/s").against("alone", Some(median(alone))).print();
    }
    if wanted("memory") {
        #[allow(clippy::cast_precision_loss, reason = "memory is far below 2^53 bytes")]
        let grown = resident("self")?.saturating_sub(before) as f64 / 1e6;
        Figure::new(BENCH, "memory", grown, "MB").print();
    }
    Ok(())
}

/// Milliseconds to the first piece of an answer, after a system prompt of [`QUESTION`]s: one that is new, and one that was read before.
async fn first_token(model: &LocalChat) -> Fallible<()> {
    let ask = |tenant: usize, question: &str| {
        let system = Message::system([QUESTION; 8].join("\n"));
        ChatRequest { messages: vec![system, Message::user(question)], max_tokens: Some(1), ..request(tenant) }
    };
    let (mut new, mut known) = (Vec::new(), Vec::new());
    let mut tokens = 0;
    for run in 0..=RUNS {
        let tenant = 10_000 + run;
        for (question, times) in [("What is it about?", &mut new), ("Who wrote it?", &mut known)] {
            let began = Instant::now();
            let reply = model.complete(ask(tenant, question)).await?;
            tokens = reply.finish.usage.prompt_tokens;
            if run > 0 {
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    note(BENCH, format_args!("the first token comes after {tokens} tokens of prompt"));
    if wanted("first_token") {
        Figure::new(BENCH, "first_token", median(new), "ms").print();
    }
    if wanted("first_token_prefix") {
        Figure::new(BENCH, "first_token_prefix", median(known), "ms").print();
    }
    Ok(())
}

/// The request of a tenant. Each has one of its own: what another has asked is read anew.
fn request(tenant: usize) -> ChatRequest {
    let caller = Caller { tenant: Some(format!("bench-{tenant}").into()), ..Caller::default() };
    ChatRequest { sampling: Sampling::GREEDY, max_tokens: Some(ANSWER), caller, ..ChatRequest::ask(QUESTION) }
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

/// Writes the model at `from` with all its matrices in Q8_0.
fn in_eight_bits(from: &Path, to: &Path) -> Fallible<()> {
    let mut reader = BufReader::new(File::open(from)?);
    let content = gguf_file::Content::read(&mut reader)?;
    let mut tensors = Vec::new();
    for name in content.tensor_infos.keys() {
        let stored = content.tensor(&mut reader, name, &Device::Cpu)?;
        let is_matrix = stored.shape().rank() == 2;
        let numbers = stored.dequantize(&Device::Cpu)?;
        tensors.push((name, QTensor::quantize(&numbers, if is_matrix { GgmlDType::Q8_0 } else { GgmlDType::F32 })?));
    }
    tensors.sort_by(|a, b| a.0.cmp(b.0));
    let header: Vec<_> = content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut BufWriter::new(File::create(to)?), &header, &tensors)?;
    Ok(())
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
