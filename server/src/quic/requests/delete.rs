//! `Delete`: the end of a file or directory.

use quire_shared::protocol::{Delete, Done};
use quire_transport::stream::Sender;
use tracing::error;

use crate::error::RequestError;
use crate::quic::request::answer;
use crate::state::State;

/// Takes the name away under its lock, answers, and then frees what was below a directory, which
/// nobody can see any more.
pub(crate) async fn serve(
    request: Delete,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let guard = state.locks.exclusive(&[&request.path]).await?;
    let Delete {
        path,
        recursive,
        precondition,
    } = request;
    let gone = path.clone();
    let discarded = state
        .change(move |root| root.delete(&path, recursive, &precondition))
        .await?;
    state.cache.forget(&gone);
    drop(guard);
    let answered = answer(sender, Done {}).await;
    let removed = match discarded {
        Some(discarded) => state.change(move |_| discarded.remove()).await,
        None => Ok(()),
    };
    if let Err(error) = removed {
        error!(
            error = &error as &dyn std::error::Error,
            "a deleted directory stays in staging"
        );
    }
    answered
}
