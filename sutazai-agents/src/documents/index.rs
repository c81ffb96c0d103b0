//! The index of one root in memory: its manifest and its corpus, as the vector store holds them.

use std::{collections::BTreeMap, sync::Arc};

use sutazai_core::{Result, model::ModelInfo, store::VectorStore};

use super::{
    corpus::Corpus,
    manifest::{Collections, FileRecord},
    source::Root,
};

/// What is known of a root.
pub(super) struct Index {
    pub collections: Collections,
    /// The model that made the vectors.
    pub model: String,
    pub files: BTreeMap<String, FileRecord>,
    pub corpus: Arc<Corpus>,
}

impl Index {
    /// Reads it from the store; what is missing there is made, empty.
    pub(super) async fn load(store: &dyn VectorStore, root: &Root, model: &ModelInfo) -> Result<Self> {
        let collections = Collections::of(root);
        collections.open(store, root, model).await?;
        let files = collections.files(store).await?;
        let corpus = Arc::new(collections.corpus(store, &files).await?);
        Ok(Self { collections, model: model.name.clone(), files, corpus })
    }
}
