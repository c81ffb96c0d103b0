//! Where this project keeps what is made once for a machine.

use std::{env, path::PathBuf};

use etcetera::BaseStrategy;

/// Names that directory.
const NAMED: &str = "SUTAZAI_CACHE";

/// What `SUTAZAI_CACHE` names, if that is set; else `sutazai` in the user's cache, if there is one.
pub(crate) fn cache() -> Option<PathBuf> {
    let own = || Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("sutazai"));
    env::var_os(NAMED).map(PathBuf::from).or_else(own)
}
