//! The bound of what all models together take on the disk.

use std::{fs, path::Path};

use sutazai_core::{Error, ErrorKind, Result};

use super::{catalogue::KnownModel, pin, store::ModelStore};

impl ModelStore {
    /// Refuses a pull after which the models would take more than they may. What is there already is no reason to refuse it. Blocks.
    ///
    /// Counted are all files in the directory, and the model as it will be. What a source needs meanwhile, such as a package that carries a file, comes
    /// on top for as long.
    pub(super) fn has_room(&self, model: &'static KnownModel) -> Result<()> {
        let Some(quota) = self.quota() else { return Ok(()) };
        if self.find_installed(model.name).is_ok() {
            return Ok(());
        }
        let others = total(self.root()).saturating_sub(total(&self.directory(model)));
        let beyond = others.saturating_add(model.bytes()).saturating_sub(quota);
        if beyond == 0 {
            return Ok(());
        }
        let removable: Vec<_> = self.removable(model).map(|(name, bytes)| format!("{name} ({bytes} bytes)")).collect();
        let advice = match removable.as_slice() {
            [] => "no model here could be removed; raise the quota".to_owned(),
            some => format!(
                "remove one with `sutazai-server models rm NAME`, or raise the quota. unpinned are {}",
                some.join(", ")
            ),
        };
        let message = format!(
            "the models may take {quota} bytes, others take {others} and this one takes {}: {beyond} bytes are missing. {advice}",
            model.bytes()
        );
        Err(Error::new(ErrorKind::Full, message).with_code("models_quota_exceeded").during("pull").about(model.name))
    }

    /// The other models that are here, whole or in part, and not pinned, with the bytes that they take.
    fn removable(&self, model: &KnownModel) -> impl Iterator<Item = (&'static str, u64)> {
        let others = self.catalogue().models().iter().filter(move |other| other.name != model.name);
        let unpinned = others.filter(move |other| !pin::is_there(&self.pin_path(other)));
        unpinned.map(move |other| (other.name, total(&self.directory(other)))).filter(|(_, bytes)| *bytes > 0)
    }
}

/// The bytes of all files below a directory. Links are not followed.
fn total(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        Some(if metadata.is_dir() { total(&entry.path()) } else { metadata.len() })
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::fake::Shelf;

    fn bounded(bytes: u64) -> Shelf {
        let mut shelf = Shelf::new();
        shelf.store = shelf.store.clone().with_quota(Some(bytes));
        shelf
    }

    #[tokio::test]
    async fn what_is_beyond_the_quota_is_refused_and_nothing_is_removed() {
        let shelf = bounded(3_500);
        shelf.pull("one").await.unwrap();
        let error = shelf.pull("two").await.unwrap_err();
        assert_eq!((error.code(), error.kind(), error.subject()), ("models_quota_exceeded", ErrorKind::Full, "two"));
        let text = error.to_string();
        assert!(text.contains("bytes are missing") && text.contains("unpinned are one ("), "{text}");
        assert_eq!((shelf.listed("one").await, shelf.listed("two").await), ((true, false), (false, false)));

        // What is pinned is not proposed.
        shelf.store.pin("one").await.unwrap();
        let text = shelf.pull("two").await.unwrap_err().to_string();
        assert!(text.contains("no model here could be removed"), "{text}");
        shelf.store.unpin("one").await.unwrap();
        shelf.store.remove("one").await.unwrap();
        shelf.pull("two").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_there_is_no_reason_to_refuse_it() {
        let mut shelf = Shelf::new();
        shelf.pull("two").await.unwrap();
        shelf.store = shelf.store.clone().with_quota(Some(1));
        assert_eq!(shelf.pull("two").await.unwrap().fetched_bytes, 0);
        assert_eq!(shelf.pull("one").await.unwrap_err().code(), "models_quota_exceeded");
        // A file that is lost takes room again.
        fs::remove_file(shelf.store.root().join("two").join("two.gguf")).unwrap();
        assert_eq!(shelf.pull("two").await.unwrap_err().code(), "models_quota_exceeded");
    }

    #[tokio::test]
    async fn two_at_a_time_do_not_go_beyond_it_together() {
        let shelf = bounded(3_900);
        let (one, two) = tokio::join!(shelf.pull("one"), shelf.pull("two"));
        assert_eq!(usize::from(one.is_ok()) + usize::from(two.is_ok()), 1, "{one:?} {two:?}");
        assert!(total(shelf.store.root()) <= 3_900);
    }

    #[test]
    fn files_below_are_counted_too() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(total(&dir.path().join("nowhere")), 0);
        fs::create_dir_all(dir.path().join("a").join("b")).unwrap();
        fs::write(dir.path().join("a").join("x"), [0; 10]).unwrap();
        fs::write(dir.path().join("a").join("b").join("y"), [0; 5]).unwrap();
        assert_eq!(total(dir.path()), 15);
    }
}
