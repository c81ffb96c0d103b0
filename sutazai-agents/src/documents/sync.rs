//! Brings an index up to date with its files: only what changed is read, cut and embedded again.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sutazai_core::{
    Error, ErrorKind, Result,
    context::Context,
    store::{VectorRecord, VectorStore},
};

use super::{
    DocumentsOptions, Warning, blocking,
    chunk::{Chunk, chunks},
    corpus::Stored,
    index::Index,
    manifest::{FileRecord, chunk_id, fields},
    source::{Content, Found, Root, read, walk},
};
use crate::text::Terms;

/// Chunks that are read ahead and written together.
const GROUP: usize = 256;
/// Chunks that are embedded in one call.
const BATCH: usize = 32;
/// A file changed so shortly before it was read may change again without a new time of change: it is read again.
const RACY_MS: i64 = 2_000;
/// The share of a call's progress that indexing takes.
const SHARE: f64 = 0.6;

/// What the index holds and what had to be done for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Documents in the index.
    pub files: usize,
    /// Passages in the index.
    pub passages: usize,
    /// Documents that are new.
    pub added: usize,
    /// Documents that were changed.
    pub changed: usize,
    /// Documents that are gone.
    pub removed: usize,
    /// Files that are no documents; the warnings name them.
    pub skipped: usize,
}

/// A file that may have changed, as it is now.
struct Fresh {
    record: FileRecord,
    /// Its chunks, unless only its times changed.
    chunks: Option<Vec<Chunk>>,
}

/// Brings `index` up to date, reading it from the store first where there is none.
pub(super) async fn run(
    context: &Context,
    root: &Root,
    index: Option<Index>,
    options: &Arc<DocumentsOptions>,
) -> Result<(Index, Report, Vec<Warning>)> {
    let model = context.models().embedding(None)?.info().clone();
    let store = context.vectors()?.as_ref();
    let mut index = match index.filter(|index| index.model == model.name) {
        Some(index) => index,
        None => Index::load(store, root, &model).await?,
    };
    let place = root.clone();
    let (found, mut warnings) = blocking(move || {
        let mut warnings = Vec::new();
        Ok((walk(&place, &mut warnings), warnings))
    })
    .await?;

    let mut report = Report { removed: remove_missing(store, &mut index, &found).await?, ..Report::default() };
    let mut doubtful: VecDeque<Found> = found.into_iter().filter(|found| !is_unchanged(&index, found)).collect();
    let total = doubtful.len();
    while !doubtful.is_empty() {
        let (fresh, rest) = read_group(context, &index, doubtful, options).await?;
        doubtful = rest;
        let before = total - doubtful.len() - fresh.len();
        for file in fresh.iter().filter(|file| file.chunks.is_some() && file.record.skipped.is_none()) {
            match index.files.contains_key(&file.record.path) {
                true => report.changed += 1,
                false => report.added += 1,
            }
        }
        write_group(context, store, &mut index, fresh, before, total).await?;
    }
    for file in index.files.values() {
        match &file.skipped {
            Some(why) => {
                report.skipped += 1;
                warnings.push(Warning::new(&file.path, why));
            }
            None => report.files += usize::from(file.chunks > 0),
        }
    }
    report.passages = index.corpus.len();
    if report.passages == 0 {
        return Err(no_documents(root, &warnings));
    }
    Ok((index, report, warnings))
}

fn no_documents(root: &Root, warnings: &[Warning]) -> Error {
    let mut message =
        String::from("there are no documents; name a file or a folder with text, Markdown or source in UTF-8");
    if let Some(first) = warnings.first() {
        message.push_str(&format!(" ({} files are none, for example {first})", warnings.len()));
    }
    Error::new(ErrorKind::Invalid, message).with_code("no_documents").during("read").about(root.path.display())
}

async fn remove_missing(store: &dyn VectorStore, index: &mut Index, found: &[Found]) -> Result<usize> {
    let present: BTreeSet<&str> = found.iter().map(|found| found.name.as_str()).collect();
    let gone: Vec<String> = index.files.keys().filter(|path| !present.contains(path.as_str())).cloned().collect();
    if gone.is_empty() {
        return Ok(0);
    }
    let files: Vec<_> = gone.iter().filter_map(|path| index.files.get(path).cloned()).collect();
    index.collections.remove(store, &files).await?;
    let documents =
        gone.iter().filter_map(|path| index.files.remove(path)).filter(|file| file.skipped.is_none()).count();
    change_corpus(index, gone, Vec::new()).await?;
    Ok(documents)
}

fn is_unchanged(index: &Index, found: &Found) -> bool {
    index.files.get(&found.name).is_some_and(|known| {
        let settled = known.modified_ns / 1_000_000 + RACY_MS < known.read_ms;
        let done = !known.hash.is_empty() || known.skipped.is_some();
        done && settled && known.size == found.size && known.modified_ns == found.modified_ns
    })
}

