//! What becomes of the writes of a batch, whatever the database: judged against what is stored, without touching it.

pub(super) mod plan;
pub(super) mod track;
