//! `manifest.json`: what a model's directory holds, where it came from, and what was checked.

use std::{fs, io, path::Path, time::UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sutazai_core::{Error, ErrorKind, Result};

use super::{
    catalogue::{Format, Role},
    download,
};

/// The name of the file.
pub(super) const NAME: &str = "manifest.json";

/// The form of the file; another number means another form.
const VERSION: u32 = 1;

/// What a model's directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this file.
    pub version: u32,
    /// The model.
    pub model: String,
    /// Its files.
    pub files: Vec<ManifestFile>,
}

/// A file whose digest was checked when it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// What it is for.
    pub role: Role,
    /// Its name in this directory.
    pub name: String,
    /// Its format.
    pub format: Format,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub source: String,
    /// When the file was last written, in milliseconds since 1970: while this holds, the digest holds.
    pub modified_ms: u64,
}

impl Manifest {
    /// An empty one for `model`.
    pub(super) fn new(model: &str) -> Self {
        Self { version: VERSION, model: model.into(), files: Vec::new() }
    }

    /// Reads it; `None` where there is none, code `corrupt` where it cannot be read.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(NAME);
        let corrupt = || {
            Error::new(ErrorKind::Corrupt, "this is no manifest of this version; remove the model and pull it again")
                .during("read manifest")
                .about(path.display())
        };
        match fs::read(&path) {
            Ok(bytes) => {
                let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| corrupt().because(error))?;
                if manifest.version == VERSION { Ok(Some(manifest)) } else { Err(corrupt()) }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(download::io_error(&error, "read manifest", &path)),
        }
    }

    /// Writes it whole or not at all.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(NAME);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "the manifest does not serialise").because(error))?;
        download::write_atomically(&path, &bytes).map_err(|error| download::io_error(&error, "write manifest", &path))
    }

    /// Its entry for a role.
    #[must_use]
    pub fn file(&self, role: Role) -> Option<&ManifestFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Takes `file` in place of what has its role.
    pub(super) fn put(&mut self, file: ManifestFile) {
        self.files.retain(|other| other.role != file.role);
        self.files.push(file);
    }
}

/// How a file on disk compares with its entry, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// As it was when its digest was checked.
    Unchanged,
    /// Written since, of the same length: its digest must be checked again.
    Touched,
    /// Another length.
    WrongSize(u64),
    /// Not there.
    Missing,
}

impl ManifestFile {
    pub(super) fn look(&self, directory: &Path) -> Look {
        match fs::metadata(directory.join(&self.name)) {
            Ok(found) if found.len() != self.bytes => Look::WrongSize(found.len()),
            Ok(found) if modified_ms(&found) == self.modified_ms => Look::Unchanged,
            Ok(_) => Look::Touched,
            Err(_) => Look::Missing,
        }
    }
}

/// When a file was last written.
pub(super) fn modified_ms(metadata: &fs::Metadata) -> u64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_on_disk_is_this_one() {
        let golden = include_str!("../../tests/goldens/manifest-v1.json");
        let manifest: Manifest = serde_json::from_str(golden).unwrap();
        assert_eq!(manifest.file(Role::Weights).unwrap().bytes, 98_362_432);
        assert_eq!(serde_json::to_string_pretty(&manifest).unwrap(), golden.trim_end());
    }

    #[test]
    fn another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        for text in [r#"{"version":2,"model":"m","files":[]}"#, "{", ""] {
            fs::write(dir.path().join(NAME), text).unwrap();
            assert_eq!(Manifest::read(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
