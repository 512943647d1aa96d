//! Blocking file operations, outside the threads of the asynchronous runtime.

use quire_transport::bottleneck::file_work;
use tokio::task::JoinHandle;

use crate::error::ClientError;

/// Runs `work` in a blocking thread. If the caller is cancelled, `work` goes on and its result is
/// dropped there. What has to be undone then needs a guard inside the result.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    joined(&mut tokio::task::spawn_blocking(|| file_work(work))).await
}

/// Waits for a blocking thread, and passes on its panic.
pub(crate) async fn joined<T>(
    task: &mut JoinHandle<Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is stopping cancels the task, and then no caller waits.
            Err(_) => std::future::pending().await,
        },
    }
}
