//! Files that one process holds.

use std::{
    fs::{File, TryLockError},
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

/// How long to wait for a process that is about to end to let go.
const WAIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Holds the file at `path`, which is made if it is missing, until the returned one is dropped; `None` if another holder keeps it.
/// Any number of holders may share it, if all of them say so.
pub(crate) async fn hold(path: PathBuf, shared: bool) -> io::Result<Option<File>> {
    let make = move || File::options().create(true).append(true).open(path);
    let file = tokio::task::spawn_blocking(make).await.map_err(io::Error::other)??;
    let began = Instant::now();
    loop {
        match if shared { file.try_lock_shared() } else { file.try_lock() } {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if began.elapsed() < WAIT => tokio::time::sleep(PAUSE).await,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}
