//! How well `search` of the document agent finds what people judged relevant, beside plain BM25: `cargo bench --bench retrieval -- [--json]`.
//!
//! Cranfield: 1,400 abstracts, 225 queries, complete judgements; nDCG@10 with the gains 4 to 1 for the grades 1 to 4 (1 is best) and none for 5 and -1.
//! Each abstract is a file of a folder, which the agent reads, cuts, embeds and searches as it does any other; a file's rank is that of its best
//! passage. The peer is the crate `bm25` (k1 = 1.2, b = 0.75, English stemming and stop words) over the whole abstracts, in the same run.
//! The collection is read from `CRANFIELD_DIR`, or from `../shared/data/cranfield` beside the repository; without it, or without the embedding model,
//! nothing is measured.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bm25::{Document, Language, SearchEngineBuilder};
use serde_json::json;
use sutazai_agents::documents::{DocumentManager, DocumentsOptions, Hits};
use sutazai_benches::{figures::Figure, notes::note};
use sutazai_core::{Orchestrator, agent::typed, memory::MemoryVectorStore};
use sutazai_llm::{local::LocalEmbedding, registry::ModelStore};

type Fallible<T> = Result<T, Box<dyn Error>>;

const BENCH: &str = "retrieval";
const MODEL: &str = "all-minilm";
/// Where the gain is cut off.
const DEPTH: usize = 10;
/// Passages asked for: enough that ten files are among them.
const PASSAGES: usize = 50;

/// Documents by number, queries by position from 1, and gains by query and document.
struct Cranfield {
    documents: Vec<(u32, String)>,
    queries: Vec<String>,
    gains: HashMap<u32, HashMap<u32, f64>>,
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let Some(folder) = folder() else {
        return skip("the collection is not there; name its folder in CRANFIELD_DIR");
    };
    let models = ModelStore::from_env()?;
    if models.installed(MODEL).await.is_err() {
        return skip(&format!("{MODEL} is not on disk; `sutazai-server models pull {MODEL}` gets it"));
    }
    let cranfield = Cranfield::read(&folder)?;
    let plain = cranfield.ndcg(&bm25(&cranfield));
    let ours = cranfield.ndcg(&agent(&cranfield, LocalEmbedding::new(models, MODEL)?).await?);
    Figure::new(BENCH, "cranfield_ndcg_at_10", ours, "ndcg").against("bm25", Some(plain)).print();
    Ok(())
}

fn folder() -> Option<PathBuf> {
    let beside = || [env!("CARGO_MANIFEST_DIR"), "../../shared/data/cranfield"].iter().collect();
    let folder = std::env::var_os("CRANFIELD_DIR").map_or_else(beside, PathBuf::from);
    folder.join("cran.all.1400").is_file().then_some(folder)
}

