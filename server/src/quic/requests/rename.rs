//! `Rename`: a new name for a file or directory.

use quire_shared::protocol::{Changed, Rename};

use crate::error::RequestError;
use crate::state::State;

/// Renames under exclusive locks on both names: of two clients that rename one file, the second
/// finds nothing under the old name.
pub(crate) async fn carry_out(request: Rename, state: &State) -> Result<Changed, RequestError> {
    let _guard = state.locks.exclusive(&[&request.from, &request.to]).await?;
    let Rename {
        from,
        to,
        source,
        target,
    } = request;
    let names = (from.clone(), to.clone());
    let version = state
        .change(move |root| root.rename(&from, &to, &source, &target))
        .await?;
    state.cache.forget(&names.0);
    state.cache.forget(&names.1);
    Ok(Changed { version })
}
