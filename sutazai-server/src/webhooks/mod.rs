//! Webhooks, the part that goes to the network: which targets may be called, how a delivery is signed and sent, and when it is tried again.
//!
//! A [`Sender`] makes one attempt at a time and keeps no state: what is to be delivered, in which order and how often it has failed is the
//! store's. [`backoff::next`] says when the next attempt is due, or that there is none.

pub(crate) mod backoff;
mod sender;
mod signature;
mod target;

pub(crate) use self::{
    sender::{Outcome, Sender, TIMEOUT},
    target::Policy,
};

#[cfg(test)]
mod tests;
