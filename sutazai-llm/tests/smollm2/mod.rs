//! The one chat model that tests may have real weights of.

use std::path::PathBuf;

use sutazai_llm::registry::{ModelStore, Role};

/// Its name.
pub(crate) const MODEL: &str = "smollm2:135m";

/// Its weights, or why they are not here.
pub(crate) fn weights() -> Result<PathBuf, String> {
    let store = ModelStore::from_env().map_err(|error| error.report())?;
    let model = store.catalogue().find(MODEL).map_err(|error| error.report())?;
    let file = model.files.iter().find(|file| file.role == Role::Weights).ok_or("the model has no weights")?;
    let path = store.directory(model).join(file.name);
    let why = || format!("{MODEL} is not on this machine; `cargo run --release -- models pull {MODEL}` gets it");
    path.is_file().then_some(path).ok_or_else(why)
}
