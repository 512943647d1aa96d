//! Connection: authorization of the client, and its streams.
//!
//! The client is authenticated by the time `handshake.rs` hands over the connection, and authorized
//! here, before the first request is read. Its rights can change while it is connected; a client
//! that loses all its rights loses the connection. Each stream becomes one task, owned by the
//! connection, which waits for all of them before it ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError};
use quire_shared::limits::STREAMS_MAX;
use quire_shared::{ErrorCode, Side};
use quire_transport::close;
use quire_transport::error_code::to_quic;
use quire_transport::flow::ConnectionFlow;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, error, info, info_span, warn};

use super::Shared;
use super::admission::Admitted;
use super::handshake::ServerHandshake;
use super::request::{self, RequestEnd};
use super::session::Session;
use crate::auth::authorized_keys::AuthorizedKeys;
use crate::metrics::Metrics;

/// Serves one connection from its handshake to its end.
pub(crate) async fn serve(
    connecting: Connecting,
    admitted: Admitted,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let begun = ServerHandshake::begin(connecting, admitted, &shared, &stop).await;
    let Some(mut handshake) = begun else { return };
    let connection = handshake.connection().clone();
    if stop.is_cancelled() {
        // Not earlier: before the end of the handshake a close can't have this code.
        if handshake.completes().await {
            close(&connection, ErrorCode::SHUTTING_DOWN).await;
        }
        return handshake.close(&stop).await;
    }
    let peer = shared.gate.peer(&connection);
    let shown = peer
        .key
        .map_or_else(|| "none".to_owned(), |key| key.to_string());
    let (access, changes) = shared.gate.follow(&peer).await;
    if access.is_empty() && !(peer.key.is_some() && shared.gate.is_pairing().await) {
        if !handshake.completes().await {
            return handshake.close(&stop).await;
        }
        shared.metrics.not_authorized.add_one();
        info!(
            key = shown,
            "not authorized; a line in authorized-keys or a code of `quire-server pair` grants \
             access"
        );
        return close(&connection, ErrorCode::NOT_AUTHORIZED).await;
    }
    info!(key = shown, names = ?peer.names, rights = %access, "connected");
    Span::current().record("key", shown);
    let flow = ConnectionFlow::new(connection.clone(), Side::Server, &shared.windows);
    let session = Arc::new(Session::new(shared, &connection, peer, access, flow));
    let mut requests = JoinSet::new();
    let metrics = &session.shared.metrics;
    let end = tokio::select! {
        end = serve_streams(&connection, &session, &stop, &mut requests) => end,
        () = until_revoked(&session, changes) => ConnectionEnd::Revoked,
        () = handshake.failed() => ConnectionEnd::Handshake,
    };
    close_early(&connection, &end, metrics).await;
    while let Some(ended) = requests.join_next().await {
        report(ended);
    }
    match end {
        ConnectionEnd::Revoked
        | ConnectionEnd::Idle
        | ConnectionEnd::Handshake
        | ConnectionEnd::Abuse => {}
        ConnectionEnd::Stopped => close::close(&connection, to_quic(ErrorCode::SHUTTING_DOWN), b""),
        ConnectionEnd::Lost(
            ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_),
        ) => {
            info!("closed by the client");
        }
        ConnectionEnd::Lost(reason) => info!(%reason, "connection lost"),
    }
    handshake.close(&stop).await;
}

/// Reason why a connection accepts no more requests.
enum ConnectionEnd {
    /// The connection was closed or timed out.
    Lost(ConnectionError),
    /// The server stops.
    Stopped,
    /// The client has lost its rights.
    Revoked,
    /// The client made no request for too long.
    Idle,
    /// The handshake failed after requests in 0-RTT data.
    Handshake,
    /// The client cancelled too many requests.
    Abuse,
}

/// Closes a connection that the server doesn't want any more. That makes its requests fail, which
/// the caller waits for.
async fn close_early(connection: &Connection, end: &ConnectionEnd, metrics: &Metrics) {
    match end {
        ConnectionEnd::Lost(_) | ConnectionEnd::Stopped => {}
        ConnectionEnd::Revoked => {
            metrics.revoked.add_one();
            info!("not authorized any more");
            close(connection, ErrorCode::NOT_AUTHORIZED).await;
        }
        ConnectionEnd::Idle => {
            metrics.idle_time.add_one();
            info!("idle for too long");
            close(connection, ErrorCode::TIMEOUT).await;
        }
        ConnectionEnd::Handshake => close(connection, ErrorCode::TIMEOUT).await,
        ConnectionEnd::Abuse => {
            metrics.abort_rate.add_one();
            info!("cancelled too many requests");
            close(connection, ErrorCode::LIMIT).await;
        }
    }
}

async fn close(connection: &Connection, code: ErrorCode) {
    let phrase = code.phrase().unwrap_or_default();
    close::close(connection, to_quic(code), phrase.as_bytes());
    // The close has to be sent before the last handle of the connection is dropped.
    connection.closed().await;
}

/// Updates the client's rights, and returns when it has none. That is at once for a client whose
/// rights are revoked, and after [`PAIRING_TIME`] for a client that is pairing.
async fn until_revoked(session: &Session, mut changes: watch::Receiver<Arc<AuthorizedKeys>>) {
    let deadline = Instant::now() + PAIRING_TIME;
    loop {
        let is_waiting = session.caller().access().is_empty();
        if is_waiting {
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return;
            }
        } else if changes.changed().await.is_err() {
            // Fails only if the keyring is gone, which outlives every session.
            return std::future::pending().await;
        }
        let access = session.shared.gate.access(&session.peer);
        if access.is_empty() && !is_waiting {
            return;
        }
        if access != **session.caller().access() {
            info!(rights = %access, "the rights have changed");
            session.set_access(access);
        }
    }
}

/// Serves streams until the connection ends or the server stops.
async fn serve_streams(
    connection: &Connection,
    session: &Arc<Session>,
    stop: &CancellationToken,
    requests: &mut JoinSet<RequestEnd>,
) -> ConnectionEnd {
    let limits = &session.shared.limits;
    let aborts = limits.abort_rate.counter();
    loop {
        tokio::select! {
            stream = connection.accept_bi(), if requests.len() < STREAMS_MAX as usize => {
                match stream {
                    Ok((send, recv)) => {
                        let span = info_span!("request", stream = send.id().index());
                        let session = Arc::clone(session);
                        requests.spawn(request::serve(send, recv, session).instrument(span));
                    }
                    Err(reason) => return ConnectionEnd::Lost(reason),
                }
            }
            Some(ended) = requests.join_next() => {
                let is_aborted = report(ended) == Some(RequestEnd::Cancelled);
                if is_aborted && aborts.as_ref().is_some_and(|aborts| !aborts.try_take(1)) {
                    return ConnectionEnd::Abuse;
                }
            }
            () = tokio::time::sleep(limits.idle_time.0), if requests.is_empty() => {
                return ConnectionEnd::Idle;
            }
            () = stop.cancelled() => return ConnectionEnd::Stopped,
        }
    }
}

/// Logs a panic or an abort of a request's task; the task itself has logged all other errors.
fn report(ended: Result<RequestEnd, tokio::task::JoinError>) -> Option<RequestEnd> {
    match ended {
        Ok(outcome) => return Some(outcome),
        Err(error) if error.is_panic() => error!(%error, "a request panicked"),
        Err(error) => warn!(%error, "a request was cut off"),
    }
    None
}

/// Time that a client without rights has to pair.
const PAIRING_TIME: Duration = Duration::from_secs(10);
