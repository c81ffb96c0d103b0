//! Pulling: each model under its lock, each file from the first source that has the right bytes.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use serde::Serialize;
use sutazai_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{
    catalogue::{KnownFile, KnownModel},
    download::{Failure, Wanted, blocking, remove, tidy},
    lock::{Held, Lock},
    manifest::{Manifest, ManifestFile},
    pin,
    progress::{PullProgress, PullUpdate, Stage},
    source::{Packages, Sources, UNREACHABLE},
    store::{ModelStore, check},
};

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The model.
    pub model: &'static str,
    /// Bytes that were fetched: 0 if all of it was there.
    pub fetched_bytes: u64,
    /// What its directory holds now.
    pub manifest: Manifest,
    /// Sources that could not serve before one could.
    pub failed: Vec<Tried>,
}

/// A source that could not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The file.
    pub file: &'static str,
    /// The source.
    pub source: String,
    /// Why not.
    pub reason: String,
}

impl ModelStore {
    /// Brings models onto the disk: one result per name, in order; one that fails does not stop the others.
    ///
    /// A file has its name only when all its bytes are there, durable and of the pinned digest; what is there already is not fetched again, and what
    /// was begun is resumed. Sources are tried in order. Where none can serve the code is `model_unreachable`, and the error says what was tried.
    /// Safe against other processes that pull the same model; dropping the future stops it, and the next pull goes on from there.
    ///
    /// A pinned model of another version than the known one stays as it is: code `model_pinned`. What would be beyond the
    /// [quota](Self::with_quota) is not begun: code `models_quota_exceeded`. Under a quota models are brought one after the other.
    pub async fn pull(
        &self,
        names: &[String],
        sources: &Sources,
        progress: Arc<dyn PullProgress>,
    ) -> Vec<Result<Pulled>> {
        let pulls = names.iter().map(|name| {
            let (model, progress) = (self.catalogue().find(name), progress.clone());
            async move { self.pull_one(model?, sources, progress).await }
        });
        join_all(pulls).await
    }

    async fn pull_one(
        &self,
        model: &'static KnownModel,
        sources: &Sources,
        progress: Arc<dyn PullProgress>,
    ) -> Result<Pulled> {
        let directory = self.directory(model);
        let waiting = || {
            let file = model.files.first().map_or("", |file| file.name);
            let (stage, total) = (Stage::Waiting, model.bytes());
            progress.update(&PullUpdate { model: model.name, file, stage, source: "", bytes: 0, total });
        };
        // Always in this order, and whoever changes a model alone takes the second only: nobody waits in a circle.
        let room = match self.quota() {
            Some(_) => Some(Lock::acquire(self.quota_lock_path(), waiting).await?),
            None => None,
        };
        let held = Arc::new(Held::new(Lock::acquire(self.lock_path(model), waiting).await?, room));
        {
            let store = self.clone();
            blocking(move || pin::may_replace(&store.pin_path(model), model).and_then(|()| store.has_room(model)))
                .await??;
        }
        let cancel = CancellationToken::new();
        let _stop_when_dropped = cancel.clone().drop_guard();
        let packages = Packages::new(sources.pip.clone(), &directory);
        // A manifest that cannot be read is as good as none: every file is looked at again below.
        let mut manifest = {
            let directory = directory.clone();
            blocking(move || Manifest::read(&directory))
                .await?
                .ok()
                .flatten()
                .unwrap_or_else(|| Manifest::new(model.name))
        };
        let (mut fetched_bytes, mut trail) = (0, Trail::default());
        let mut outcome = Ok(());
        for file in model.files {
            let wanted = Arc::new(Wanted {
                model: model.name,
                directory: directory.clone(),
                role: file.role,
                name: file.name.into(),
                format: file.format,
                bytes: file.bytes,
                sha256: file.sha256.into(),
                progress: progress.clone(),
                _held: held.clone(),
                cancel: cancel.clone(),
            });
            let known = manifest.file(file.role).cloned();
            let entry = match present(known.clone(), wanted.clone()).await? {
                Some(entry) => entry,
                None => match fetch(model, file, sources, wanted, &packages, &mut trail).await {
                    Ok(entry) => {
                        fetched_bytes += entry.bytes;
                        entry
                    }
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                },
            };
            let replaced = known.filter(|known| known.name != entry.name);
            manifest.put(entry);
            let (manifest, directory) = (manifest.clone(), directory.clone());
            blocking(move || {
                manifest.write(&directory)?;
                replaced.iter().for_each(|file| remove(&directory, &file.name));
                Ok(())
            })
            .await??;
        }
        packages.clear().await?;
        let whole = outcome.is_ok();
        blocking(move || tidy(&directory, whole)).await?;
        outcome.map(|()| Pulled { model: model.name, fetched_bytes, manifest, failed: trail.failed })
    }
}

/// The entry of a file that is there and has the digest that it should have.
async fn present(known: Option<ManifestFile>, wanted: Arc<Wanted>) -> Result<Option<ManifestFile>> {
    blocking(move || {
        // Another digest was pinned when that file came.
        let known = known.filter(|known| known.sha256 == wanted.sha256);
        let source = known.as_ref().map_or_else(|| "found in the directory".to_owned(), |known| known.source.clone());
        let Wanted { role, ref name, format, bytes, ref sha256, .. } = *wanted;
        let pinned =
            ManifestFile { role, name: name.clone(), format, bytes, sha256: sha256.clone(), source, modified_ms: 0 };
        let tell = |read| wanted.tell(Stage::Checking, "", read, bytes);
        for entry in known.into_iter().chain([pinned]) {
            if let Some(entry) = check(&wanted.directory, entry, tell) {
                wanted.tell(Stage::Done, &entry.source, entry.bytes, entry.bytes);
                return Some(entry);
            }
        }
        None
    })
    .await
}

/// What a pull has met so far.
#[derive(Default)]
struct Trail {
    failed: Vec<Tried>,
    /// Sources that are not asked again, and why.
    unreachable: HashMap<String, String>,
}

async fn fetch(
    model: &'static KnownModel,
    file: &'static KnownFile,
    sources: &Sources,
    wanted: Arc<Wanted>,
    packages: &Packages,
    trail: &mut Trail,
) -> Result<ManifestFile> {
    let before = trail.failed.len();
    for step in sources.plan(file) {
        let source = step.to_string();
        if let Some(reason) = trail.unreachable.get(&source).cloned() {
            trail.failed.push(Tried { file: file.name, source, reason });
            continue;
        }
        match step.fetch(model, file, wanted.clone(), packages).await {
            Ok(entry) => return Ok(entry),
            Err(Failure::Disk(error)) => return Err(error),
            Err(Failure::Source(error)) => {
                let reason = error.report();
                if error.code() == UNREACHABLE {
                    trail.unreachable.insert(source.clone(), reason.clone());
                }
                tracing::debug!(model = model.name, file = file.name, source, reason, "source cannot serve");
                trail.failed.push(Tried { file: file.name, source, reason });
            }
        }
    }
    let tried: Vec<_> =
        trail.failed[before..].iter().map(|tried| format!("{}: {}", tried.source, tried.reason)).collect();
    let tried = if tried.is_empty() { "no source is allowed".into() } else { tried.join("; ") };
    let message = format!(
        "no source has {} ({tried}). connect to the network and pull again, or bring the file here by other means and pull with --from PATH",
        file.name
    );
    Err(Error::new(ErrorKind::Unavailable, message).with_code("model_unreachable").during("pull").about(model.name))
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
