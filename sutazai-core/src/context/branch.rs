//! Branches that run at once and replay whatever their timing.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
};

use futures_util::stream::{FuturesUnordered, StreamExt};

use super::Context;

impl Context {
    /// Runs branches at once and returns their results in order. Each branch gets a context of its own, so that its entries are found again whatever the timing
    /// of the others.
    ///
    /// ```
    /// # use sutazai_core::prelude::*;
    /// let squares = agent_fn("squares", |context, numbers: Vec<u32>| async move {
    ///     let square = |n: u32| move |branch: Context| async move { branch.step("square", || async move { Ok(n * n) }).await };
    ///     let results = context.join_all(numbers.into_iter().map(square)).await;
    ///     results.into_iter().collect::<Result<Vec<u32>, AgentError>>()
    /// });
    /// ```
    pub async fn join_all<F, Fut>(&self, branches: impl IntoIterator<Item = F>) -> Vec<Fut::Output>
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future,
    {
        let mut running = self.start(branches);
        let mut results: Vec<Option<Fut::Output>> = (0..running.len()).map(|_| None).collect();
        while let Some((place, result)) = running.next().await {
            if let Some(slot) = results.get_mut(place) {
                *slot = Some(result);
            }
        }
        results.into_iter().flatten().collect()
    }

    /// Runs branches at once and returns the number and the result of the first that ends; the others are dropped. The same one wins whenever the code runs
    /// again. Children that a dropped branch has called for go on until this task ends. Without branches it never returns.
    pub async fn race<F, Fut>(&self, branches: impl IntoIterator<Item = F>) -> (usize, Fut::Output)
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future,
    {
        match self.start(branches).next().await {
            Some(first) => first,
            None => std::future::pending().await,
        }
    }

    fn start<F, Fut>(
        &self,
        branches: impl IntoIterator<Item = F>,
    ) -> FuturesUnordered<impl Future<Output = (usize, Fut::Output)>>
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future,
    {
        let group = self.1.groups.fetch_add(1, Ordering::SeqCst);
        branches
            .into_iter()
            .enumerate()
            .map(|(place, branch)| {
                let path = match &*self.1.path {
                    "" => format!("{group}.{place}"),
                    path => format!("{path}/{group}.{place}"),
                };
                let run = branch(Self(Arc::clone(&self.0), Arc::new(super::Branch::new(path))));
                async move { (place, run.await) }
            })
            .collect()
    }
}
