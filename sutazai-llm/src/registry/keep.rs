//! What stays in the store and what goes: pins, and removing.

use std::{fs, io};

use sutazai_core::Result;

use super::{
    download::{blocking, io_error},
    lock::Lock,
    pin,
    store::{ModelStore, absent, size},
};

impl ModelStore {
    /// Keeps a model as it is: it is not removed, and not replaced by another version, until it is [unpinned](Self::unpin). Whether this changed anything.
    ///
    /// Code `model_not_found` unless all of it is on disk, `model_damaged` if it is not what it should be. Safe against other processes.
    pub async fn pin(&self, name: &str) -> Result<bool> {
        let model = self.catalogue().find(name)?;
        // Asked before the lock too, so that nothing is made where nothing is.
        self.installed(model.name).await?;
        let lock = Lock::acquire(self.lock_path(model), || {}).await?;
        let store = self.clone();
        blocking(move || {
            let _lock = lock;
            store.find_installed(model.name)?;
            let path = store.pin_path(model);
            if pin::is_there(&path) {
                return Ok(false);
            }
            pin::put(&path, model).map(|()| true)
        })
        .await?
    }

    /// Takes a pin away. Whether there was one; the model itself need not be there.
    pub async fn unpin(&self, name: &str) -> Result<bool> {
        let model = self.catalogue().find(name)?;
        let path = self.pin_path(model);
        if !tokio::fs::try_exists(&path).await.unwrap_or(true) {
            return Ok(false);
        }
        let lock = Lock::acquire(self.lock_path(model), || {}).await?;
        blocking(move || {
            let _lock = lock;
            pin::take(&path)
        })
        .await?
    }

    /// Removes a model and what was begun of it; the bytes that this frees. Code `model_not_found` if nothing of it is there, `model_pinned` if it is
    /// pinned.
    pub async fn remove(&self, name: &str) -> Result<u64> {
        let model = self.catalogue().find(name)?;
        let directory = self.directory(model);
        if !tokio::fs::try_exists(&directory).await.unwrap_or(false) {
            return Err(absent(model));
        }
        let lock = Lock::acquire(self.lock_path(model), || {}).await?;
        let pinned = self.pin_path(model);
        blocking(move || {
            let _lock = lock;
            if pin::is_there(&pinned) {
                return Err(pin::refused(model, "it is pinned").during("remove model"));
            }
            let freed = size(&directory);
            match fs::remove_dir_all(&directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&error, "remove", &directory)),
                _ => Ok(freed),
            }
        })
        .await?
    }
}

#[cfg(test)]
mod tests {
    use sutazai_core::ErrorKind;

    use crate::registry::fake::Shelf;

    #[tokio::test]
    async fn what_is_pinned_stays_until_it_is_unpinned() {
        let shelf = Shelf::new();
        for name in ["one", "nobody"] {
            assert_eq!(shelf.store.pin(name).await.unwrap_err().code(), "model_not_found");
        }
        assert!(!shelf.store.root().exists(), "nothing was made");
        shelf.pull("one").await.unwrap();
        assert!(shelf.store.pin("one").await.unwrap());
        assert!(!shelf.store.pin("one").await.unwrap(), "it is pinned already");
        assert_eq!(shelf.listed("one").await, (true, true));
        assert_eq!(shelf.listed("two").await, (false, false));

        let error = shelf.store.remove("one").await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("model_pinned", ErrorKind::Conflict));
        assert!(error.to_string().contains("unpin one"), "{error}");
        shelf.store.verify("one").await.unwrap();
        // Its own version may come again.
        shelf.pull("one").await.unwrap();

        assert!(shelf.store.unpin("one").await.unwrap());
        assert!(!shelf.store.unpin("one").await.unwrap(), "there is none any more");
        assert!(shelf.store.remove("one").await.unwrap() > 0);
        assert!(!shelf.store.unpin("two").await.unwrap());
        assert_eq!(shelf.store.unpin("nobody").await.unwrap_err().code(), "model_not_found");
    }

    #[tokio::test]
    async fn a_pinned_model_is_not_replaced_by_a_newer_one() {
        let mut shelf = Shelf::new();
        shelf.pull("one").await.unwrap();
        shelf.store.pin("one").await.unwrap();
        shelf.renew("one", b"a newer one");
        let error = shelf.pull("one").await.unwrap_err();
        assert!(error.code() == "model_pinned" && error.to_string().contains("another version"), "{error}");
        assert!(shelf.holds("one", Shelf::bytes("one")), "the old one is still there");
        shelf.store.unpin("one").await.unwrap();
        shelf.pull("one").await.unwrap();
        assert!(shelf.holds("one", b"a newer one"));
    }

    #[tokio::test]
    async fn a_pin_and_a_removal_at_the_same_moment_leave_one_of_the_two() {
        for _ in 0..5 {
            let shelf = Shelf::new();
            shelf.pull("one").await.unwrap();
            let (pinned, removed) = tokio::join!(shelf.store.pin("one"), shelf.store.remove("one"));
            match (pinned, removed) {
                (Ok(true), Err(error)) => assert_eq!(error.code(), "model_pinned"),
                (Err(error), Ok(_)) => assert_eq!(error.code(), "model_not_found"),
                both => panic!("{both:?}"),
            }
        }
    }
}
