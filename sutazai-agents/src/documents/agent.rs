//! The agent: one call from input to output.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use sutazai_core::{
    Error, ErrorKind, Fault, Result,
    agent::{AgentDescriptor, AgentError, ModelRole, Phase, TypedAgent},
    context::Context,
    model::Sampling,
    resource::ResourceRequest,
};

use super::{
    Action, Answer, Citation, DocumentsInput, DocumentsOptions, DocumentsOutput, EvidenceOptions, Hit, Hits, Ingested,
    Timings, Tokens, Warning,
    answer::{NOT_FOUND, Wording, citations, grounded, prompt, stands},
    blocking,
    evidence::{Evidence, evidence},
    library::{Library, Snapshot},
    manifest,
    retrieve::{Passage, retrieve},
    source::Root,
};

/// Passages in which evidence is looked for.
const PASSAGES: usize = 8;
/// Tokens of an answer where neither the call nor the operator says.
const MAX_TOKENS: u32 = 96;
/// Letters of a question: more than any model reads of it.
const LONGEST: usize = 4_000;
/// Warnings in an output; a folder of pictures would give thousands.
const WARNINGS: usize = 100;

/// The agent; register it with [`sutazai_core::agent::typed`].
pub struct DocumentManager {
    options: Arc<DocumentsOptions>,
    library: Library,
}

impl DocumentManager {
    /// The agent's name.
    pub const NAME: &str = "document-knowledge-manager";

    /// An agent that reads what `options` allow.
    #[must_use]
    pub fn new(options: DocumentsOptions) -> Self {
        let options = Arc::new(options);
        Self { library: Library::new(Arc::clone(&options)), options }
    }

    /// The documents a call is about, up to date.
    async fn open(&self, context: &Context, docs: Option<&str>) -> Result<Vec<Snapshot>> {
        if let Some(docs) = docs {
            context.progress(Some(0.0), format!("looking at {docs}"));
            let (docs, options) = (docs.to_owned(), Arc::clone(&self.options));
            let root = blocking(move || Root::open(&docs, &options)).await?;
            return Ok(vec![self.library.open(context, root).await?]);
        }
        context.progress(Some(0.0), "looking at the documents that were read before");
        let mut snapshots = Vec::new();
        for known in manifest::roots(context.vectors()?.as_ref()).await? {
            let (place, options) = (known.root.clone(), Arc::clone(&self.options));
            let opened = match blocking(move || Root::open(&place, &options)).await {
                Ok(root) => self.library.open(context, root).await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(snapshot) => snapshots.push(snapshot),
                // Nobody else would ever drop its index.
                Err(error) if error.kind() == ErrorKind::NotFound && error.code() == "docs_not_found" => {
                    self.library.forget(context, &known).await?;
                }
                // What was read once may be empty, or no longer allowed; that is no fault of this question.
                Err(error) if matches!(error.code(), "docs_not_found" | "docs_not_allowed" | "no_documents") => {}
                Err(error) => return Err(error),
            }
        }
        if snapshots.is_empty() {
            let message = "no documents were read yet; name a file or a folder in `docs`, or ingest one first";
            return Err(Error::new(ErrorKind::Invalid, message).with_code("no_documents"));
        }
        Ok(snapshots)
    }

