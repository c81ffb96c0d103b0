//! A file on its way: bytes gather under a hidden name and get their own only when all are there and the digest fits.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use sutazai_core::{Error, ErrorKind, Result};
use tokio_util::sync::CancellationToken;

use super::{
    catalogue::{Format, Role},
    lock::Held,
    manifest::{ManifestFile, modified_ms},
    progress::{PullProgress, PullUpdate, Stage},
};

/// Bytes between two reports of progress, and the size of a read.
const STRIDE: usize = 1 << 18;

/// Why a file did not come.
#[derive(Debug)]
pub(super) enum Failure {
    /// This source cannot serve; the next one may.
    Source(Error),
    /// This machine cannot take it, whatever the source.
    Disk(Error),
}

/// The code of bytes that are not the wanted ones.
pub(super) const WRONG_DIGEST: &str = "wrong_digest";

impl Failure {
    /// Whether bytes came, and not the wanted ones.
    pub(super) fn is_wrong_bytes(&self) -> bool {
        matches!(self, Self::Source(error) if error.code() == WRONG_DIGEST)
    }
}

/// The file that is wanted.
#[derive(Clone)]
pub(super) struct Wanted {
    pub(super) model: &'static str,
    pub(super) directory: PathBuf,
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) progress: Arc<dyn PullProgress>,
    /// Held as long as anything may still write.
    pub(super) _held: Arc<Held>,
    /// Set when whoever wanted the file has gone.
    pub(super) cancel: CancellationToken,
}

impl Wanted {
    pub(super) fn tell(&self, stage: Stage, source: &str, bytes: u64, total: u64) {
        self.progress.update(&PullUpdate { model: self.model, file: &self.name, stage, source, bytes, total });
    }

    /// Every source gives the same bytes, so what one began another may end: the name says which bytes.
    fn partial_path(&self) -> PathBuf {
        self.directory.join(format!(".{}.partial", &self.sha256))
    }

    /// Copies from `reader`, which stands where the partial file ends, until it ends.
    pub(super) fn copy(&self, partial: &mut Partial, reader: &mut dyn Read) -> Result<(), Failure> {
        let mut buffer = vec![0; STRIDE];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => partial.write(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Source(io_error(&error, "read", Path::new(&partial.source)))),
            }
        }
    }
}

/// The bytes that are there so far. All of it blocks.
pub(super) struct Partial {
    wanted: Arc<Wanted>,
    source: String,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    told: u64,
}

impl Partial {
    /// Opens it and reads what is already there.
    pub(super) fn open(wanted: Arc<Wanted>, source: &str) -> Result<Self, Failure> {
        let path = wanted.partial_path();
        let open = || {
            fs::create_dir_all(&wanted.directory)?;
            File::options().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let mut file = open().map_err(|error| disk(&error, &path))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; STRIDE];
        let mut written = 0;
        loop {
            match file.read(&mut buffer).map_err(|error| disk(&error, &path))? {
                0 => break,
                read => {
                    hasher.update(&buffer[..read]);
                    written += read as u64;
                    wanted.tell(Stage::Checking, source, written, wanted.bytes);
                }
            }
        }
        let mut partial = Self { wanted, source: source.into(), path, file, hasher, written, told: written };
        if partial.written > partial.wanted.bytes {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes that are there.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether all bytes are there.
    pub(super) fn is_full(&self) -> bool {
        self.written == self.wanted.bytes
    }

    /// Forgets what is there.
    pub(super) fn restart(&mut self) -> Result<(), Failure> {
        let mut clear = || {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))
        };
        clear().map_err(|error| disk(&error, &self.path))?;
        (self.hasher, self.written, self.told) = (Sha256::new(), 0, 0);
        Ok(())
    }

