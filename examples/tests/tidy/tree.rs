//! The files of the workspace, as git would see them.

use std::path::{Path, PathBuf};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("examples/ lies in the workspace").to_owned()
}

/// A file: its path from the root, with `/`, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl File {
    /// Whether it holds tests, benches or examples only.
    pub(crate) fn is_beside_the_code(&self) -> bool {
        ["/tests/", "/benches/", "/examples/", "/tests.rs"].iter().any(|part| format!("/{}", self.path).contains(part))
    }

    /// Its lines without test modules, with their numbers from 1.
    pub(crate) fn code(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut kept = Vec::new();
        let mut lines = self.text.lines().enumerate().peekable();
        while let Some((index, line)) = lines.next() {
            let next = lines.peek().map_or("", |(_, next)| next);
            if line.starts_with("#[cfg(test)]") && next.starts_with("mod ") {
                inside = !next.ends_with(';');
                if !inside {
                    lines.next();
                }
            } else if !inside {
                kept.push((index + 1, line));
            } else if line == "}" {
                inside = false;
            }
        }
        kept
    }
}

/// Every file with one of these extensions that git does not ignore; the empty one is that of scripts.
pub(crate) fn files(extensions: &[&str]) -> Vec<File> {
    let root = root();
    let extension = |path: &Path| path.extension().map_or(String::new(), |end| end.to_string_lossy().into_owned());
    let mut found: Vec<_> = ignore::WalkBuilder::new(&root)
        .hidden(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build()
        .map(|entry| entry.expect("the workspace can be read"))
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
        .filter(|entry| extensions.contains(&extension(entry.path()).as_str()))
        .filter_map(|entry| {
            let bytes = std::fs::read(entry.path()).expect("the workspace can be read");
            // Data may lie without an extension; what has one of these is text.
            let text = String::from_utf8(bytes).ok().or_else(|| {
                assert!(extension(entry.path()).is_empty(), "{} is not UTF-8", entry.path().display());
                None
            })?;
            let path = entry.path().strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
            Some(File { path, text })
        })
        .collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no file with {extensions:?} below {}", root.display());
    found
}

/// Fails with every breach of `rule` on a line of its own.
pub(crate) fn none(breaches: Vec<String>, rule: &str) {
    let shown: Vec<String> = breaches.iter().take(50).map(|line| line.chars().take(200).collect()).collect();
    assert!(breaches.is_empty(), "{rule}; {} breaches:\n  {}", breaches.len(), shown.join("\n  "));
}
