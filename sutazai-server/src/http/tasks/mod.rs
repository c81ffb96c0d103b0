//! Tasks over HTTP: submit, read, change, look into.

mod change;
mod journal;
mod key;
mod read;
mod replay;
mod submit;

pub(super) use self::{
    change::{__path_cancel, __path_fork, __path_signal, cancel, changed, fork, signal},
    journal::{__path_journal, __path_resolve, journal, resolve},
    key::IdempotencyKey,
    read::{__path_get, __path_list, get, list},
    replay::{__path_cassette, __path_replay, cassette, replay},
    submit::{__path_submit, __path_submit_batch, accepted, mark, submit, submit_batch},
};
