//! The document agent on a real engine with the reference backends: what is indexed, found, cited and refused.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test says what it finds by panicking")]

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use serde_json::{Value, json};
use sutazai_agents::{
    AgentsOptions, catalogue,
    documents::{DocumentManager, DocumentsOptions},
};
use sutazai_core::{
    Error, ErrorKind, Orchestrator, Result,
    memory::{HashedEmbedding, MemoryVectorStore, ScriptedChat},
    model::EmbeddingModel,
    store::{CollectionSpec, Page, Selector, VectorCapabilities, VectorHit, VectorQuery, VectorRecord, VectorStore},
    task::{Task, TaskState},
};

const CRANE: &str = "The Zellweger harbour crane lifts at most 37 tonnes.";
const QUESTION: &str = "How many tonnes can the Zellweger harbour crane lift?";

fn filler() -> String {
    (0..60).map(|n| format!("Note {n}: the weather was calm and nothing else was written down that day.\n")).collect()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, fact: &str| {
        fs::write(folder.path().join(name), format!("# Notes\n\n{}\n\n{fact}\n\n{}\n", filler(), filler())).unwrap();
    };
    write("harbour.md", CRANE);
    write("bakery.txt", "Oven number four of the Quintana bakery is cleaned every Thursday.");
    fs::write(folder.path().join("image.bin"), b"\x00\x01\x02\xff").unwrap();
    folder
}

struct Bench {
    orchestrator: Orchestrator,
    vectors: Arc<dyn VectorStore>,
}

async fn bench(said: &str, vectors: Arc<dyn VectorStore>, embedding: Arc<dyn EmbeddingModel>) -> Bench {
    allowed(said, vectors, embedding, AgentsOptions::default()).await
}

async fn allowed(
    said: &str,
    vectors: Arc<dyn VectorStore>,
    embedding: Arc<dyn EmbeddingModel>,
    options: AgentsOptions,
) -> Bench {
    let catalogue = catalogue(options);
    let orchestrator = Orchestrator::builder()
        .agents(catalogue.agents)
        .router(catalogue.router)
        .chat_model(Arc::new(ScriptedChat::new("scripted").otherwise(said)))
        .embedding_model(embedding)
        .vectors(Arc::clone(&vectors))
        .start()
        .await
        .unwrap();
    Bench { orchestrator, vectors }
}

async fn plain(said: &str) -> Bench {
    bench(said, Arc::new(MemoryVectorStore::new()), Arc::new(HashedEmbedding::default())).await
}

impl Bench {
    async fn end(&self, input: Value) -> Arc<Task> {
        self.orchestrator.submit(DocumentManager::NAME, &input).await.unwrap().result().await.unwrap()
    }

    async fn run(&self, input: Value) -> Value {
        let end = self.end(input).await;
        assert_eq!(end.state, TaskState::Completed, "{:?}", end.error);
        end.output.as_ref().unwrap().read().unwrap()
    }

    async fn fails_with(&self, input: Value, code: &str) -> String {
        let end = self.end(input).await;
        assert_eq!(end.state, TaskState::Failed, "{:?}", end.output);
        let error = end.error.clone().unwrap();
        assert_eq!(error.code, code, "{}", error.message);
        error.message
    }
}

fn ask(docs: &Path, text: &str) -> Value {
    json!({"text": text, "docs": docs})
}

/// Every quote stands in its lines, whitespace aside.
fn check_citations(docs: &Path, answer: &Value) {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for citation in answer["citations"].as_array().unwrap() {
        let text = fs::read_to_string(docs.join(citation["path"].as_str().unwrap())).unwrap();
        let (start, end) =
            (citation["start_line"].as_u64().unwrap() as usize, citation["end_line"].as_u64().unwrap() as usize);
        let lines = text.lines().skip(start - 1).take(end - start + 1).collect::<Vec<_>>().join("\n");
        assert!(squeeze(&lines).contains(&squeeze(citation["quote"].as_str().unwrap())), "{citation}");
    }
}

