//! `Stat`: what is known of a file or directory.

use quire_shared::protocol::{Attributes, Stat};

use crate::error::RequestError;
use crate::state::State;

/// Looks the path up.
pub(crate) async fn carry_out(request: Stat, state: &State) -> Result<Attributes, RequestError> {
    let _guard = state.locks.shared(&request.path).await?;
    state.read(move |root| root.stat(&request.path)).await
}
