//! Plain text as retrieval sees it: terms, their ranking, sentences.

mod bm25;
mod fence;
mod sentences;
mod terms;

pub(crate) use self::{
    bm25::Bm25,
    fence::{Fence, Line},
    sentences::{sentences, sentences_from},
    terms::{Terms, coverage},
};
