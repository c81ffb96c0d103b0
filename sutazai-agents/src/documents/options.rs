//! What an operator decides about documents.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::EvidenceOptions;

/// Which documents may be read, how large they may be, and when an answer counts as found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DocumentsOptions {
    /// Folders under which documents may be read; empty: any that the server's user can read.
    pub roots: Vec<PathBuf>,
    /// Larger files are skipped with a warning.
    pub max_file_bytes: u64,
    /// Memory for lexical indexes; the least recently used are given up beyond it and read back when they are needed.
    pub cache_bytes: usize,
    /// How an answer is sampled where a call does not say; none: always the likeliest word.
    pub temperature: Option<f32>,
    /// Tokens of an answer where a call does not say; none: 96.
    pub max_tokens: Option<u32>,
    /// When an answer counts as found.
    pub evidence: EvidenceOptions,
}

impl Default for DocumentsOptions {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            max_file_bytes: 16 << 20,
            cache_bytes: 128 << 20,
            temperature: None,
            max_tokens: None,
            evidence: EvidenceOptions::default(),
        }
    }
}