    async fn ask(&self, context: &Context, input: &DocumentsInput) -> Result<Answer, AgentError> {
        let began = Instant::now();
        let question = input.text.as_deref().unwrap_or_default();
        let snapshots = self.open(context, input.docs.as_deref()).await?;
        let index = millis(began);

        let retrieving = Instant::now();
        context.progress(Some(0.65), "searching");
        let vector = embed(context, question).await?;
        let passages = retrieve(context, &snapshots, question, &vector, PASSAGES).await?;
        context.progress(Some(0.75), format!("reading the best {} passages", passages.len()));
        let options = EvidenceOptions {
            threshold: input.threshold.unwrap_or(self.options.evidence.threshold),
            ..self.options.evidence
        };
        let Evidence { sentences: mut found, support } =
            evidence(context, &snapshots, &passages, question, &vector, options).await?;
        // Only what stands in the files as they are now may be cited or told to the model.
        let (roots, cited) = (roots_of(&snapshots), citations(&found));
        let cited = blocking(move || Ok(verified(&roots, cited))).await?;
        found.retain(|sentence| {
            cited.iter().any(|(snapshot, citation)| *snapshot == sentence.snapshot && citation.quote == sentence.text)
        });
        let retrieve = millis(retrieving);

        let mut answer = Answer {
            answer: NOT_FOUND.into(),
            found: false,
            citations: Vec::new(),
            timings_ms: Timings { index, retrieve, generate: 0.0, total: millis(began) },
            tokens: Tokens::default(),
            grounded: None,
            support,
            model: None,
            warnings: warnings(&snapshots),
        };
        let Some(best) = found.first() else { return Ok(answer) };
        context.progress(Some(0.85), format!("answering from {}:{}", best.path, best.start_line));
        let generating = Instant::now();
        let model = context.models().chat(input.model.as_deref())?.info().name.clone();
        let sampled = |temperature| Sampling { temperature, ..Sampling::GREEDY };
        let how = Wording {
            model: input.model.clone(),
            sampling: self.options.temperature.map_or(Sampling::GREEDY, sampled),
            max_tokens: input.max_tokens.or(self.options.max_tokens).unwrap_or(MAX_TOKENS),
        };
        let request = prompt(question, &found, how);
        let reply = context.chat(request).await?;
        let (text, by) = grounded(&reply.text, question, &found);
        answer.answer = text;
        answer.found = true;
        answer.grounded = Some(by);
        answer.model = Some(model);
        answer.tokens =
            Tokens { prompt: reply.finish.usage.prompt_tokens, completion: reply.finish.usage.completion_tokens };
        let named = input.docs.is_some();
        answer.citations = cited
            .into_iter()
            .map(|(snapshot, citation)| Citation {
                path: shown(&snapshots, snapshot, &citation.path, named),
                ..citation
            })
            .collect();
        answer.timings_ms.generate = millis(generating);
        answer.timings_ms.total = millis(began);
        Ok(answer)
    }

    async fn search(&self, context: &Context, input: &DocumentsInput) -> Result<Hits> {
        let query = input.text.as_deref().unwrap_or_default();
        let snapshots = self.open(context, input.docs.as_deref()).await?;
        context.progress(Some(0.7), "searching");
        let vector = embed(context, query).await?;
        let passages = retrieve(context, &snapshots, query, &vector, input.limit.unwrap_or(10)).await?;
        let least = input.threshold.unwrap_or(0.0);
        let hit = |passage: Passage| Hit {
            path: shown(&snapshots, passage.snapshot, &passage.stored.path, input.docs.is_some()),
            start_line: passage.stored.chunk.start_line,
            end_line: passage.stored.chunk.end_line,
            score: passage.score,
            text: passage.stored.chunk.text.clone(),
        };
        let hits = passages.into_iter().filter(|passage| passage.score >= least).map(hit).collect();
        Ok(Hits { hits, warnings: warnings(&snapshots) })
    }

    async fn ingest(&self, context: &Context, docs: &str) -> Result<Ingested> {
        let began = Instant::now();
        let snapshots = self.open(context, Some(docs)).await?;
        let report = snapshots.first().map(|snapshot| snapshot.report).unwrap_or_default();
        Ok(Ingested { docs: docs.into(), report, took_ms: millis(began), warnings: warnings(&snapshots) })
    }
}

#[async_trait]
impl TypedAgent for DocumentManager {
    type Input = DocumentsInput;
    type Output = DocumentsOutput;

