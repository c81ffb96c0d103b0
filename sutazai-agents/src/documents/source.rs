//! Where documents come from: a file or a folder, walked in a stable order and read as UTF-8.

use std::{
    fs::{self, File},
    io::{ErrorKind as IoKind, Read as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use ignore::WalkBuilder;
use sha2::{Digest, Sha256};
use sutazai_core::{Error, ErrorKind, Result};

use super::{DocumentsOptions, Warning};

/// Where files are made up by the kernel: devices, processes with their secrets.
const SYSTEM: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A file or a folder of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// Canonical: two spellings of one place share an index.
    pub path: PathBuf,
    pub is_folder: bool,
}

/// A file as the walk sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Relative to the root, with `/` between the parts; a single file's own name.
    pub name: String,
    pub path: PathBuf,
    pub size: u64,
    pub modified_ns: i64,
}

/// What reading a file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Text {
        text: String,
        hash: String,
    },
    /// Not a document, and why.
    Skipped {
        why: String,
        /// Whether that holds as long as the file does not change.
        lasting: bool,
    },
}

impl Root {
    /// Finds `docs`, which must lie under one of the allowed roots where such are set. Blocks.
    pub(super) fn open(docs: &str, options: &DocumentsOptions) -> Result<Self> {
        let path = fs::canonicalize(docs).map_err(|error| {
            let (kind, message) = match error.kind() {
                IoKind::NotFound => {
                    (ErrorKind::NotFound, "there is no such file or folder; name one that this server can read")
                }
                IoKind::PermissionDenied => {
                    (ErrorKind::Invalid, "this file or folder may not be read by the server's user")
                }
                _ => (ErrorKind::Invalid, "this file or folder cannot be read"),
            };
            Error::new(kind, message).with_code("docs_not_found").during("open").about(docs).because(error)
        })?;
        let refused = |message: &'static str| {
            Error::new(ErrorKind::Invalid, message).with_code("docs_not_allowed").during("open").about(docs)
        };
        if SYSTEM.iter().any(|system| path.starts_with(system)) {
            return Err(refused("this is the system's own view of itself, not documents; name another place"));
        }
        let allowed = |root: &PathBuf| fs::canonicalize(root).is_ok_and(|root| path.starts_with(root));
        if !options.roots.is_empty() && !options.roots.iter().any(allowed) {
            return Err(refused("it lies outside the folders that this server may read; ask its operator to allow it"));
        }
        let is_folder = path.is_dir();
        Ok(Self { path, is_folder })
    }

    /// The same for the same place, in characters that every store takes as a name.
    pub(super) fn id(&self) -> String {
        digest(self.path.to_string_lossy().as_bytes())
    }

    /// The file behind a [`Found::name`].
    pub(super) fn file(&self, name: &str) -> PathBuf {
        if self.is_folder { self.path.join(name) } else { self.path.clone() }
    }
}

/// Every file below `root` that is not hidden and not ignored, by name. Blocks.
pub(super) fn walk(root: &Root, warnings: &mut Vec<Warning>) -> Vec<Found> {
    // The ignore files of a folder count, those of the folders around it do not: what the user names is what is read.
    let mut walker = WalkBuilder::new(&root.path);
    walker.parents(false).git_global(false).require_git(false).follow_links(false).same_file_system(true);
    let mut found = Vec::new();
    for entry in walker.build() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                warnings.push(Warning::new("", format!("a part of the folder cannot be read: {error}")));
                continue;
            }
        };
        let Some(kind) = entry.file_type() else { continue };
        let name = name_of(&root.path, entry.path());
        if kind.is_symlink() {
            warnings.push(Warning::new(name, "skipped, it is a symbolic link; name what it points to instead"));
            continue;
        }
        if !kind.is_file() {
            continue;
        }
        if entry.path().to_str().is_none() {
            warnings.push(Warning::new(name, "skipped, its name is not UTF-8; rename it"));
            continue;
        }
        match entry.metadata() {
            Ok(metadata) => {
                let since =
                    metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
                let modified_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
                found.push(Found { name, path: entry.into_path(), size: metadata.len(), modified_ns });
            }
            Err(error) => warnings.push(Warning::new(name, format!("skipped, it cannot be read: {error}"))),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn name_of(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).ok().filter(|rest| !rest.as_os_str().is_empty());
    match relative {
        Some(rest) => rest.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/"),
        None => path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
    }
}

