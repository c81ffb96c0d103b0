//! The data directory: one server at a time, of one version, with a name that survives restarts.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::process::Failure;

/// The layout of a data directory that this binary writes and reads.
const LAYOUT: &str = "1";

/// A data directory that belongs to this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node: Arc<str>,
    /// Locked; the system lets go of it whatever way the process ends.
    _lock: File,
}

/// What is wrong with a data directory.
#[derive(Debug)]
pub enum DirFault {
    /// Another process has it.
    InUse(Failure),
    /// Anything else.
    Unusable(Failure),
}

impl From<DirFault> for Failure {
    fn from(fault: DirFault) -> Self {
        match fault {
            DirFault::InUse(failure) | DirFault::Unusable(failure) => failure,
        }
    }
}

impl DataDir {
    /// Makes the directory if need be (only its owner may enter) and takes it over.
    pub fn open(path: &Path) -> Result<Self, DirFault> {
        let unusable = |operation: &str, error: io::Error| {
            let what = format!("data directory {}: cannot {operation}: {error}", path.display());
            DirFault::Unusable(Failure::usage(what).hint("name a directory that you may write to with --data-dir"))
        };
        create(path).map_err(|error| unusable("create it", error))?;
        let mut options = File::options();
        let lock = options.read(true).write(true).create(true).truncate(false).open(path.join("lock"));
        let mut lock = lock.map_err(|error| unusable("open its lock file", error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let read = lock.read_to_string(&mut owner).is_ok_and(|length| length > 0);
                let owner = if read { format!(" (process {})", owner.trim()) } else { String::new() };
                let what = format!("data directory {} is in use by another server{owner}", path.display());
                return Err(DirFault::InUse(Failure::usage(what).hint("stop that server, or name another --data-dir")));
            }
            Err(TryLockError::Error(error)) => return Err(unusable("lock it", error)),
        }
        let own = |mut lock: &File| {
            lock.set_len(0)?;
            lock.write_all(std::process::id().to_string().as_bytes())
        };
        own(&lock).map_err(|error| unusable("write to it", error))?;

        let layout = kept(path, "layout", || LAYOUT.into()).map_err(|error| unusable("read its layout", error))?;
        if layout != LAYOUT {
            let what = format!("data directory {} has layout {layout:?}, this version reads {LAYOUT}", path.display());
            let hint = "run the version that wrote it, or name another --data-dir";
            return Err(DirFault::Unusable(Failure::usage(what).hint(hint)));
        }
        let node = kept(path, "node", || uuid::Uuid::now_v7().to_string());
        let node = node.map_err(|error| unusable("read its node id", error))?;
        Ok(Self { path: path.to_owned(), node: node.into(), _lock: lock })
    }

    /// The path of `name` in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The name of the server that owns it.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }
}

/// Creates `path` with its parents; a directory that is new is for its owner alone.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The line in the file called `name`; without one, the line that `new` gives is kept there first, whole or not at all.
fn kept(directory: &Path, name: &str, new: impl FnOnce() -> String) -> io::Result<String> {
    let path = directory.join(name);
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let (text, draft) = (new(), directory.join(format!("{name}.new")));
    let mut file = File::create(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&draft, &path)?;
    File::open(directory)?.sync_all()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_keeps_its_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        let node = first.node().clone();
        let Err(DirFault::InUse(failure)) = DataDir::open(&path) else { panic!("opened twice") };
        assert!(failure.to_string().contains(&format!("process {}", std::process::id())), "{failure}");
        drop(first);
        assert_eq!(*DataDir::open(&path).unwrap().node(), node);
    }

    #[cfg(unix)]
    #[test]
    fn a_new_directory_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        drop(DataDir::open(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn another_layout_and_a_file_in_the_way_are_refused() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("layout"), "2\n").unwrap();
        let text = Failure::from(DataDir::open(home.path()).unwrap_err()).to_string();
        assert!(text.contains("layout \"2\"") && text.contains("hint"), "{text}");
        assert!(DataDir::open(&home.path().join("layout")).is_err());
    }
}
