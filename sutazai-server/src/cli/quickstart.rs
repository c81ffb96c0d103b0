//! `quickstart`: models, documents, a server, and a first question to it over HTTP.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sutazai_agents::documents::{Answer, Citation};
use sutazai_llm::ollama::Discovered;
use tokio_util::sync::CancellationToken;

use super::{
    documents::{AGENT, below, place, resolve, warn},
    grammar::Quickstart,
    models::pull_missing,
    output::{Output, say},
    tasks::{fault, finished, text},
};
use crate::{
    client::Client,
    compose::{self, CHAT_MODEL, EMBEDDING_MODEL},
    config::{Configuration, Settings, masked_url},
    process::{Exit, Failure, Stop},
    serve::{Claimed, Server, watch},
};

/// Asked where nobody asks anything: this repository's documents have the answer.
const QUESTION: &str = "What happens to a running task when the server is killed?";

/// Runs `quickstart`.
pub(super) async fn run(arguments: Quickstart, configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    configuration.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let settings = &configuration.settings;
    let docs = resolve(&settings.docs)?;
    let claimed = Claimed::new(settings)?;
    let base = format!("http://{}", claimed.address());
    let end = CancellationToken::new();
    tokio::spawn(watch(Stop::new()?, end.clone()));

    let mut stages = Stages::default();
    let starting = async {
        let ollama = models(settings).await?;
        stages.done("models");
        Server::start(claimed, settings, ollama).await
    };
    let server = tokio::select! {
        server = starting => server?,
        () = end.cancelled() => return Ok(Exit::Failed),
    };
    let serving = tokio::spawn(server.run(end.clone()));
    let asked = async {
        let client = Client::new(&base)?;
        stages.done("server");
        submit(&client, json!({ "action": "ingest", "docs": docs })).await?;
        stages.done("index");
        let question = arguments.question.as_deref().unwrap_or(QUESTION);
        let task = submit(&client, json!({ "action": "ask", "text": question, "docs": docs })).await?;
        stages.done("answer");
        show(question, &task, &stages, settings, &base, out)
    };
    let asked = tokio::select! {
        asked = asked => asked,
        () = end.cancelled() => Ok(Exit::Failed), // interrupted: what was begun goes on at the next start
    };
    if asked.is_err() || arguments.exit {
        end.cancel();
    } else if !end.is_cancelled() {
        say("\nServing on. Stop with Ctrl-C.");
    }
    let served = serving.await.map_err(|error| Failure::new(Exit::Failed, format!("the server broke off: {error}")))?;
    let exit = asked?;
    served.map(|served| if exit == Exit::Done { served } else { exit })
}

/// Gets the models that are missing; the chat model is an Ollama's where one holds it.
async fn models(settings: &Settings) -> Result<Option<Discovered>, Failure> {
    let ollama = compose::ollama(settings).await;
    match &ollama {
        Some(found) => {
            let address = masked_url(&found.client.address());
            say(&format!("models: {} from the Ollama at {address}, {EMBEDDING_MODEL} here", settings.model_id));
            pull_missing(settings, &[EMBEDDING_MODEL]).await?;
        }
        None => {
            say(&format!("models: {CHAT_MODEL} and {EMBEDDING_MODEL}, in this process"));
            pull_missing(settings, &[EMBEDDING_MODEL, CHAT_MODEL]).await?;
        }
    }
    Ok(ollama)
}

/// Submits a task over HTTP and gives its output, once it has one.
async fn submit(client: &Client, input: Value) -> Result<Value, Failure> {
    let task = client.post("/api/v1/tasks", &json!({ "agent": AGENT, "input": input }), None).await?;
    let task = finished(client, &text(&task["id"])).await?;
    fault(&task).map_or(Ok(task), Err)
}

/// How long each stage took.
struct Stages {
    began: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Default for Stages {
    fn default() -> Self {
        Self { began: Instant::now(), done: Vec::new() }
    }
}

impl Stages {
    fn done(&mut self, name: &'static str) {
        self.done.push((name, self.began.elapsed()));
        self.began = Instant::now();
    }
}

fn show(
    question: &str,
    task: &Value,
    stages: &Stages,
    settings: &Settings,
    base: &str,
    out: Output,
) -> Result<Exit, Failure> {
    let output = &task["output"];
    warn(output);
    let answer: Answer = serde_json::from_value(output.clone())
        .map_err(|error| Failure::new(Exit::Failed, format!("the answer of {AGENT} cannot be read: {error}")))?;
    let checked = |citation: &Citation| stands(citation, &settings.docs);
    let wrong = answer.citations.iter().filter(|citation| !checked(citation)).count();
    let rate = match answer.timings_ms.generate {
        ms if ms > 0.0 && answer.tokens.completion > 0 => Some(f64::from(answer.tokens.completion) * 1_000.0 / ms),
        _ => None,
    };
    let timings = &answer.timings_ms;
    if out.is_json() {
        let stages: serde_json::Map<String, Value> =
            stages.done.iter().map(|(name, took)| ((*name).to_owned(), (took.as_millis() as u64).into())).collect();
        out.document(&json!({ "address": base, "question": question, "task_id": task["id"], "answer": output,
            "stages_ms": stages, "tokens_per_second": rate, "citations_checked": wrong == 0 }))?;
    } else {
        out.line(&format!("\n{question}\n\n{}\n", answer.answer))?;
        for citation in &answer.citations {
            let mark = if checked(citation) { "" } else { "  (does not stand there)" };
            out.line(&format!("  {}{mark}", place(citation, &settings.docs)))?;
        }
        let stages: Vec<String> =
            stages.done.iter().map(|(name, took)| format!("{name} {:.2} s", took.as_secs_f64())).collect();
        let speed = rate.map(|rate| format!(", {rate:.0} tokens/s")).unwrap_or_default();
        out.line(&format!("\nTime: {}", stages.join(", ")))?;
        out.line(&format!("Answer: retrieve {:.0} ms, generate {:.0} ms{speed}", timings.retrieve, timings.generate))?;
        out.line(&format!("API: {base}  (described at {base}/docs)"))?;
        out.line(&format!(
            "Try: curl -s {base}/api/v1/tasks -H 'content-type: application/json' \\\n  -d '{}'",
            json!({ "agent": "hardware-resource-optimizer", "input": {} })
        ))?;
    }
    if wrong > 0 {
        return Err(Failure::new(Exit::Failed, format!("{wrong} citations do not stand where they should")));
    }
    Ok(Exit::Done)
}

/// Whether the quote stands in the lines that the citation names, whitespace aside.
fn stands(citation: &Citation, docs: &Path) -> bool {
    let Ok(text) = fs::read_to_string(below(docs, &citation.path)) else { return false };
    let first = (citation.start_line as usize).saturating_sub(1);
    let count = (citation.end_line as usize).saturating_sub(first);
    let lines: Vec<&str> = text.lines().skip(first).take(count).collect();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    lines.len() == count && words(&lines.join(" ")).contains(&words(&citation.quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_citation_must_stand_in_its_lines() {
        let docs = tempfile::tempdir().unwrap();
        fs::write(docs.path().join("a.md"), "one\ntwo  words\nthree\n").unwrap();
        let citation = |start_line, end_line, quote: &str| {
            stands(&Citation { path: "a.md".into(), start_line, end_line, quote: quote.into() }, docs.path())
        };
        assert!(citation(2, 3, "words three"));
        assert!(!citation(1, 1, "two words"));
        assert!(!citation(3, 9, "three"));
        assert!(!citation(0, 0, "absent"));
    }
}
