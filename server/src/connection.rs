//! One connection: who the client is, and its streams.
//!
//! The client's rights are fixed here, after the handshake has completed and before the first
//! request is read. Each stream becomes one task, owned by the connection, which waits for all of
//! them before it ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError};
use quire_shared::limits::STREAMS_MAX;
use quire_shared::{ErrorCode, closing};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::authorized_keys::Rights;
use crate::request;
use crate::state::State;
use crate::tls;

/// What a connection's requests share.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's parts.
    pub(crate) state: Arc<State>,
    /// What this client may do.
    pub(crate) rights: Rights,
}

/// Serves one connection from its handshake to its end.
pub(crate) async fn serve(connecting: Connecting, state: Arc<State>, stop: CancellationToken) {
    let connection = match tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(%error, "handshake ended"),
        Err(_) => return debug!("handshake took too long"),
    };
    let key = tls::peer_fingerprint(&connection);
    let rights = state.access.rights(key.as_ref());
    let shown = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
    if !rights.may_read() {
        info!(key = shown, "not authorized");
        closing::close(
            &connection,
            ErrorCode::NOT_AUTHORIZED.into(),
            b"not authorized",
        );
        // The close has to leave before the connection's last handle does.
        connection.closed().await;
        return;
    }
    info!(key = shown, ?rights, "connected");
    let session = Arc::new(Session { state, rights });
    let reason = serve_streams(&connection, &session, &stop).await;
    match reason {
        Some(ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_)) => {
            info!("closed by the client");
        }
        Some(reason) => info!(%reason, "connection lost"),
        None => closing::close(&connection, ErrorCode::SHUTTING_DOWN.into(), b""),
    }
}

/// Serves streams until the connection ends, which is returned, or the server stops.
async fn serve_streams(
    connection: &Connection,
    session: &Arc<Session>,
    stop: &CancellationToken,
) -> Option<ConnectionError> {
    let mut requests = JoinSet::new();
    let reason = loop {
        tokio::select! {
            stream = connection.accept_bi(), if requests.len() < STREAMS_MAX as usize => {
                match stream {
                    Ok((send, recv)) => {
                        let span = info_span!("request", stream = send.id().index());
                        let session = Arc::clone(session);
                        requests.spawn(request::serve(send, recv, session).instrument(span));
                    }
                    Err(reason) => break Some(reason),
                }
            }
            Some(ended) = requests.join_next() => report(ended),
            () = stop.cancelled() => break None,
        }
    };
    while let Some(ended) = requests.join_next().await {
        report(ended);
    }
    reason
}

/// A request's task reports its own failures; only a defect of ours ends it in another way.
fn report(ended: Result<(), tokio::task::JoinError>) {
    match ended {
        Ok(()) => {}
        Err(error) if error.is_panic() => error!(%error, "a request panicked"),
        Err(error) => warn!(%error, "a request was cut off"),
    }
}

/// How long a handshake may take: five round trips of a second.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