impl Cranfield {
    fn read(folder: &Path) -> Fallible<Self> {
        // A few bytes of these old files are not UTF-8, and some copies have the ends of lines of Windows.
        let text =
            |name: &str| fs::read(folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
        let documents = records(&text("cran.all.1400")?)
            .map(|(number, record)| {
                let (title, words) = (field(record, ".T", ".A"), field(record, ".W", "\0"));
                // Nearly every abstract begins with its title.
                let whole = if words.starts_with(title) { words.to_owned() } else { format!("{title}\n{words}") };
                Ok((number?, whole))
            })
            .filter(|document: &Fallible<_>| document.as_ref().map_or(true, |(_, text)| !text.trim().is_empty()))
            .collect::<Fallible<_>>()?;
        let queries =
            records(&text("cran.qry")?).map(|(_, record)| field(record, ".W", "\0").replace('\n', " ")).collect();
        let mut gains: HashMap<u32, HashMap<u32, f64>> = HashMap::new();
        for line in text("cranqrel")?.lines() {
            // The judgements number queries by their position, whatever their `.I` says.
            let numbers: Vec<i32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [query, document, grade] = numbers[..] else { return Err(format!("an odd judgement: {line}").into()) };
            if (1..=4).contains(&grade) {
                gains.entry(query.try_into()?).or_default().insert(document.try_into()?, f64::from(5 - grade));
            }
        }
        Ok(Self { documents, queries, gains })
    }

    /// Mean nDCG over the queries that have relevant documents.
    fn ndcg(&self, rankings: &[Vec<u32>]) -> f64 {
        let discounted = |gains: &mut dyn Iterator<Item = f64>| -> f64 {
            gains.take(DEPTH).enumerate().map(|(rank, gain)| gain / (rank as f64 + 2.0).log2()).sum()
        };
        let scores: Vec<f64> = (1_u32..)
            .zip(rankings)
            .filter_map(|(query, ranking)| {
                let gains = self.gains.get(&query)?;
                let mut ideal: Vec<f64> = gains.values().copied().collect();
                ideal.sort_by(|a, b| b.total_cmp(a));
                let reached =
                    discounted(&mut ranking.iter().map(|document| gains.get(document).copied().unwrap_or(0.0)));
                Some(reached / discounted(&mut ideal.into_iter()))
            })
            .collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    }
}

fn records(text: &str) -> impl Iterator<Item = (Result<u32, std::num::ParseIntError>, &str)> {
    let text = text.strip_prefix(".I ").unwrap_or(text);
    text.split("\n.I ")
        .map(|record| record.split_once('\n').map_or((record.trim().parse(), ""), |(n, rest)| (n.trim().parse(), rest)))
}

/// What stands between two of a record's markers.
fn field<'a>(record: &'a str, from: &str, to: &str) -> &'a str {
    let from = format!("{from}\n");
    let Some(start) = record.find(&from).filter(|at| *at == 0 || record[..*at].ends_with('\n')) else { return "" };
    let rest = &record[start + from.len()..];
    rest.find(&format!("\n{to}\n")).map_or(rest, |end| &rest[..end]).trim()
}

fn bm25(cranfield: &Cranfield) -> Vec<Vec<u32>> {
    let documents = cranfield.documents.iter().map(|(number, text)| Document::new(*number, text.as_str()));
    let engine = SearchEngineBuilder::<u32>::with_documents(Language::English, documents).k1(1.2).b(0.75).build();
    let ranking = |query: &String| engine.search(query, DEPTH).into_iter().map(|hit| hit.document.id).collect();
    cranfield.queries.iter().map(ranking).collect()
}

/// The whole way: files in a folder, the agent on the engine, and its search.
async fn agent(cranfield: &Cranfield, embedding: LocalEmbedding) -> Fallible<Vec<Vec<u32>>> {
    let folder = tempfile::tempdir()?;
    for (number, text) in &cranfield.documents {
        fs::write(folder.path().join(format!("{number}.txt")), text)?;
    }
    let orchestrator = Orchestrator::builder()
        .agent(typed(DocumentManager::new(DocumentsOptions::default())))
        .embedding_model(Arc::new(embedding))
        .vectors(Arc::new(MemoryVectorStore::new()))
        .start()
        .await?;
    let mut rankings = Vec::with_capacity(cranfield.queries.len());
    for query in &cranfield.queries {
        let input = json!({"action": "search", "text": query, "docs": folder.path(), "limit": PASSAGES});
        let found: Hits = orchestrator.submit(DocumentManager::NAME, &input).await?.output().await?;
        let mut seen = HashSet::new();
        let numbers = found.hits.iter().filter_map(|hit| hit.path.strip_suffix(".txt")?.parse::<u32>().ok());
        rankings.push(numbers.filter(|number| seen.insert(*number)).collect());
    }
    Ok(rankings)
}

fn skip(reason: &str) -> Fallible<()> {
    note(BENCH, format_args!("left out: {reason}"));
    Ok(())
}
