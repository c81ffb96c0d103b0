//! One process at a time changes what belongs to a model, and one brings models under a quota.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use sutazai_core::Result;

use super::download::{blocking, io_error};

/// How often a lock that another process holds is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// The right to change what a lock is for, given back when dropped and by the system when the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// The rights of a pull: to change a model, and to take room for it where that is bounded.
#[derive(Debug)]
pub(super) struct Held {
    _model: Lock,
    _room: Option<Lock>,
}

impl Held {
    pub(super) fn new(model: Lock, room: Option<Lock>) -> Self {
        Self { _model: model, _room: room }
    }
}

impl Lock {
    /// Waits for the lock at `path`; `waiting` is called once if another holds it.
    pub(crate) async fn acquire(path: PathBuf, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            let path = path.clone();
            if let Some(lock) = blocking(move || Self::attempt(&path)).await?? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn attempt(path: &Path) -> Result<Option<Self>> {
        let open = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            File::options().create(true).truncate(false).write(true).open(path)
        };
        let file = open().map_err(|error| io_error(&error, "lock", path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io_error(&error, "lock", path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("model.lock");
        let first = Lock::acquire(path.clone(), || panic!("nobody holds it")).await.unwrap();
        let (told, heard) = tokio::sync::oneshot::channel();
        let second = tokio::spawn(Lock::acquire(path, || told.send(()).unwrap()));
        heard.await.unwrap();
        assert!(!second.is_finished());
        drop(first);
        second.await.unwrap().unwrap();
    }
}