#[tokio::test]
async fn a_fact_among_filler_is_found_and_cited() {
    let (folder, bench) = (folder(), plain("It lifts 37 tonnes.").await);
    let answer = bench.run(ask(folder.path(), QUESTION)).await;
    assert_eq!(answer["found"], true, "{answer}");
    assert_eq!(answer["answer"], "It lifts 37 tonnes.");
    assert_eq!(answer["grounded"], "model");
    let citations = answer["citations"].as_array().unwrap();
    assert_eq!((citations[0]["path"].as_str(), citations[0]["quote"].as_str()), (Some("harbour.md"), Some(CRANE)));
    check_citations(folder.path(), &answer);
    assert_eq!(answer["warnings"], json!([{"path": "image.bin", "message": "skipped, it is binary"}]));
    assert!(answer["tokens"]["prompt"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_model_that_makes_things_up_is_replaced_by_the_quote() {
    let (folder, bench) = (folder(), plain("The crane can lift 9000 elephants.").await);
    let answer = bench.run(ask(folder.path(), QUESTION)).await;
    assert_eq!((answer["grounded"].as_str(), answer["answer"].as_str()), (Some("quote"), Some(CRANE)));
}

#[tokio::test]
async fn a_question_off_the_subject_is_not_answered() {
    let (folder, bench) = (folder(), plain("The moon.").await);
    let answer = bench.run(ask(folder.path(), "Who won the chess championship of the moon in 2093?")).await;
    assert_eq!(answer["found"], false, "{answer}");
    assert!(answer["answer"].as_str().unwrap().contains("not in the documents"));
    assert_eq!((&answer["citations"], &answer["tokens"]["prompt"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn search_ranks_the_passage_first_and_scores_stay_in_range() {
    let (folder, bench) = (folder(), plain("").await);
    let found = bench
        .run(json!({"action": "search", "text": "crane capacity at the harbour", "docs": folder.path(), "limit": 3}))
        .await;
    let hits = found["hits"].as_array().unwrap();
    assert_eq!(hits.len(), 3);
    assert!(hits[0]["path"] == "harbour.md" && hits[0]["text"].as_str().unwrap().contains("37 tonnes"), "{found}");
    assert!(hits.iter().all(|hit| (0.0..=1.0).contains(&hit["score"].as_f64().unwrap())));
    let single = folder.path().join("bakery.txt");
    let found = bench.run(json!({"action": "search", "text": "oven", "docs": single, "threshold": 0.2})).await;
    assert!(found["hits"].as_array().unwrap().iter().all(|hit| hit["path"] == "bakery.txt"), "{found}");
}

#[tokio::test]
async fn only_what_changed_is_read_again_and_what_is_gone_is_forgotten() {
    let (folder, bench) = (folder(), plain("").await);
    let ingest = json!({"action": "ingest", "docs": folder.path()});
    let first = bench.run(ingest.clone()).await;
    assert_eq!((&first["added"], &first["files"], &first["skipped"]), (&json!(2), &json!(2), &json!(1)), "{first}");
    let again = bench.run(ingest.clone()).await;
    assert_eq!((&again["added"], &again["changed"], &again["removed"]), (&json!(0), &json!(0), &json!(0)), "{again}");

    fs::write(folder.path().join("harbour.md"), "The crane was sold to Rotterdam.\n").unwrap();
    fs::remove_file(folder.path().join("bakery.txt")).unwrap();
    fs::write(folder.path().join("new.md"), "A lighthouse was built.\n").unwrap();
    let changed = bench.run(ingest).await;
    assert_eq!(
        (&changed["added"], &changed["changed"], &changed["removed"]),
        (&json!(1), &json!(1), &json!(1)),
        "{changed}"
    );
    assert_eq!((&changed["files"], &changed["passages"]), (&json!(2), &json!(2)), "{changed}");
    let found = bench.run(json!({"action": "search", "text": "crane oven 37 tonnes", "docs": folder.path()})).await;
    let texts: Vec<_> = found["hits"].as_array().unwrap().iter().map(|hit| hit["text"].as_str().unwrap()).collect();
    assert!(texts.iter().all(|text| !text.contains("37") && !text.contains("Oven")), "{texts:?}");
    assert!(texts[0].contains("Rotterdam"));
}

#[tokio::test]
async fn the_index_outlives_the_process_and_follows_the_model() {
    let folder = folder();
    let first = plain("").await;
    first.run(json!({"action": "ingest", "docs": folder.path()})).await;
    let vectors = Arc::clone(&first.vectors);
    let second = bench("It lifts 37 tonnes.", Arc::clone(&vectors), Arc::new(HashedEmbedding::default())).await;
    let again = second.run(json!({"action": "ingest", "docs": folder.path()})).await;
    assert_eq!((&again["added"], &again["changed"]), (&json!(0), &json!(0)), "{again}");
    // By name or by meaning an agent gets only a text: it asks what was read before, and says where that is.
    let answer = second.run(json!({"text": QUESTION})).await;
    let cited = answer["citations"][0]["path"].as_str().unwrap();
    assert!(Path::new(cited).is_absolute() && cited.ends_with("harbour.md"), "{answer}");

    let other = bench("", vectors, Arc::new(HashedEmbedding::new(64))).await;
    let anew = other.run(json!({"action": "ingest", "docs": folder.path()})).await;
    assert_eq!((&anew["added"], &anew["files"]), (&json!(2), &json!(2)), "another dimension begins anew: {anew}");
}

/// A store that can be told to break in the middle of forgetting a file.
#[derive(Default)]
struct Breaking(MemoryVectorStore, AtomicBool);

#[async_trait]
impl VectorStore for Breaking {
    fn capabilities(&self) -> VectorCapabilities {
        self.0.capabilities()
    }

    async fn create_collection(&self, name: &str, spec: &CollectionSpec) -> Result<()> {
        self.0.create_collection(name, spec).await
    }

    async fn drop_collection(&self, name: &str) -> Result<()> {
        self.0.drop_collection(name).await
    }

    async fn upsert(&self, collection: &str, records: Vec<VectorRecord>) -> Result<()> {
        self.0.upsert(collection, records).await
    }

    async fn delete(&self, collection: &str, selector: Selector) -> Result<u64> {
        if collection.ends_with("-files") && self.1.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Corrupt, "broken for the test").with_code("broken"));
        }
        self.0.delete(collection, selector).await
    }

    async fn search(&self, collection: &str, queries: &[VectorQuery]) -> Result<Vec<Vec<VectorHit>>> {
        self.0.search(collection, queries).await
    }

    async fn scan(&self, collection: &str, after: Option<&str>, limit: usize) -> Result<Page<VectorRecord>> {
        self.0.scan(collection, after, limit).await
    }

    async fn count(&self, collection: &str) -> Result<u64> {
        self.0.count(collection).await
    }
}

#[tokio::test]
async fn a_removal_that_breaks_off_leaves_no_file_without_its_passages() {
    let (folder, away) = (folder(), tempfile::tempdir().unwrap());
    let (here, there) = (folder.path().join("bakery.txt"), away.path().join("bakery.txt"));
    let store = Arc::new(Breaking::default());
    let bench = bench("", Arc::clone(&store) as _, Arc::new(HashedEmbedding::default())).await;
    let ingest = json!({"action": "ingest", "docs": folder.path()});
    let first = bench.run(ingest.clone()).await;

    fs::copy(&here, &there).unwrap();
    fs::remove_file(&here).unwrap();
    store.1.store(true, Ordering::SeqCst);
    bench.fails_with(ingest.clone(), "broken").await;
    store.1.store(false, Ordering::SeqCst);
    fs::copy(&there, &here).unwrap();
    let second = bench.run(ingest).await;
    assert_eq!((&second["files"], &second["passages"]), (&first["files"], &first["passages"]), "{second}");
}

#[tokio::test]
async fn a_file_that_was_too_large_is_read_under_a_larger_limit() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("small.md", CRANE.to_owned()), ("large.md", filler())] {
        fs::write(folder.path().join(name), text).unwrap();
        // Long ago: nothing but the limit is a reason to look again.
        let file = fs::File::options().append(true).open(folder.path().join(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
    }
    let vectors: Arc<dyn VectorStore> = Arc::new(MemoryVectorStore::new());
    for (max_file_bytes, files) in [(100, 1), (16 << 20, 2)] {
        let documents = DocumentsOptions { max_file_bytes, ..DocumentsOptions::default() };
        let options = AgentsOptions { documents, ..AgentsOptions::default() };
        let bench = allowed("", Arc::clone(&vectors), Arc::new(HashedEmbedding::default()), options).await;
        let report = bench.run(json!({"action": "ingest", "docs": folder.path()})).await;
        assert_eq!(report["files"], json!(files), "{report}");
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_is_forgotten() {
    let (folder, bench) = (folder(), plain("").await);
    let place = folder.path().to_owned();
    bench.run(json!({"action": "ingest", "docs": place})).await;
    assert_eq!(bench.vectors.count("documents").await.unwrap(), 1);
    folder.close().unwrap();
    bench.fails_with(json!({"text": QUESTION}), "no_documents").await;
    assert_eq!(bench.vectors.count("documents").await.unwrap(), 0);
    fs::create_dir(&place).unwrap();
    fs::write(place.join("a.md"), CRANE).unwrap();
    assert_eq!(bench.run(json!({"action": "ingest", "docs": place})).await["passages"], json!(1));
    fs::remove_dir_all(&place).unwrap();
}

#[tokio::test]
async fn many_calls_at_once_on_one_folder_agree() {
    let (folder, bench) = (folder(), plain("It lifts 37 tonnes.").await);
    let calls = (0..16).map(|_| bench.run(ask(folder.path(), QUESTION)));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer["citations"][0]["quote"], CRANE);
    }
    let report = bench.run(json!({"action": "ingest", "docs": folder.path()})).await;
    assert_eq!((&report["added"], &report["changed"]), (&json!(0), &json!(0)), "{report}");
}

#[tokio::test]
async fn faults_say_what_to_do() -> Result<()> {
    let (empty, bench) = (tempfile::tempdir().unwrap(), plain("").await);
    assert!(bench.fails_with(json!({"text": "Anything?"}), "no_documents").await.contains("ingest one first"));
    assert!(bench.fails_with(ask(empty.path(), "Anything?"), "no_documents").await.contains("no documents"));
    fs::write(empty.path().join("a.bin"), [0_u8; 10]).unwrap();
    assert!(bench.fails_with(ask(empty.path(), "Anything?"), "no_documents").await.contains("a.bin"));
    bench.fails_with(ask(Path::new("/no/such/place"), "Anything?"), "docs_not_found").await;
    for (input, path) in [
        (json!({}), "/input/text"),
        (json!({"text": "  "}), "/input/text"),
        (json!({"text": "ü".repeat(4_001)}), "/input/text"),
        (json!({"action": "ingest"}), "/input/docs"),
        (json!({"text": "a", "limit": 0}), "/input/limit"),
        (json!({"text": "a", "threshold": 2}), "/input/threshold"),
    ] {
        let Err(error) = bench.orchestrator.submit(DocumentManager::NAME, &input).await else { panic!("{input}") };
        assert_eq!(error.faults()[0].path, path, "{input}");
    }
    Ok(())
}

#[tokio::test]
async fn the_other_agents_work_on_a_text_alone() -> Result<()> {
    let bench = plain("").await;
    let call = async |agent: &str, input: Value| -> Value {
        bench.orchestrator.submit(agent, &input).await.unwrap().output().await.unwrap()
    };
    let assignment = call(
        "task-assignment-coordinator",
        json!({"text": "how much memory usage and cpu usage is there on this machine?"}),
    )
    .await;
    assert_eq!(assignment["agent"], "hardware-resource-optimizer", "{assignment}");
    let snapshot = call("hardware-resource-optimizer", json!({"text": "how much memory is free?", "top": 1})).await;
    assert_eq!(snapshot["processes"]["top_by_cpu"].as_array().unwrap().len(), 1);
    assert!(!snapshot.to_string().contains("cmd"));
    Ok(())
}
