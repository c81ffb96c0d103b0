//! What the vector store knows about a root: which files it has read, and in which state.
//!
//! Three kinds of collection: `documents` lists the roots, `docs-ID-files` the files of one, `docs-ID` holds its chunks. The first two have one
//! dimension and are only ever scanned. A file's record is written before its chunks as pending and again after them as done, and is pending again
//! before its chunks are removed: what a crash leaves half done is found pending and done again.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sutazai_core::{
    Error, ErrorKind, Result,
    model::ModelInfo,
    store::{CollectionSpec, Selector, VectorRecord, VectorStore},
};

use super::{
    chunk,
    corpus::{Corpus, Stored},
    source::{Root, digest},
};
use crate::text::Terms;

const ROOTS: &str = "documents";
const PAGE: usize = 1_000;

/// A root as the list of roots keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RootRecord {
    pub root: String,
    pub is_folder: bool,
    /// The model that made the vectors, and their dimension.
    pub model: String,
    pub dimension: usize,
    /// [`chunk::VERSION`] of the chunks.
    pub chunking: u32,
}

/// A file as its root's manifest keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileRecord {
    pub path: String,
    pub size: u64,
    pub modified_ns: i64,
    /// When it was read, in milliseconds; 0 where what was found then need not hold next time.
    pub read_ms: i64,
    /// Of its bytes; empty while its chunks are being written.
    pub hash: String,
    /// How many chunks it has, or may have while it is pending.
    pub chunks: u32,
    /// Why it is no document.
    pub skipped: Option<String>,
}

impl FileRecord {
    /// The same while its chunks change.
    pub(super) fn pending(&self) -> Self {
        Self { hash: String::new(), skipped: None, ..self.clone() }
    }
}

/// The collections of one root.
#[derive(Clone, Debug)]
pub(super) struct Collections {
    pub chunks: String,
    pub files: String,
    pub id: String,
}

impl RootRecord {
    /// The file or folder, whether it is still there or not.
    pub(super) fn place(&self) -> Root {
        Root { path: PathBuf::from(&self.root), is_folder: self.is_folder }
    }
}

impl Collections {
    pub(super) fn of(root: &Root) -> Self {
        let id = root.id();
        Self { chunks: format!("docs-{id}"), files: format!("docs-{id}-files"), id }
    }

    /// Makes what is missing; begins anew where the vectors are of another model.
    pub(super) async fn open(&self, store: &dyn VectorStore, root: &Root, model: &ModelInfo) -> Result<()> {
        let record = RootRecord {
            root: root.path.to_string_lossy().into_owned(),
            is_folder: root.is_folder,
            model: model.name.clone(),
            dimension: model.dimension,
            chunking: chunk::VERSION,
        };
        store.create_collection(ROOTS, &CollectionSpec { dimension: 1 }).await?;
        let known = roots(store).await?.into_iter().find(|known| known.root == record.root);
        let stale = known.as_ref().is_some_and(|known| *known != record);
        if known.is_none() || stale {
            self.drop_all(store).await?;
        }
        store.create_collection(&self.chunks, &CollectionSpec { dimension: model.dimension }).await?;
        store.create_collection(&self.files, &CollectionSpec { dimension: 1 }).await?;
        if known.as_ref() != Some(&record) {
            store.upsert(ROOTS, vec![marker(self.id.clone(), &record)?]).await?;
        }
        Ok(())
    }

    /// Drops everything that is kept of the root.
    pub(super) async fn drop_all(&self, store: &dyn VectorStore) -> Result<()> {
        // The list forgets the root first: a crash in between finds it unknown and drops what is left when it is read again.
        store.delete(ROOTS, Selector::Ids(vec![self.id.clone()])).await?;
        store.drop_collection(&self.chunks).await?;
        store.drop_collection(&self.files).await
    }

    /// The manifest.
    pub(super) async fn files(&self, store: &dyn VectorStore) -> Result<BTreeMap<String, FileRecord>> {
        let records = scan::<FileRecord>(store, &self.files).await?;
        Ok(records.into_iter().map(|record| (record.path.clone(), record)).collect())
    }

