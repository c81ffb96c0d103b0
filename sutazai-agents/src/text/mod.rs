//! Plain text as retrieval sees it: terms, their ranking, sentences.

mod bm25;
mod sentences;
mod terms;

pub(crate) use self::{
    bm25::Bm25,
    sentences::sentences,
    terms::{Terms, coverage},
};
