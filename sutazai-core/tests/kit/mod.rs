//! What tests in virtual time share.
#![allow(dead_code, unreachable_pub, reason = "each program of tests uses a part")]

use std::time::Duration;

use sutazai_core::clock::{Clock, Timestamp};
use tokio::time::Instant;

/// When these stories begin.
pub const BEGINNING: Timestamp = Timestamp::from_millis(1_796_083_200_000);

/// A wall clock that goes by the time of tokio, which the tests hold.
pub struct Virtual(Instant);

impl Virtual {
    pub fn new() -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self(Instant::now()))
    }
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        BEGINNING.plus(self.0.elapsed())
    }

    fn random(&self) -> u64 {
        fastrand::u64(..)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
