//! `Pair`: a key is let in by proof of a code.

use quire_shared::pairing::{Pair, Paired};

use crate::error::RequestError;
use crate::quic::connection::Session;

/// Lets the client's key in, if its proof is right; its rights come with the next look at the file.
pub(crate) async fn carry_out(pair: Pair, session: &Session) -> Result<Paired, RequestError> {
    let key = session.peer.key.ok_or(RequestError::NotAuthorized)?;
    let state = &session.state;
    let paired = state.pairing.accept(pair, key, &session.connection).await?;
    state.keyring.refresh(false).await;
    Ok(paired)
}