    /// Adds bytes at the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.wanted.cancel.is_cancelled() {
            return Err(Failure::Disk(
                Error::new(ErrorKind::Cancelled, "nobody waits for it any more")
                    .during("pull")
                    .about(self.wanted.model),
            ));
        }
        if self.written + bytes.len() as u64 > self.wanted.bytes {
            self.restart()?;
            return Err(self.wrong(format!("it has more than the {} bytes that are expected", self.wanted.bytes)));
        }
        self.file.write_all(bytes).map_err(|error| disk(&error, &self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        if self.written - self.told >= STRIDE as u64 || self.is_full() {
            self.told = self.written;
            self.wanted.tell(Stage::Fetching, &self.source, self.written, self.wanted.bytes);
        }
        Ok(())
    }

    /// Checks length and digest, makes the bytes durable and gives them their name. Wrong bytes are removed.
    pub(super) fn finish(mut self) -> Result<ManifestFile, Failure> {
        if !self.is_full() {
            let (written, wanted) = (self.written, self.wanted.bytes);
            self.restart()?;
            return Err(self.wrong(format!("it ended after {written} of {wanted} bytes")));
        }
        let sha256 = hex(&std::mem::take(&mut self.hasher).finalize());
        if sha256 != self.wanted.sha256 {
            self.restart()?;
            return Err(self.wrong(format!("its SHA-256 is {sha256}, not {}", self.wanted.sha256)));
        }
        let path = self.wanted.directory.join(&self.wanted.name);
        let publish = || {
            self.file.sync_all()?;
            let modified = modified_ms(&self.file.metadata()?);
            fs::rename(&self.path, &path)?;
            sync_directory(&self.wanted.directory)?;
            io::Result::Ok(modified)
        };
        let modified_ms = publish().map_err(|error| disk(&error, &path))?;
        let Wanted { role, name, format, bytes, .. } = &*self.wanted;
        self.wanted.tell(Stage::Done, &self.source, *bytes, *bytes);
        Ok(ManifestFile {
            role: *role,
            name: name.clone(),
            format: *format,
            bytes: *bytes,
            sha256,
            source: self.source,
            modified_ms,
        })
    }

    fn wrong(&self, message: String) -> Failure {
        Failure::Source(
            Error::new(ErrorKind::Corrupt, message).with_code(WRONG_DIGEST).during("check").about(&self.wanted.name),
        )
    }
}

/// Fetches a file from a source on this machine: `copy` adds the bytes after those that are there. Where what an earlier source left turns out to
/// be wrong, the source is asked once more, from the first byte. Blocks.
pub(super) fn resume(
    wanted: &Arc<Wanted>,
    source: &str,
    mut copy: impl FnMut(&mut Partial) -> Result<(), Failure>,
) -> Result<ManifestFile, Failure> {
    loop {
        let mut partial = Partial::open(wanted.clone(), source)?;
        let begun = partial.written() > 0;
        match copy(&mut partial).and_then(|()| partial.finish()) {
            // Wrong bytes are gone: the next round begins with none.
            Err(failure) if begun && failure.is_wrong_bytes() => {}
            outcome => return outcome,
        }
    }
}

/// Removes partial files that no later pull would go on with: empty ones, and `all` once the model is whole. Blocks.
pub(super) fn tidy(directory: &Path, all: bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let partial = entry.path().extension().is_some_and(|extension| extension == "partial");
        if partial && (all || entry.metadata().is_ok_and(|found| found.len() == 0)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    // Goes only if nothing is left.
    let _ = fs::remove_dir(directory);
}

/// Removes a file that is no longer wanted. A name that leads out of the directory is none of ours. Blocks.
pub(super) fn remove(directory: &Path, name: &str) {
    if Path::new(name).file_name().is_some_and(|own| own == name) {
        let _ = fs::remove_file(directory.join(name));
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "a worker thread died").during("use models").because(error))
}

/// The SHA-256 of a file, in hexadecimal. Blocks.
pub(crate) fn digest(path: &Path, mut read: impl FnMut(u64)) -> io::Result<String> {
    let (mut file, mut hasher, mut buffer, mut total) = (File::open(path)?, Sha256::new(), vec![0; STRIDE], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            count => {
                hasher.update(&buffer[..count]);
                total += count as u64;
                read(total);
            }
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Writes a small file whole or not at all. Blocks.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let written = File::create(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Half a file would take what room a full disk has left.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes the names in a directory durable, where the system can.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

/// What the system said, as an error of ours.
pub(crate) fn io_error(error: &io::Error, operation: &'static str, path: &Path) -> Error {
    let (kind, message) = match error.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
        io::ErrorKind::PermissionDenied => (ErrorKind::Unavailable, "this user may not"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            (ErrorKind::Full, "the disk is full; make room or set SUTAZAI_MODELS_DIR to another one")
        }
        _ => (ErrorKind::Unavailable, "the system refused"),
    };
    Error::new(kind, message)
        .during(operation)
        .about(path.display())
        .because(io::Error::new(error.kind(), error.to_string()))
}

fn disk(error: &io::Error, path: &Path) -> Failure {
    Failure::Disk(io_error(error, "write", path))
}
