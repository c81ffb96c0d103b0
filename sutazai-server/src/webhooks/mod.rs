//! Webhooks: which targets may be called, how a delivery is signed and sent, and when it is tried again.
//!
//! A [`Sender`] makes one attempt at a time and keeps no state: what is to be delivered, in which order and how often it has failed is the
//! store's. The [`Outbox`] takes it from there; [`Hosts`](hosts::Hosts) say what begins, [`Post`] posts one task's events, and [`backoff::next`] says when the
//! next attempt is due, or that there is none.

mod backoff;
mod hosts;
mod names;
mod outbox;
mod post;
mod sender;
mod signature;
mod target;

pub(crate) use self::{
    outbox::Outbox,
    post::Post,
    sender::{Outcome, Sender, TIMEOUT},
    target::{Policy, name_of, shown},
};

#[cfg(test)]
mod tests;
