//! `ask` and `search`: a task for the agent that reads documents, on the running server or in this process.

use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use serde_json::{Value, json};
use sutazai_agents::documents::{Answer, Citation, Hits};
use sutazai_core::{
    Payload,
    task::{TaskRequest, TaskState},
};

use super::{
    models::pull_missing,
    output::{Output, say},
    progress::Spinner,
    tasks::{self, text},
};
use crate::{
    client::Client,
    compose::{self, CHAT_MODEL, EMBEDDING_MODEL},
    config::Configuration,
    process::{Exit, Failure},
};

/// The agent that reads documents.
pub(super) const AGENT: &str = "document-knowledge-manager";

/// What is asked of the documents.
pub(super) enum Request {
    /// An answer.
    Ask(String),
    /// Passages.
    Search(String, u32),
}

impl Request {
    fn input(&self, docs: &Path) -> Value {
        match self {
            Self::Ask(text) => json!({ "action": "ask", "text": text, "docs": docs }),
            Self::Search(text, limit) => json!({ "action": "search", "text": text, "docs": docs, "limit": limit }),
        }
    }
}

/// Runs `ask` or `search`.
pub(super) async fn run(request: Request, configuration: &Configuration, out: Output) -> Result<Exit, Failure> {
    let settings = &configuration.settings;
    let docs = resolve(&settings.docs)?;
    let client = Client::new(&settings.server)?;
    let input = request.input(&docs);
    let served = configuration.is_flag("server") || client.answers().await;
    if !served && configuration.is_given("server") {
        say(&format!("warning: no server answers at {}; working alone", client.base()));
    }
    let output = if served {
        let task = client.post("/api/v1/tasks", &json!({ "agent": AGENT, "input": input }), None).await?;
        let task = tasks::finished(&client, &text(&task["id"])).await?;
        if let Some(failure) = tasks::fault(&task) {
            return Err(failure);
        }
        task["output"].clone()
    } else {
        alone(&request, &input, configuration).await?
    };
    let wrong =
        |error: serde_json::Error| Failure::new(Exit::Failed, format!("the answer of {AGENT} cannot be read: {error}"));
    warn(&output);
    if out.is_json() {
        out.document(&output)?;
        return Ok(Exit::Done);
    }
    match request {
        Request::Ask(_) => show_answer(&serde_json::from_value(output).map_err(wrong)?, &settings.docs, out)?,
        Request::Search(..) => show_hits(&serde_json::from_value(output).map_err(wrong)?, &settings.docs, out)?,
    }
    Ok(Exit::Done)
}

/// The documents as an absolute path: a server has a working directory of its own.
pub(super) fn resolve(docs: &Path) -> Result<PathBuf, Failure> {
    docs.canonicalize().map_err(|error| {
        Failure::usage(format!("no documents at {}: {error}", docs.display()))
            .hint("name a file or folder with --docs PATH")
    })
}

async fn alone(request: &Request, input: &Value, configuration: &Configuration) -> Result<Value, Failure> {
    let settings = &configuration.settings;
    let ollama = compose::ollama(settings).await;
    match (request, &ollama) {
        (Request::Ask(_), None) => pull_missing(settings, &[EMBEDDING_MODEL, CHAT_MODEL]).await?,
        _ => pull_missing(settings, &[EMBEDDING_MODEL]).await?,
    }
    let engine = compose::alone(settings, ollama).await?;
    let orchestrator = &engine.orchestrator;
    let submitted = orchestrator.submit_request(TaskRequest::new(AGENT, Payload::of(input)?)).await?;
    let spinner = Spinner::new("documents");
    let mut events = std::pin::pin!(orchestrator.events(submitted.task.id, 0));
    while let Some(event) = events.next().await {
        let event = serde_json::to_value(event?).unwrap_or_default();
        spinner.event(&text(&event["type"]), &event["data"]);
    }
    drop(spinner);
    let task = orchestrator.task(submitted.task.id).await?;
    engine.close(std::time::Duration::ZERO).await?;
    match (&task.output, &task.error) {
        (Some(output), _) if task.state == TaskState::Completed => Ok(output.read()?),
        (_, Some(error)) => {
            let failure = Failure::new(Exit::Failed, format!("{} ({})", error.message, error.code));
            Err(failure.for_code(&error.code))
        }
        _ => Err(Failure::new(Exit::Failed, "the task ended without an answer")),
    }
}

/// Says which files were passed over.
pub(super) fn warn(output: &Value) {
    for warning in output["warnings"].as_array().into_iter().flatten() {
        say(&format!("warning: {}: {}", text(&warning["path"]), text(&warning["message"])));
    }
}

fn show_answer(answer: &Answer, docs: &Path, out: Output) -> Result<(), Failure> {
    out.line(&answer.answer)?;
    if !answer.citations.is_empty() {
        out.line("")?;
    }
    answer.citations.iter().try_for_each(|citation| out.line(&format!("  {}", place(citation, docs))))
}

/// Where a citation stands: `path:start-end`.
pub(super) fn place(citation: &Citation, docs: &Path) -> String {
    format!("{}:{}-{}", below(docs, &citation.path).display(), citation.start_line, citation.end_line)
}

/// A path that the agent gave, seen from here: below the folder that was asked about, or that file itself.
pub(super) fn below(docs: &Path, path: &str) -> PathBuf {
    if docs.is_dir() { docs.join(path) } else { docs.to_owned() }
}

fn show_hits(hits: &Hits, docs: &Path, out: Output) -> Result<(), Failure> {
    for hit in &hits.hits {
        let path = below(docs, &hit.path);
        out.line(&format!("{:.2}  {}:{}-{}", hit.score, path.display(), hit.start_line, hit.end_line))?;
        hit.text.lines().try_for_each(|line| out.line(&format!("      {line}")))?;
    }
    Ok(())
}
