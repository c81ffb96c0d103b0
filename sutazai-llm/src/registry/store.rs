//! The models directory: which models are there, where their files are, and removing them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use etcetera::BaseStrategy;
use serde::Serialize;
use sutazai_core::{Error, ErrorKind, Result};

use super::{
    catalogue::{Catalogue, KnownFile, KnownModel, Role},
    download::{blocking, digest, io_error},
    manifest::{Look, Manifest, ManifestFile, modified_ms},
    pin,
};

/// A directory of models: `NAME/FILE`, `:` in a name written as `-`, beside a `manifest.json` that says what was checked.
#[derive(Clone, Debug)]
pub struct ModelStore {
    root: Arc<Path>,
    catalogue: Catalogue,
    quota: Option<u64>,
}

/// A model whose files are all there.
#[derive(Clone, Debug)]
pub struct Installed {
    /// What it is.
    pub model: &'static KnownModel,
    /// Where its files are.
    pub directory: PathBuf,
    /// What they are.
    pub manifest: Manifest,
}

impl Installed {
    /// The path of a file and what it should be.
    pub fn file(&self, role: Role) -> Result<(PathBuf, &ManifestFile)> {
        let file = self.manifest.file(role).ok_or_else(|| absent(self.model))?;
        Ok((self.directory.join(&file.name), file))
    }
}

/// A known model and its state on disk.
#[derive(Clone, Debug, Serialize)]
pub struct ListedModel {
    /// What it is.
    #[serde(flatten)]
    pub model: &'static KnownModel,
    /// Which version of it is known: the beginning of the digest of its weights.
    pub version: &'static str,
    /// Whether it is there.
    pub state: ModelState,
    /// Whether it is pinned: neither removed nor replaced.
    pub pinned: bool,
    /// Bytes it takes on this disk, partial files included.
    pub disk_bytes: u64,
    /// Where it is, or would be.
    pub directory: PathBuf,
    /// Where its files came from.
    pub sources: Vec<String>,
}

/// Whether a model is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is", content = "why")]
pub enum ModelState {
    /// All of it, checked when it came and unchanged since.
    Ready,
    /// A pull was begun and not ended.
    Partial,
    /// None of it.
    Absent,
    /// Something is wrong with what is there.
    Damaged(String),
}

impl ModelStore {
    /// The store in `root`, with the models that come with every build. Touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into().into(), catalogue: Catalogue::embedded(), quota: None }
    }

    /// The store that the environment names: `SUTAZAI_MODELS_DIR`, else `sutazai/models` in the user's cache directory.
    pub fn from_env() -> Result<Self> {
        Self::default_root().map(Self::new)
    }

    /// The directory that the environment names.
    pub fn default_root() -> Result<PathBuf> {
        if let Some(path) = env::var_os("SUTAZAI_MODELS_DIR").filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let base = etcetera::choose_base_strategy().map_err(|error| {
            Error::new(ErrorKind::Invalid, "this user has no home directory; set SUTAZAI_MODELS_DIR")
                .during("find models directory")
                .because(error)
        })?;
        Ok(base.cache_dir().join("sutazai").join("models"))
    }

    /// The same directory with other known models.
    #[must_use]
    pub fn with_catalogue(mut self, catalogue: Catalogue) -> Self {
        self.catalogue = catalogue;
        self
    }

    /// The same directory, in which the models may take so many bytes and no more; without a bound by default.
    ///
    /// Nothing is ever removed to make room: a pull that would go beyond fails, and says which models could be removed.
    #[must_use]
    pub fn with_quota(mut self, bytes: Option<u64>) -> Self {
        self.quota = bytes;
        self
    }

    /// The bytes that the models may take, if that is bounded.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        self.quota
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The known models.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        self.catalogue
    }

    /// Where a model's files are, or would be.
    #[must_use]
    pub fn directory(&self, model: &KnownModel) -> PathBuf {
        self.root.join(model.directory())
    }

    pub(super) fn lock_path(&self, model: &KnownModel) -> PathBuf {
        self.root.join(format!(".{}.lock", model.directory()))
    }

    /// No model's lock has this name.
    pub(super) fn quota_lock_path(&self) -> PathBuf {
        self.root.join(".quota")
    }

    pub(super) fn pin_path(&self, model: &KnownModel) -> PathBuf {
        self.root.join(format!(".{}.pin", model.directory()))
    }

    /// The model of this name, if all its files are there with the right length and of the digests that are pinned now. Does not read them.
    ///
    /// Code `model_not_found` for an unknown or absent one (the message says how to get it), `corrupt` for a damaged one.
    pub async fn installed(&self, name: &str) -> Result<Installed> {
        let (store, name) = (self.clone(), name.to_owned());
        blocking(move || store.find_installed(&name)).await?
    }

    /// As [`installed`](Self::installed), for threads that may block.
    pub(crate) fn find_installed(&self, name: &str) -> Result<Installed> {
        let model = self.catalogue.find(name)?;
        let directory = self.directory(model);
        let manifest = Manifest::read(&directory)?.ok_or_else(|| absent(model))?;
        for known in model.files {
            let file = pinned(&manifest, known).ok_or_else(|| absent(model))?;
            match file.look(&directory) {
                Look::Unchanged | Look::Touched => {}
                Look::Missing => return Err(absent(model)),
                Look::WrongSize(found) => return Err(damaged(model, wrong_size(file, found))),
            }
        }
        Ok(Installed { model, directory, manifest })
    }

    /// Every known model and its state on disk. Reads a file again only if it was written since it was checked.
    pub async fn list(&self) -> Result<Vec<ListedModel>> {
        let store = self.clone();
        blocking(move || store.catalogue.models().iter().map(|model| store.listed(model)).collect()).await
    }

    fn listed(&self, model: &'static KnownModel) -> ListedModel {
        let directory = self.directory(model);
        let (state, sources) = match Manifest::read(&directory) {
            Err(error) => (ModelState::Damaged(error.report()), Vec::new()),
            Ok(manifest) => {
                let manifest = manifest.unwrap_or_else(|| Manifest::new(model.name));
                let mut sources: Vec<_> = manifest.files.iter().map(|file| file.source.clone()).collect();
                sources.dedup();
                (state(model, &manifest, &directory), sources)
            }
        };
        let pinned = pin::is_there(&self.pin_path(model));
        ListedModel { model, version: model.version(), state, pinned, disk_bytes: size(&directory), directory, sources }
    }

    /// Reads every file of a model and compares its digest; code `corrupt` if one differs.
    pub async fn verify(&self, name: &str) -> Result<Installed> {
        let installed = self.installed(name).await?;
        blocking(move || {
            for file in &installed.manifest.files {
                let path = installed.directory.join(&file.name);
                let found = digest(&path, |_| {}).map_err(|error| io_error(&error, "read", &path))?;
                if found != file.sha256 {
                    return Err(damaged(
                        installed.model,
                        format!("the SHA-256 of {} is {found}, not {}", file.name, file.sha256),
                    ));
                }
            }
            Ok(installed)
        })
        .await?
    }
}