    /// The chunks of the files that are done, with their lexical index.
    pub(super) async fn corpus(&self, store: &dyn VectorStore, files: &BTreeMap<String, FileRecord>) -> Result<Corpus> {
        let mut corpus = Corpus::default();
        let mut after: Option<String> = None;
        loop {
            let page = store.scan(&self.chunks, after.as_deref(), PAGE).await?;
            after = page.items.last().map(|record| record.id.clone());
            let more = page.more && after.is_some();
            let records = page.items.into_iter().map(|record| Ok((record.id, payload::<Stored>(record.payload)?)));
            let records: Vec<_> = records.collect::<Result<_>>()?;
            let of_done = |stored: &Stored| files.get(&stored.path).is_some_and(|file| !file.hash.is_empty());
            let records: Vec<_> = records.into_iter().filter(|(_, stored)| of_done(stored)).collect();
            corpus = super::blocking(move || {
                let terms = Terms::default();
                records.into_iter().for_each(|(id, stored)| corpus.add(id, stored, &terms));
                Ok(corpus)
            })
            .await?;
            if !more {
                return Ok(corpus);
            }
        }
    }

    /// Writes file records.
    pub(super) async fn put_files(&self, store: &dyn VectorStore, files: &[FileRecord]) -> Result<()> {
        let records = files.iter().map(|file| marker(file_id(&file.path), file)).collect::<Result<Vec<_>>>()?;
        store.upsert(&self.files, records).await
    }

    /// Removes the chunks of files, each from a number on, at once.
    pub(super) async fn trim<'a>(
        &self,
        store: &dyn VectorStore,
        files: impl IntoIterator<Item = (&'a FileRecord, u32)>,
    ) -> Result<()> {
        let ids_of =
            |(file, from): (&'a FileRecord, u32)| (from..file.chunks).map(|number| chunk_id(&file.path, number));
        let ids: Vec<_> = files.into_iter().flat_map(ids_of).collect();
        if !ids.is_empty() {
            store.delete(&self.chunks, Selector::Ids(ids)).await?;
        }
        Ok(())
    }

    /// Removes files that are gone with their chunks.
    pub(super) async fn remove(&self, store: &dyn VectorStore, files: &[FileRecord]) -> Result<()> {
        let pending: Vec<_> = files.iter().map(FileRecord::pending).collect();
        self.put_files(store, &pending).await?;
        self.trim(store, files.iter().map(|file| (file, 0))).await?;
        let ids = files.iter().map(|file| file_id(&file.path)).collect();
        store.delete(&self.files, Selector::Ids(ids)).await.map(drop)
    }
}

/// The roots that were ever read.
pub(super) async fn roots(store: &dyn VectorStore) -> Result<Vec<RootRecord>> {
    match scan(store, ROOTS).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        roots => roots,
    }
}

fn file_id(path: &str) -> String {
    digest(path.as_bytes())
}

/// In the order of a file's lines.
pub(super) fn chunk_id(path: &str, number: u32) -> String {
    format!("{}-{number:06}", file_id(path))
}

async fn scan<T: DeserializeOwned>(store: &dyn VectorStore, collection: &str) -> Result<Vec<T>> {
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = store.scan(collection, after.as_deref(), PAGE).await?;
        after = page.items.last().map(|record| record.id.clone());
        let more = page.more && after.is_some();
        for record in page.items {
            found.push(payload(record.payload)?);
        }
        if !more {
            return Ok(found);
        }
    }
}

/// A record that is found by scanning alone.
fn marker<T: Serialize>(id: String, of: &T) -> Result<VectorRecord> {
    Ok(VectorRecord { id, vector: vec![1.0], payload: fields(of)? })
}

/// A struct as a record's payload.
pub(super) fn fields<T: Serialize>(of: &T) -> Result<Map<String, Value>> {
    match serde_json::to_value(of) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Error::new(ErrorKind::Internal, "a record of the document index is no JSON object")),
    }
}

fn payload<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        Error::new(
            ErrorKind::Corrupt,
            "a record of the document index cannot be read; remove the data directory's vectors and ask again",
        )
        .with_code("index_corrupt")
        .because(error)
    })
}
