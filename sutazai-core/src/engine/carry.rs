//! Changes that are carried through although whoever asked for them goes away.

use std::future::Future;

use super::inner::shut_down;
use crate::error::{Error, ErrorKind, Result};

tokio::task_local! {
    /// Set where somebody else already sees to it that everything comes to its end.
    static CARRIED: ();
}

/// Says of `work` that it comes to its end whatever becomes of whoever asked for it, as in a task of its own: changes made in it need no other one.
pub async fn carried<T>(work: impl Future<Output = T>) -> T {
    CARRIED.scope((), work).await
}

/// Does what was asked for to its end, though whoever asked goes away meanwhile.
pub(crate) async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    if CARRIED.try_with(|_| ()).is_ok() {
        return work.await;
    }
    let done = tokio::spawn(carried(work)).await;
    done.unwrap_or_else(|broken| match broken.is_cancelled() {
        true => Err(shut_down()),
        false => Err(Error::new(ErrorKind::Internal, "the change broke off; look at what it changes").because(broken)),
    })
}

#[cfg(test)]
mod tests {
    use tokio::task;

    use super::*;

    #[tokio::test]
    async fn a_change_takes_one_task_whoever_carries_it() {
        let change = || to_its_end(async { Ok(task::id()) });
        let alone = task::spawn(async move { (task::id(), change().await.unwrap()) }).await.unwrap();
        assert_ne!(alone.0, alone.1, "its own");
        let within = task::spawn(carried(async move { (task::id(), change().await.unwrap()) })).await.unwrap();
        assert_eq!(within.0, within.1, "that of who carries it");
        let nested = to_its_end(async move { Ok((task::id(), change().await?)) }).await.unwrap();
        assert_eq!(nested.0, nested.1, "the first one's");
    }
}