/// The entry, brought up to date, of a file whose digest holds. Reads the file only if it may have changed. Blocks.
pub(super) fn check(directory: &Path, mut entry: ManifestFile, tell: impl FnMut(u64)) -> Option<ManifestFile> {
    match entry.look(directory) {
        Look::Unchanged => Some(entry),
        Look::Touched => {
            let path = directory.join(&entry.name);
            entry.modified_ms = modified_ms(&fs::metadata(&path).ok()?);
            (digest(&path, tell).ok()? == entry.sha256).then_some(entry)
        }
        Look::WrongSize(_) | Look::Missing => None,
    }
}

fn state(model: &'static KnownModel, manifest: &Manifest, directory: &Path) -> ModelState {
    let mut missing = 0;
    for known in model.files {
        let Some(file) = pinned(manifest, known) else {
            missing += 1;
            continue;
        };
        match file.look(directory) {
            Look::Missing => missing += 1,
            Look::WrongSize(found) => return ModelState::Damaged(wrong_size(file, found)),
            _ if check(directory, file.clone(), |_| {}).is_none() => {
                return ModelState::Damaged(format!("{} has changed; remove the model and pull it again", file.name));
            }
            _ => {}
        }
    }
    match missing {
        0 => ModelState::Ready,
        _ if directory.is_dir() => ModelState::Partial,
        _ => ModelState::Absent,
    }
}

/// The entry of a file, unless another digest was pinned when it came.
fn pinned<'a>(manifest: &'a Manifest, known: &KnownFile) -> Option<&'a ManifestFile> {
    manifest.file(known.role).filter(|file| file.sha256 == known.sha256)
}

fn wrong_size(file: &ManifestFile, found: u64) -> String {
    format!("{} has {found} of {} bytes", file.name, file.bytes)
}

pub(super) fn absent(model: &KnownModel) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("this model is not on disk; get it with `sutazai-server models pull {}`", model.name),
    )
    .with_code("model_not_found")
    .during("find model")
    .about(model.name)
}

fn damaged(model: &KnownModel, what: String) -> Error {
    let message = format!("{what}; remove the model and pull it again");
    Error::new(ErrorKind::Corrupt, message).with_code("model_damaged").during("check model").about(model.name)
}

/// The bytes of the files in a directory, without those in directories below it.
pub(super) fn size(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
