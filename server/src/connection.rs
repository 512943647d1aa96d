//! One connection: who the client is, and its streams.
//!
//! Who the client is, is settled here, after the handshake has completed and before the first
//! request is read. What it may do can change while it is connected; a client that loses all its
//! rights loses the connection. Each stream becomes one task, owned by the connection, which waits
//! for all of them before it ends.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError};
use quire_certs::Fingerprint;
use quire_shared::limits::STREAMS_MAX;
use quire_shared::traffic::Traffic;
use quire_shared::{ErrorCode, closing, windows};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::access::Access;
use crate::authorized_keys::AuthorizedKeys;
use crate::request;
use crate::state::State;
use crate::tls;

/// What a connection's requests share.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's parts.
    pub(crate) state: Arc<State>,
    /// What this client may do now.
    access: RwLock<Arc<Access>>,
    /// What its streams share.
    pub(crate) traffic: Traffic,
}

impl Session {
    /// What this client may do now. A request asks once, and is judged by the answer to its end.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

/// Serves one connection from its handshake to its end.
pub(crate) async fn serve(connecting: Connecting, state: Arc<State>, stop: CancellationToken) {
    let connection = match tokio::time::timeout(HANDSHAKE_LIMIT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return debug!(%error, "handshake ended"),
        Err(_) => return debug!("handshake took too long"),
    };
    let key = tls::peer_fingerprint(&connection);
    let shown = key.map_or_else(|| "none".to_owned(), |key| key.to_string());
    state.keyring.refresh(false).await;
    let changes = state.keyring.subscribe();
    let access = state.keyring.access(key.as_ref());
    if access.is_empty() {
        info!(key = shown, "not authorized");
        return close(&connection, ErrorCode::NOT_AUTHORIZED).await;
    }
    info!(key = shown, rights = %access, "connected");
    let traffic = Traffic::new(connection.clone(), windows::End::Server, &state.windows);
    let session = Arc::new(Session {
        state,
        access: RwLock::new(Arc::new(access)),
        traffic,
    });
    let mut requests = JoinSet::new();
    let end = tokio::select! {
        end = serve_streams(&connection, &session, &stop, &mut requests) => end,
        () = until_revoked(&session, key.as_ref(), changes) => End::Revoked,
    };
    if matches!(end, End::Revoked) {
        info!("not authorized any more");
        // Ends the requests as well, each at the next thing it does with its stream.
        close(&connection, ErrorCode::NOT_AUTHORIZED).await;
    }
    while let Some(ended) = requests.join_next().await {
        report(ended);
    }
    match end {
        End::Revoked => {}
        End::Stopped => closing::close(&connection, ErrorCode::SHUTTING_DOWN.into(), b""),
        End::Lost(ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_)) => {
            info!("closed by the client");
        }
        End::Lost(reason) => info!(%reason, "connection lost"),
    }
}

/// Why a connection takes no more requests.
enum End {
    /// The connection itself has ended.
    Lost(ConnectionError),
    /// The server stops.
    Stopped,
    /// The client has lost its rights.
    Revoked,
}

async fn close(connection: &Connection, code: ErrorCode) {
    let phrase = code.phrase().unwrap_or_default();
    closing::close(connection, code.into(), phrase.as_bytes());
    // The close has to leave before the connection's last handle does.
    connection.closed().await;
}

/// Keeps the client's rights up to date, and ends when it has none.
async fn until_revoked(
    session: &Session,
    key: Option<&Fingerprint>,
    mut changes: watch::Receiver<Arc<AuthorizedKeys>>,
) {
    while changes.changed().await.is_ok() {
        let access = session.state.keyring.access(key);
        if access.is_empty() {
            return;
        }
        if access != *session.access() {
            info!(rights = %access, "the rights have changed");
            session.set_access(access);
        }
    }
    // The keyring lives as long as the session, so there is always a next change to wait for.
    std::future::pending::<()>().await;
}

/// Serves streams until the connection ends or the server stops.
async fn serve_streams(
    connection: &Connection,
    session: &Arc<Session>,
    stop: &CancellationToken,
    requests: &mut JoinSet<()>,
) -> End {
    loop {
        tokio::select! {
            stream = connection.accept_bi(), if requests.len() < STREAMS_MAX as usize => {
                match stream {
                    Ok((send, recv)) => {
                        let span = info_span!("request", stream = send.id().index());
                        let session = Arc::clone(session);
                        requests.spawn(request::serve(send, recv, session).instrument(span));
                    }
                    Err(reason) => return End::Lost(reason),
                }
            }
            Some(ended) = requests.join_next() => report(ended),
            () = stop.cancelled() => return End::Stopped,
        }
    }
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