    fn descriptor(&self) -> AgentDescriptor {
        AgentDescriptor::new(Self::NAME)
            .version(env!("CARGO_PKG_VERSION"))
            .description(
                "Answers questions from documents with citations: reads a file or a folder of text, Markdown or source code, searches it by \
                 meaning and by words, explains what the documentation says and where, and says when something is not in the documents.",
            )
            .capabilities(["question_answering", "document_search", "document_ingestion", "citations", "knowledge_base"])
            .place(Phase::Auxiliary, 10380)
            .resources(ResourceRequest { memory_mb: 512, cpu: 1.0, model_slots: 1 })
            .models([ModelRole::Chat, ModelRole::Embedding])
    }

    fn check(&self, input: &DocumentsInput) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, path: &str, message: &str| {
            if !ok {
                faults.push(Fault::new(path, message));
            }
        };
        let is_blank = |text: &Option<String>| text.as_deref().is_none_or(|text| text.trim().is_empty());
        match input.action {
            Action::Ask => check(!is_blank(&input.text), "/text", "a question is needed"),
            Action::Search => check(!is_blank(&input.text), "/text", "words to search for are needed"),
            Action::Ingest => check(!is_blank(&input.docs), "/docs", "a file or a folder is needed"),
        }
        let is_long = input.text.as_ref().is_some_and(|text| text.chars().nth(LONGEST).is_some());
        check(!is_long, "/text", "at most 4000 characters are allowed");
        check(input.docs.is_none() || !is_blank(&input.docs), "/docs", "this names no file or folder");
        check(input.limit.is_none_or(|limit| (1..=200).contains(&limit)), "/limit", "1 to 200 are allowed");
        check(input.threshold.is_none_or(|least| (0.0..=1.0).contains(&least)), "/threshold", "0 to 1 are allowed");
        check(input.max_tokens.is_none_or(|most| (1..=1024).contains(&most)), "/max_tokens", "1 to 1024 are allowed");
        faults
    }

    async fn run(&self, context: Context, input: DocumentsInput) -> Result<DocumentsOutput, AgentError> {
        Ok(match input.action {
            Action::Ask => DocumentsOutput::Answer(self.ask(&context, &input).await?),
            Action::Search => DocumentsOutput::Hits(self.search(&context, &input).await?),
            Action::Ingest => {
                DocumentsOutput::Ingested(self.ingest(&context, input.docs.as_deref().unwrap_or_default()).await?)
            }
        })
    }
}

async fn embed(context: &Context, text: &str) -> Result<Vec<f32>> {
    let vector = context.embed(&[text.to_owned()]).await?.pop();
    vector.ok_or_else(|| Error::new(ErrorKind::Internal, "the embedding model gave no vector"))
}

fn roots_of(snapshots: &[Snapshot]) -> Vec<Root> {
    snapshots.iter().map(|snapshot| snapshot.root.clone()).collect()
}

/// The citations whose quotes stand in their files. Blocks.
fn verified(roots: &[Root], cited: Vec<(usize, Citation)>) -> Vec<(usize, Citation)> {
    let holds = |(snapshot, citation): &(usize, Citation)| {
        let file = roots.get(*snapshot).map(|root| root.file(&citation.path));
        file.and_then(|file| std::fs::read_to_string(file).ok()).is_some_and(|text| stands(citation, &text))
    };
    cited.into_iter().filter(holds).collect()
}

/// A file's name as the caller knows it: relative to what the call named, absolute where it named nothing.
fn shown(snapshots: &[Snapshot], snapshot: usize, path: &str, named: bool) -> String {
    match snapshots.get(snapshot).filter(|_| !named) {
        Some(snapshot) => snapshot.root.file(path).to_string_lossy().into_owned(),
        None => path.to_owned(),
    }
}

fn warnings(snapshots: &[Snapshot]) -> Vec<Warning> {
    let mut all: Vec<_> = snapshots.iter().flat_map(|snapshot| snapshot.warnings.iter().cloned()).collect();
    if all.len() > WARNINGS {
        let more = all.len() - WARNINGS;
        all.truncate(WARNINGS);
        all.push(Warning::new("", format!("{more} more files were skipped")));
    }
    all
}

fn millis(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e4).round() / 10.0
}
