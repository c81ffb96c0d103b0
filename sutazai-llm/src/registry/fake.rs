//! What the tests of pins and quotas share: a store that knows two small models, and a folder that has their files.

use std::{fs, sync::Arc};

use sha2::{Digest, Sha256};
use sutazai_core::{Result, model::ModelCapabilities};
use tempfile::TempDir;

use super::{Catalogue, Format, KnownFile, KnownModel, ModelState, ModelStore, Pulled, Role, Sources, download::hex};

/// A store of its own, which knows the models `one` and `two`.
pub(super) struct Shelf {
    root: TempDir,
    pub(super) store: ModelStore,
}

impl Shelf {
    /// An empty store.
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let models = ["one", "two"].map(|name| model(name, Self::bytes(name)));
        let store = ModelStore::new(root.path().join("models")).with_catalogue(Catalogue::of(models.to_vec().leak()));
        let shelf = Self { root, store };
        ["one", "two"].iter().for_each(|name| shelf.give(name, Self::bytes(name)));
        shelf
    }

    /// The weights of a model; those of `two` are the larger ones.
    pub(super) fn bytes(name: &str) -> &'static [u8] {
        match name {
            "one" => &[1; 1_000],
            _ => &[2; 3_000],
        }
    }

    /// From now on the model `name` has these weights.
    pub(super) fn renew(&mut self, name: &str, bytes: &[u8]) {
        let models = self.store.catalogue().models().iter();
        let models: Vec<_> =
            models.map(|known| if known.name == name { model(known.name, bytes) } else { known.clone() }).collect();
        self.store = self.store.clone().with_catalogue(Catalogue::of(models.leak()));
        self.give(name, bytes);
    }

    pub(super) async fn pull(&self, name: &str) -> Result<Pulled> {
        let sources = Sources::none().with_from(Some(self.root.path().join("given")));
        self.store.pull(&[name.into()], &sources, Arc::new(())).await.pop().unwrap()
    }

    /// Whether a model is there, and whether it is pinned, as the list has it.
    pub(super) async fn listed(&self, name: &str) -> (bool, bool) {
        let models = self.store.list().await.unwrap();
        let found = models.iter().find(|listed| listed.model.name == name).unwrap();
        assert_eq!(found.version, &found.model.digest()[..12]);
        (found.state == ModelState::Ready, found.pinned)
    }

    /// Whether the weights of a model in the store are these bytes.
    pub(super) fn holds(&self, name: &str, bytes: &[u8]) -> bool {
        fs::read(self.store.root().join(name).join(format!("{name}.gguf"))).is_ok_and(|found| found == bytes)
    }

    fn give(&self, name: &str, bytes: &[u8]) {
        let folder = self.root.path().join("given");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.gguf")), bytes).unwrap();
    }
}

/// A model that only tests know.
pub(super) fn known(name: &'static str, aliases: &'static [&'static str], files: Vec<KnownFile>) -> KnownModel {
    KnownModel {
        name,
        aliases,
        description: "a model for tests",
        family: "llama",
        parameters: 1,
        quantisation: "F32",
        memory_bytes: 1,
        context_length: 8,
        dimension: 0,
        capabilities: ModelCapabilities { chat: true, ..ModelCapabilities::NONE },
        license: "MIT",
        files: files.leak(),
    }
}

fn model(name: &'static str, bytes: &[u8]) -> KnownModel {
    let file = KnownFile {
        role: Role::Weights,
        name: format!("{name}.gguf").leak(),
        format: Format::Gguf,
        bytes: bytes.len() as u64,
        sha256: hex(&Sha256::digest(bytes)).leak(),
        origins: &[],
    };
    known(name, &[], vec![file])
}
