//! Webhooks: which targets may be called, how a delivery is signed and sent, and when it is tried again.
//!
//! A [`Sender`] makes one attempt at a time and keeps no state: what is to be delivered, in which order and how often it has failed is the
//! store's. The [`Outbox`] takes it from there; [`backoff::next`] says when the next attempt is due, or that there is none.

mod backoff;
mod outbox;
mod sender;
mod signature;
mod target;

pub(crate) use self::{
    outbox::Outbox,
    sender::{Outcome, Sender, TIMEOUT},
    target::Policy,
};

#[cfg(test)]
mod tests;