/// Reads and cuts files until a group is full; gives back the files that are left.
async fn read_group(
    context: &Context,
    index: &Index,
    mut doubtful: VecDeque<Found>,
    options: &Arc<DocumentsOptions>,
) -> Result<(Vec<Fresh>, VecDeque<Found>)> {
    let known: Vec<Option<FileRecord>> = doubtful.iter().map(|found| index.files.get(&found.name).cloned()).collect();
    let (read_ms, options) = (context.time().as_millis(), Arc::clone(options));
    blocking(move || {
        let (mut group, mut size) = (Vec::new(), 0);
        for known in known {
            let Some(found) = doubtful.pop_front() else { break };
            let fresh = refresh(&found, known.as_ref(), read_ms, &options);
            size += 1 + fresh.chunks.as_ref().map_or(0, Vec::len);
            group.push(fresh);
            if size >= GROUP {
                break;
            }
        }
        Ok((group, doubtful))
    })
    .await
}

fn refresh(found: &Found, known: Option<&FileRecord>, read_ms: i64, options: &DocumentsOptions) -> Fresh {
    let mut record = FileRecord {
        path: found.name.clone(),
        size: found.size,
        modified_ns: found.modified_ns,
        read_ms,
        hash: String::new(),
        chunks: 0,
        skipped: None,
    };
    match read(found, options) {
        Content::Skipped { why, lasting } => {
            record.read_ms = if lasting { read_ms } else { 0 };
            let is_known = known.is_some_and(|known| known.skipped.as_ref() == Some(&why));
            record.skipped = Some(why);
            Fresh { record, chunks: (!is_known).then(Vec::new) }
        }
        Content::Text { hash, .. } if known.is_some_and(|known| known.hash == hash) => {
            record.chunks = known.map_or(0, |known| known.chunks);
            record.hash = hash;
            Fresh { record, chunks: None }
        }
        Content::Text { text, hash } => {
            let chunks = chunks(&found.name, &text);
            record.chunks = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
            record.hash = hash;
            Fresh { record, chunks: Some(chunks) }
        }
    }
}

/// Embeds and writes a group, then notes it as done: `manifest` says why in this order. `before` of `total` files were done before it.
async fn write_group(
    context: &Context,
    store: &dyn VectorStore,
    index: &mut Index,
    group: Vec<Fresh>,
    before: usize,
    total: usize,
) -> Result<()> {
    let mut pending = Vec::new();
    let mut stale = Vec::new();
    let mut added = Vec::new();
    let mut numbers = Vec::new();
    let mut done = Vec::new();
    for (turn, Fresh { record, chunks }) in group.into_iter().enumerate() {
        if let Some(chunks) = chunks {
            let most = index.files.get(&record.path).map_or(0, |known| known.chunks).max(record.chunks);
            pending.push(FileRecord { chunks: most, ..record.pending() });
            stale.push((record.path.clone(), record.chunks));
            for (number, chunk) in (0_u32..).zip(chunks) {
                added.push((chunk_id(&record.path, number), Stored { path: record.path.clone(), chunk }));
                numbers.push(before + turn + 1);
            }
        }
        if index.files.get(&record.path) != Some(&record) {
            done.push(record);
        }
    }
    index.collections.put_files(store, &pending).await?;
    for (batch, numbers) in added.chunks(BATCH).zip(numbers.chunks(BATCH)) {
        if let (Some((_, stored)), Some(number)) = (batch.first(), numbers.first()) {
            let done = SHARE * *number as f64 / total as f64;
            context.progress(Some(done), format!("indexing {} ({number} of {total})", stored.path));
        }
        let texts: Vec<_> = batch.iter().map(|(_, stored)| stored.chunk.in_context()).collect();
        let vectors = context.embed(&texts).await?;
        let records = batch
            .iter()
            .zip(vectors)
            .map(|((id, stored), vector)| Ok(VectorRecord { id: id.clone(), vector, payload: fields(stored)? }))
            .collect::<Result<Vec<_>>>()?;
        store.upsert(&index.collections.chunks, records).await?;
    }
    index.collections.trim(store, pending.iter().zip(stale.iter().map(|(_, from)| *from))).await?;
    index.collections.put_files(store, &done).await?;
    let changed = stale.into_iter().map(|(path, ..)| path).collect();
    index.files.extend(done.into_iter().map(|record| (record.path.clone(), record)));
    change_corpus(index, changed, added).await
}

/// Removes the chunks of `changed` files from the corpus and adds `added`.
async fn change_corpus(index: &mut Index, changed: Vec<String>, added: Vec<(String, Stored)>) -> Result<()> {
    if changed.is_empty() && added.is_empty() {
        return Ok(());
    }
    let mut corpus = std::mem::take(&mut index.corpus);
    index.corpus = blocking(move || {
        let terms = Terms::default();
        // Copied only while somebody still searches in the former state.
        let owned = Arc::make_mut(&mut corpus);
        changed.iter().for_each(|path| owned.remove(path, &terms));
        added.into_iter().for_each(|(id, stored)| owned.add(id, stored, &terms));
        Ok(corpus)
    })
    .await?;
    Ok(())
}
