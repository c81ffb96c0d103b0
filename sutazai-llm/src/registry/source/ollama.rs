//! The store of an Ollama on this machine, whose blobs are named by their digest.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{absent, copy_file, on_thread};
use crate::{
    ollama::OllamaClient,
    registry::{
        download::{Failure, Wanted},
        manifest::ManifestFile,
    },
};

/// Takes the file from the first store that has it. Ollama's own build of the model has other bytes, and is left where it is.
///
/// `stores` are directories; further ones are where running servers say that they keep the model `name`.
pub(super) async fn fetch(
    name: &'static str,
    stores: Vec<PathBuf>,
    urls: &[String],
    wanted: Arc<Wanted>,
    source: String,
) -> Result<ManifestFile, Failure> {
    let mut directories: Vec<_> = stores.into_iter().map(|store| store.join("blobs")).collect();
    directories.extend(blob_directories(urls, name).await);
    on_thread(move || {
        let blob = format!("sha256-{}", wanted.sha256);
        let found = directories.into_iter().map(|directory| directory.join(&blob)).find(|path| path.is_file());
        let path = found.ok_or_else(|| absent("no Ollama here holds this very file where this user can read it"))?;
        copy_file(&path, wanted, &source)
    })
    .await
}

/// The directories in which running servers keep the model.
async fn blob_directories(urls: &[String], name: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for url in urls {
        let Ok(client) = OllamaClient::new(url) else { continue };
        let Ok(shown) = client.show(name).await else { continue };
        let origins = shown.modelfile.lines().filter_map(|line| line.strip_prefix("FROM "));
        directories.extend(origins.filter_map(|path| Path::new(path.trim()).parent()).map(Path::to_path_buf));
    }
    directories
}