/// Reads a file as UTF-8. Blocks.
pub(super) fn read(found: &Found, options: &DocumentsOptions) -> Content {
    // The limit and the rights to a file change without the file.
    let skipped = |why: String, lasting| Content::Skipped { why: format!("skipped, {why}"), lasting };
    let limit = options.max_file_bytes;
    let too_large = || skipped(format!("it is larger than {limit} bytes"), false);
    if found.size > limit {
        return too_large();
    }
    match bytes(&found.path, limit) {
        Ok(Some(bytes)) => match text(&bytes) {
            Ok(text) => Content::Text { hash: digest(&bytes), text },
            Err(why) => skipped(why.to_owned(), true),
        },
        Ok(None) => too_large(),
        Err(error) => skipped(format!("it cannot be read: {error}"), false),
    }
}

fn bytes(path: &Path, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // The file may grow while it is read: the limit is on what is read, not on what the walk saw.
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

fn text(bytes: &[u8]) -> Result<String, &'static str> {
    if bytes.contains(&0) {
        return Err("it is binary");
    }
    std::str::from_utf8(bytes)
        .map(|text| text.strip_prefix('\u{feff}').unwrap_or(text).to_owned())
        .map_err(|_| "it is not UTF-8 text")
}

/// The first 16 bytes of the SHA-256, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_in_order_and_hidden_files_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("b.md", "x"),
            ("a.txt", "x"),
            (".hidden", "x"),
            ("sub/c.rs", "x"),
            ("sub/.d", "x"),
            ("skipme.log", "x"),
            ("built.txt", "x"),
            (".ignore", "*.log"),
            // It counts without a repository.
            (".gitignore", "built.*"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root::open(folder.path().to_str().unwrap(), &DocumentsOptions::default()).unwrap();
        let mut warnings = Vec::new();
        let names: Vec<_> = walk(&root, &mut warnings).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a.txt", "b.md", "sub/c.rs"]);
        assert_eq!(warnings, []);

        let file = Root::open(folder.path().join("sub/c.rs").to_str().unwrap(), &DocumentsOptions::default()).unwrap();
        let found = walk(&file, &mut warnings);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "c.rs");
        assert_eq!(file.file("c.rs"), found[0].path);
    }

    #[cfg(unix)]
    #[test]
    fn links_and_odd_names_are_told() {
        use std::os::unix::{ffi::OsStrExt, fs::symlink};
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.md"), "x").unwrap();
        symlink("a.md", folder.path().join("link.md")).unwrap();
        fs::write(folder.path().join(std::ffi::OsStr::from_bytes(b"b\xff.md")), "x").unwrap();
        let root = Root::open(folder.path().to_str().unwrap(), &DocumentsOptions::default()).unwrap();
        let mut warnings = Vec::new();
        assert_eq!(walk(&root, &mut warnings).len(), 1);
        warnings.sort_by(|a, b| a.path.cmp(&b.path));
        assert_eq!(
            warnings.iter().map(|warning| warning.path.as_str()).collect::<Vec<_>>(),
            ["b\u{fffd}.md", "link.md"]
        );
    }

    #[test]
    fn only_utf8_text_within_the_limit_is_a_document() {
        let folder = tempfile::tempdir().unwrap();
        let read_back = |bytes: &[u8]| {
            let path = folder.path().join("file");
            fs::write(&path, bytes).unwrap();
            let found = Found { name: "file".into(), path, size: 0, modified_ns: 0 };
            read(&found, &DocumentsOptions { max_file_bytes: 100, ..DocumentsOptions::default() })
        };
        let skipped = |bytes: &[u8], why: &str| match read_back(bytes) {
            Content::Skipped { why: reason, .. } => assert!(reason.contains(why), "{reason}"),
            Content::Text { .. } => panic!("{bytes:?} is no document"),
        };
        skipped(b"a\0b", "binary");
        skipped(b"\xff\xfe\xfd", "UTF-8");
        skipped(&[b'x'; 101], "larger than 100");
        assert!(matches!(read_back("\u{feff}Köln".as_bytes()), Content::Text { text, .. } if text == "Köln"));
    }

    #[test]
    fn a_place_outside_the_allowed_roots_is_refused() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = DocumentsOptions { roots: vec![inside.path().to_owned()], ..DocumentsOptions::default() };
        assert!(Root::open(inside.path().to_str().unwrap(), &options).is_ok());
        assert_eq!(Root::open(outside.path().to_str().unwrap(), &options).unwrap_err().code(), "docs_not_allowed");
        let sly = inside.path().join("../").join(outside.path().file_name().unwrap());
        assert_eq!(Root::open(sly.to_str().unwrap(), &options).unwrap_err().code(), "docs_not_allowed");
        for system in ["/proc/self", "/dev"].into_iter().filter(|place| Path::new(place).exists()) {
            let refused = Root::open(system, &DocumentsOptions::default()).unwrap_err();
            assert_eq!(refused.code(), "docs_not_allowed");
        }
        assert_eq!(Root::open("/no/such/place", &options).unwrap_err().code(), "docs_not_found");
    }
}
