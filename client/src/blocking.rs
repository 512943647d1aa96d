//! File work off the asynchronous threads.

use crate::error::ClientError;

/// Runs `work` in a blocking thread. If the caller is cancelled, `work` goes on and its result is
/// dropped there, so what must be undone then belongs into a guard within the result.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is stopping cancels it, and then nobody is left to be answered.
            Err(_) => std::future::pending().await,
        },
    }
}
