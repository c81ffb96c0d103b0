//! A pin: a small file beside a model's directory that says that the model stays as it is, and in which version.

use std::{fs, io, path::Path};

use sutazai_core::{Error, ErrorKind, Result};

use super::{
    catalogue::KnownModel,
    download::{io_error, write_atomically},
};

/// Whether there is a pin at `path`; where that cannot be found out, there is. Blocks.
pub(super) fn is_there(path: &Path) -> bool {
    fs::exists(path).unwrap_or(true)
}

/// Pins the version of `model` that is known. Blocks.
pub(super) fn put(path: &Path, model: &KnownModel) -> Result<()> {
    let text = format!("{}\n", model.digest());
    write_atomically(path, text.as_bytes()).map_err(|error| io_error(&error, "pin", path))
}

/// Takes the pin away, and says whether there was one. Blocks.
pub(super) fn take(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(&error, "unpin", path)),
    }
}

/// Refuses to put the version of `model` that is known in the place of another one that is pinned. Blocks.
pub(super) fn may_replace(path: &Path, model: &KnownModel) -> Result<()> {
    match fs::read_to_string(path) {
        Ok(digest) if digest.trim() == model.digest() => Ok(()),
        Ok(_) => Err(refused(model, "it is pinned in another version than the one that is known now").during("pull")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(&error, "read pin", path)),
    }
}

/// The error of what a pin forbids.
pub(super) fn refused(model: &KnownModel, why: &str) -> Error {
    let message = format!("{why}; unpin it with `sutazai-server models unpin {}`", model.name);
    Error::new(ErrorKind::Conflict, message).with_code("model_pinned").about(model.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Catalogue;

    #[test]
    fn a_pin_holds_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".smollm2-135m.pin");
        let model = Catalogue::embedded().find("smollm2").unwrap();
        assert!(!is_there(&path) && may_replace(&path, model).is_ok() && !take(&path).unwrap());
        put(&path, model).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", model.digest()));
        assert!(is_there(&path) && may_replace(&path, model).is_ok());
        // Of another version, or of none that can be read.
        for text in ["0123456789\n", ""] {
            fs::write(&path, text).unwrap();
            let error = may_replace(&path, model).unwrap_err();
            assert_eq!((error.code(), error.kind()), ("model_pinned", ErrorKind::Conflict));
        }
        assert!(take(&path).unwrap() && !is_there(&path));
    }
}
