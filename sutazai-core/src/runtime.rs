//! For programs that have no async runtime of their own.

use std::future::Future;

/// Runs `future` to its end on the current thread, with a tokio runtime of its own.
///
/// Enough for small programs; larger ones use `#[tokio::main]` and more threads.
///
/// # Panics
///
/// If the operating system refuses a runtime, or inside another tokio runtime.
pub fn block_on<F: Future>(future: F) -> F::Output {
    #[allow(clippy::expect_used, reason = "documented; nothing can go on without a runtime")]
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("the operating system refuses an async runtime");
    runtime.block_on(future)
}
