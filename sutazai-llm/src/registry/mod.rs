//! The model registry: which models are known, which are on disk, and how they get there.
//!
//! Weights are not part of the program. [`Catalogue`] says what each known model is and which digest its files have; [`ModelStore`] keeps them in a
//! directory; [`ModelStore::pull`] fetches them from the first [source](Sources) that has the right bytes.

mod catalogue;
mod download;
mod lock;
mod manifest;
mod progress;
mod pull;
mod source;
mod store;

pub(crate) use self::download::{digest, hex};
pub use self::{
    catalogue::{Catalogue, Format, KnownFile, KnownModel, Origin, Role},
    manifest::{Manifest, ManifestFile},
    progress::{PullProgress, PullUpdate, Stage},
    pull::{Pulled, Tried},
    source::Sources,
    store::{Installed, ListedModel, ModelState, ModelStore},
};
