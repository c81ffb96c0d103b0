//! The graph of neighbours, by `usearch`: which slots are near to a vector, roughly and quickly.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use super::{UsearchConfig, error::Failure};

/// A graph over slots. Vectors stand in it as 16-bit floats, so what it finds is scored again from the exact ones.
pub(super) struct Graph(Index);

impl Graph {
    /// A graph in memory, with room for `slots`, to add to: with what `bytes` hold, or empty.
    pub(super) fn growing(
        config: &UsearchConfig,
        dimension: usize,
        slots: usize,
        bytes: Option<&[u8]>,
    ) -> Result<Self, Failure> {
        let index = index(config, dimension)?;
        if let Some(bytes) = bytes {
            index.load_from_buffer(bytes).map_err(failed)?;
        }
        index.reserve_capacity_and_threads(slots, config.build_threads.max(1)).map_err(failed)?;
        Ok(Self(index))
    }

    /// A graph to search, read in place.
    ///
    /// # Safety
    ///
    /// `bytes` must stay as they are for as long as the graph lives.
    #[allow(unsafe_code, reason = "usearch keeps a pointer into the bytes; the caller promises that they stay")]
    pub(super) unsafe fn view(config: &UsearchConfig, dimension: usize, bytes: &[u8]) -> Result<Self, Failure> {
        let index = index(config, dimension)?;
        index.reserve_capacity_and_threads(0, config.search_threads.max(1)).map_err(failed)?;
        // SAFETY: what this function asks of its caller.
        unsafe { index.view_from_buffer(bytes) }.map_err(failed)?;
        Ok(Self(index))
    }

    pub(super) fn len(&self) -> usize {
        self.0.size()
    }

    /// Adds slots with their vectors of unit length, on several threads.
    pub(super) fn add<'v>(
        &self,
        slots: std::ops::Range<usize>,
        vector: impl Fn(usize) -> &'v [f32] + Sync,
        threads: usize,
    ) -> Result<(), Failure> {
        let (next, failure) = (AtomicUsize::new(slots.start), Mutex::new(None));
        thread::scope(|scope| {
            for _ in 0..threads.clamp(1, slots.len().max(1)) {
                scope.spawn(|| {
                    loop {
                        let slot = next.fetch_add(1, Ordering::Relaxed);
                        if slot >= slots.end {
                            break;
                        }
                        if let Err(error) = self.0.add(slot as u64, vector(slot)) {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failed(error));
                            break;
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// The graph as bytes for [`Graph::view`].
    pub(super) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let mut bytes = vec![0; self.0.serialized_length()];
        self.0.save_to_buffer(&mut bytes).map_err(failed)?;
        Ok(bytes)
    }

    /// Some `count` slots that are among the nearest to a vector of unit length, of those that are `allowed`.
    pub(super) fn near(
        &self,
        vector: &[f32],
        count: usize,
        allowed: Option<impl Fn(usize) -> bool>,
    ) -> Result<Vec<u64>, Failure> {
        let found = match allowed {
            None => self.0.search(vector, count),
            Some(allowed) => self.0.filtered_search(vector, count, |slot| allowed(slot as usize)),
        };
        Ok(found.map_err(failed)?.keys)
    }
}

/// Vectors are of unit length, so the inner product orders them as the cosine does, at two thirds of the cost.
fn index(config: &UsearchConfig, dimension: usize) -> Result<Index, Failure> {
    let options = IndexOptions {
        dimensions: dimension,
        metric: MetricKind::IP,
        quantization: ScalarKind::F16,
        connectivity: config.connectivity,
        expansion_add: config.expansion_add,
        expansion_search: config.expansion_search,
        multi: false,
    };
    Index::new(&options).map_err(failed)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Graph(Box::new(error))
}
