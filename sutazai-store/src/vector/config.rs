//! What can be set.

use std::{
    num::NonZero,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Where the vectors are kept and how they are searched. Make one with [`UsearchConfig::new`] or from a path.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct UsearchConfig {
    /// The directory of `vectors.db` and of the index files. It is made if it is not there.
    pub directory: PathBuf,
    /// Collections of fewer records are searched by comparing each, and have no index file. Default 2,000.
    pub exact_below: usize,
    /// Neighbours of each node of the graph. Default 16.
    pub connectivity: usize,
    /// Candidates weighed for each record that is added: more is slower to build and finds more. Default 200.
    pub expansion_add: usize,
    /// Candidates weighed by each search: more is slower and finds more. Default 64.
    pub expansion_search: usize,
    /// Threads that build a graph. Default half of the processors, so that searches are not starved.
    pub build_threads: usize,
    /// Searches at one time; further ones wait. Default the number of processors, at least 2.
    pub search_threads: usize,
    /// How long changes are collected before the index file is written anew. Default half a second.
    pub settle: Duration,
    /// How long [`close`](super::UsearchStore::close) may go on building. Default 5 s.
    pub close_within: Duration,
    /// Records that one fold adds: what it copies stays small, and what it did survives a crash early. Tests make it small.
    pub(super) fold: usize,
    /// What measuring one vector costs less than walking to it in the graph. Tests make it nothing, so that every search walks.
    pub(super) scan_gain: usize,
}

impl UsearchConfig {
    /// The defaults, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            directory: directory.into(),
            exact_below: 2_000,
            connectivity: 16,
            expansion_add: 200,
            expansion_search: 64,
            build_threads: (processors / 2).max(1),
            search_threads: processors.max(2),
            settle: Duration::from_millis(500),
            close_within: Duration::from_secs(5),
            fold: 32_768,
            scan_gain: 32,
        }
    }
}

impl From<&Path> for UsearchConfig {
    fn from(directory: &Path) -> Self {
        Self::new(directory)
    }
}

impl From<PathBuf> for UsearchConfig {
    fn from(directory: PathBuf) -> Self {
        Self::new(directory)
    }
}
