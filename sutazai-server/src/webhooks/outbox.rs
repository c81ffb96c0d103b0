//! The outbox: takes what is to be delivered from the store and has it sent, in order for each task.
//!
//! Several processes may do this on one store: a delivery that one has taken is nobody else's until it is noted what became of it, or until [`HOLD`] has
//! passed; whoever comes with a note after that is refused. An event is delivered at least once: whoever dies between an answer and its note leaves it to be
//! delivered again.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    hosts::Hosts,
    post::{HOLD, Post, Taken},
    target::host_of,
};

/// Retries fall due, and other processes write: nobody says so.
const POLL: Duration = Duration::from_secs(1);

/// How long attempts under way may take once this process ends.
const GRACE: Duration = Duration::from_secs(2);

/// The deliveries of this process, until they are stopped.
pub(crate) struct Outbox {
    end: CancellationToken,
    working: JoinHandle<()>,
}

impl Outbox {
    /// Begins to deliver; `changed` says that there may be something new.
    pub(crate) fn start(post: Post, changed: Arc<Notify>) -> Self {
        let end = CancellationToken::new();
        Self { working: tokio::spawn(deliver(Arc::new(post), changed, end.clone())), end }
    }

    /// Takes nothing more and waits for the attempts under way, [`GRACE`] and the time of a few writes at most.
    pub(crate) async fn stop(self) {
        self.end.cancel();
        if let Err(error) = self.working.await {
            tracing::error!(%error, "the deliveries of webhooks broke off");
        }
    }
}

/// A delivery that has ended: its host, when it began, and its longest attempt.
type Ended = (String, Duration, Option<Duration>);

/// Takes deliveries and has them posted until `end`.
async fn deliver(post: Arc<Post>, changed: Arc<Notify>, end: CancellationToken) {
    let (mut hosts, mut posting) = (Hosts::default(), JoinSet::new());
    while !end.is_cancelled() {
        let room = hosts.room();
        let taken = take(&post, &mut hosts, room).await;
        let now = post.clock().elapsed();
        while let Some((host, taken)) = hosts.begin(now) {
            posting.spawn(begin(Arc::clone(&post), host, now, taken));
        }
        let put_off = hosts.put_off(now);
        join_all(put_off.iter().map(|(taken, rest)| post.put_off(taken, *rest))).await;
        if taken == room && hosts.room() > 0 {
            continue; // there may be more, for others
        }
        tokio::select! {
            () = end.cancelled() => {}
            Some(ended) = posting.join_next() => note(&mut hosts, ended),
            () = changed.notified(), if hosts.room() > 0 => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
    join_all(hosts.drain().iter().map(|taken| post.put_off(taken, Duration::ZERO))).await;
    let _ = tokio::time::timeout(GRACE, async { while posting.join_next().await.is_some() {} }).await;
    post.cut();
    while posting.join_next().await.is_some() {}
}

/// Takes up to `room` deliveries that are due; how many there were.
async fn take(post: &Post, hosts: &mut Hosts<Taken>, room: usize) -> usize {
    if room == 0 {
        return 0;
    }
    let at = post.clock().elapsed();
    match post.store().deliveries(post.clock().now(), room, HOLD).await {
        Ok(found) => {
            let count = found.len();
            found.into_iter().for_each(|delivery| hosts.add(host_of(&delivery.url), Taken { delivery, at }));
            count
        }
        Err(error) => {
            tracing::warn!(error = %error.report(), "the deliveries of webhooks cannot be read");
            0
        }
    }
}

async fn begin(post: Arc<Post>, host: String, began: Duration, taken: Taken) -> Ended {
    let task = taken.delivery.task;
    let took = AssertUnwindSafe(post.deliver(taken)).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(%task, "a delivery broke off; it is made again later");
        None
    });
    (host, began, took)
}

fn note(hosts: &mut Hosts<Taken>, ended: Result<Ended, tokio::task::JoinError>) {
    match ended {
        Ok((host, began, took)) => hosts.ended(&host, began, took),
        Err(error) => tracing::error!(%error, "a delivery broke off; it is made again later"),
    }
}

#[cfg(test)]
mod tests;
