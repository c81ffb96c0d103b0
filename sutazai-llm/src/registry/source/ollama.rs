//! The store of an Ollama on this machine: blobs named by their digest, found through its manifests or through `/api/show`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::quantized::gguf_file;
use serde::Deserialize;
use sutazai_core::{Error, ErrorKind};

use super::{absent, copy_file, on_thread};
use crate::{
    ollama::OllamaClient,
    registry::{
        catalogue::KnownModel,
        download::{Failure, Wanted},
        manifest::ManifestFile,
    },
};

/// Takes the weights of `name` from the first store that has them.
///
/// The pinned file is preferred. Ollama's own build of the model (other quantisation, other digest) is taken where the pinned one is not there: its
/// bytes are checked against the digest that Ollama's store names them by.
pub(super) async fn fetch(
    name: &'static str,
    stores: &[PathBuf],
    urls: &[String],
    model: &'static KnownModel,
    wanted: Arc<Wanted>,
    source: &str,
) -> Result<ManifestFile, Failure> {
    let shown = shown_blobs(urls, name).await;
    let (stores, source) = (stores.to_vec(), source.to_owned());
    on_thread(move || {
        let found = find(&stores, shown, name, &wanted)?;
        let wanted = if found.sha256 == wanted.sha256 { wanted } else { own_build(&found, model, &wanted)? };
        copy_file(&found.path, wanted, &source)
    })
    .await
}

/// A blob of a store.
struct Blob {
    path: PathBuf,
    sha256: String,
}

impl Blob {
    fn at(path: PathBuf) -> Option<Self> {
        let sha256 = path.file_name()?.to_str()?.strip_prefix("sha256-")?.to_owned();
        let hexadecimal = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        (hexadecimal && path.is_file()).then_some(Self { path, sha256 })
    }

    fn of(store: &Path, sha256: &str) -> Option<Self> {
        Self::at(store.join("blobs").join(format!("sha256-{sha256}")))
    }
}

fn find(stores: &[PathBuf], shown: Vec<PathBuf>, name: &str, wanted: &Wanted) -> Result<Blob, Failure> {
    let pinned = stores.iter().find_map(|store| Blob::of(store, &wanted.sha256));
    let listed = || stores.iter().find_map(|store| Blob::of(store, &listed_digest(store, name)?));
    let shown = || shown.into_iter().find_map(Blob::at);
    pinned.or_else(listed).or_else(shown).ok_or_else(|| absent("no Ollama here holds it where this user can read it"))
}

/// The digest of the weights in the manifest of a model, if the store has one.
fn listed_digest(store: &Path, name: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        media_type: String,
        digest: String,
    }
    #[derive(Deserialize)]
    struct OllamaManifest {
        layers: Vec<Layer>,
    }

    let (model, tag) = name.split_once(':').unwrap_or((name, "latest"));
    let path = store.join("manifests").join("registry.ollama.ai").join("library").join(model).join(tag);
    let manifest: OllamaManifest = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let layer = manifest.layers.into_iter().find(|layer| layer.media_type == "application/vnd.ollama.image.model")?;
    Some(layer.digest.strip_prefix("sha256:")?.to_owned())
}

/// The paths that running servers name as the origin of the model.
async fn shown_blobs(urls: &[String], name: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for url in urls {
        let Ok(client) = OllamaClient::new(url) else { continue };
        let Ok(shown) = client.show(name).await else { continue };
        paths.extend(
            shown
                .modelfile
                .lines()
                .filter_map(|line| line.strip_prefix("FROM "))
                .map(|path| PathBuf::from(path.trim())),
        );
    }
    paths
}

/// What is wanted, when it is Ollama's own build of the model: a GGUF of the same architecture.
fn own_build(blob: &Blob, model: &'static KnownModel, wanted: &Wanted) -> Result<Arc<Wanted>, Failure> {
    let other = |message: &'static str| {
        Failure::Source(Error::new(ErrorKind::Unsupported, message).during("read").about(blob.path.display()))
    };
    let open = || {
        let mut file = fs::File::open(&blob.path)?;
        Ok::<_, candle_core::Error>((file.metadata()?.len(), gguf_file::Content::read(&mut file)?))
    };
    let (bytes, content) = open().map_err(|error| match other("it is no GGUF file that can be read") {
        Failure::Source(unreadable) => Failure::Source(unreadable.because(error.to_string())),
        disk @ Failure::Disk(_) => disk,
    })?;
    let architecture = content.metadata.get("general.architecture").and_then(|value| value.to_string().ok());
    if architecture.is_none_or(|architecture| architecture != model.family) {
        return Err(other("it has another architecture than this model"));
    }
    let name = format!("ollama-{}.gguf", blob.sha256.get(..12).unwrap_or_default());
    Ok(Arc::new(Wanted { name, bytes, sha256: blob.sha256.clone(), ..wanted.clone() }))
}
