//! Tasks over HTTP: submit, read, cancel.

mod key;
mod read;
mod submit;

pub(super) use self::{
    key::IdempotencyKey,
    read::{__path_cancel, __path_get, __path_list, cancel, get, list},
    submit::{__path_submit, __path_submit_batch, accepted, submit, submit_batch},
};
