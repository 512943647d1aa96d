//! `MakeDirectory`: a new directory.

use quire_shared::protocol::{Changed, MakeDirectory};

use crate::error::RequestError;
use crate::quic::request::Client;
use crate::state::State;

/// Makes the directory, and missing parents if the client asks for them.
pub(crate) async fn carry_out(
    request: MakeDirectory,
    client: Client<'_>,
    state: &State,
) -> Result<Changed, RequestError> {
    let charge = client.holder.charge(0, 1)?;
    let _guard = state.locks.exclusive(&[&request.path]).await?;
    let MakeDirectory {
        path,
        make_parents,
        precondition,
    } = request;
    let parents = client.access.parents(&path, make_parents);
    let version = state
        .change(move |root| root.make_directory(&path, parents, &precondition))
        .await?;
    charge.keep();
    Ok(Changed { version })
}
