//! The model registry: which models are known, which are on disk, and how they get there.
//!
//! Weights are not part of the program. [`Catalogue`] says what each known model is and which digest its files have; [`ModelStore`] keeps them in a
//! directory; [`ModelStore::pull`] fetches them from the first [source](Sources) that has the right bytes. [`ModelStore::pin`] keeps a model as it is, and
//! [`ModelStore::with_quota`] bounds what all of them take.

mod catalogue;
mod download;
#[cfg(test)]
mod fake;
mod keep;
mod lock;
mod manifest;
mod pin;
mod progress;
mod pull;
mod quota;
mod source;
mod store;

pub use self::{
    catalogue::{Catalogue, Format, KnownFile, KnownModel, Origin, Role},
    manifest::{Manifest, ManifestFile},
    progress::{PullProgress, PullUpdate, Stage},
    pull::{Pulled, Tried},
    source::Sources,
    store::{Installed, ListedModel, ModelState, ModelStore},
};
pub(crate) use self::{
    download::{blocking, digest, hex, io_error, write_atomically},
    lock::Lock,
};
