//! One connection: who the client is, and its streams.
//!
//! Who the client is, is certain when `handshake.rs` hands the connection over, and what it may do
//! is settled here, before the first request is read. What it may do can change while it is connected; a client that loses all its
//! rights loses the connection. Each stream becomes one task, owned by the connection, which waits
//! for all of them before it ends.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError, VarInt};
use quire_shared::limits::STREAMS_MAX;
use quire_shared::{ErrorCode, Side};
use quire_transport::close;
use quire_transport::error_code::to_quic;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::stream_limits::{RateLimiter, StreamLimits};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::auth::access::Access;
use crate::auth::authorized_keys::{AuthorizedKeys, Peer};
use crate::files::quota::Holder;
use crate::quic::admission::Admitted;
use crate::quic::handshake::Handshake;
use crate::quic::request::{self, Outcome};
use crate::state::State;

/// What a connection's requests share.
#[derive(Debug)]
pub(crate) struct Session {
    /// The server's parts.
    pub(crate) state: Arc<State>,
    /// The connection itself.
    pub(crate) connection: Connection,
    /// Who the client has proved to be.
    pub(crate) peer: Peer,
    /// What this client may do now.
    access: RwLock<Arc<Access>>,
    /// What its streams share.
    pub(crate) flow: ConnectionFlow,
    /// What this client shares with others of its key.
    pub(crate) holder: Arc<Holder>,
    /// How slow and how fast its streams may be.
    pub(crate) pace: StreamLimits,
    /// What its requests wait for.
    pub(crate) requests: Option<Arc<RateLimiter>>,
}

impl Session {
    fn new(
        state: Arc<State>,
        connection: &Connection,
        peer: Peer,
        access: Access,
        flow: ConnectionFlow,
    ) -> Self {
        let holder = state
            .holders
            .holder(peer.key.filter(|_| state.keyring.knows(&peer)));
        let throttles = [&state.throttle, &holder.throttle];
        let pace = StreamLimits {
            rate_limiters: throttles.into_iter().flatten().cloned().collect(),
            ..state.limits.pace()
        };
        let requests = state.limits.request_rate.throttle();
        Self {
            state,
            connection: connection.clone(),
            peer,
            access: RwLock::new(Arc::new(access)),
            flow,
            holder,
            pace,
            requests,
        }
    }

    /// What this client may do now. A request asks once, and is judged by the answer to its end.
    pub(crate) fn access(&self) -> Arc<Access> {
        Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
        self.welcome();
    }

    /// Lets a client that may do something do as much of it at once as any.
    fn welcome(&self) {
        if !self.access().is_empty() {
            let streams = VarInt::from_u32(STREAMS_MAX);
            self.connection.set_max_concurrent_bi_streams(streams);
        }
    }
}

/// Serves one connection from its handshake to its end.
pub(crate) async fn serve(
    connecting: Connecting,
    admitted: Admitted,
    state: Arc<State>,
    stop: CancellationToken,
) {
    let begun = Handshake::begin(connecting, admitted, &state, &stop).await;
    let Some(mut handshake) = begun else { return };
    let connection = handshake.connection().clone();
    let peer = state.client_ca.peer(&connection);
    let shown = peer
        .key
        .map_or_else(|| "none".to_owned(), |key| key.to_string());
    state.keyring.refresh(false).await;
    let changes = state.keyring.subscribe();
    let access = state.keyring.access(&peer);
    if access.is_empty() && !(peer.key.is_some() && state.pairing.is_open().await) {
        if !handshake.is_over().await {
            return handshake.forgotten(&stop).await;
        }
        state.counters.not_authorized.add_one();
        info!(key = shown, "not authorized");
        return close(&connection, ErrorCode::NOT_AUTHORIZED).await;
    }
    info!(key = shown, names = ?peer.names, rights = %access, "connected");
    let flow = ConnectionFlow::new(connection.clone(), Side::Server, &state.windows);
    let session = Arc::new(Session::new(state, &connection, peer, access, flow));
    session.welcome();
    let mut requests = JoinSet::new();
    let counters = &session.state.counters;
    let end = tokio::select! {
        end = serve_streams(&connection, &session, &stop, &mut requests) => end,
        () = until_revoked(&session, changes) => End::Revoked,
        () = handshake.failed() => End::Handshake,
    };
    // Each ends the requests as well, at the next thing that they do with their streams.
    match end {
        End::Lost(_) | End::Stopped => {}
        End::Revoked => {
            counters.revoked.add_one();
            info!("not authorized any more");
            close(&connection, ErrorCode::NOT_AUTHORIZED).await;
        }
        End::Idle => {
            counters.idle_time.add_one();
            info!("idle for too long");
            close(&connection, ErrorCode::TIMEOUT).await;
        }
        End::Handshake => close(&connection, ErrorCode::TIMEOUT).await,
        End::Abuse => {
            counters.abort_rate.add_one();
            info!("gave up too many requests");
            close(&connection, ErrorCode::LIMIT).await;
        }
    }
    while let Some(ended) = requests.join_next().await {
        report(ended);
    }
    match end {
        End::Revoked | End::Idle | End::Handshake | End::Abuse => {}
        End::Stopped => close::close(&connection, to_quic(ErrorCode::SHUTTING_DOWN), b""),
        End::Lost(ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_)) => {
            info!("closed by the client");
        }
        End::Lost(reason) => info!(%reason, "connection lost"),
    }
    handshake.forgotten(&stop).await;
}

/// Why a connection takes no more requests.
enum End {
    /// The connection itself has ended.
    Lost(ConnectionError),
    /// The server stops.
    Stopped,
    /// The client has lost its rights.
    Revoked,
    /// It asked for nothing for too long.
    Idle,
    /// Its handshake failed after it had begun to ask.
    Handshake,
    /// It gave up too many requests.
    Abuse,
}

async fn close(connection: &Connection, code: ErrorCode) {
    let phrase = code.phrase().unwrap_or_default();
    close::close(connection, to_quic(code), phrase.as_bytes());
    // The close has to leave before the connection's last handle does.
    connection.closed().await;
}

/// Keeps the client's rights up to date, and ends when it has none: at once when it had some, and
/// when it has come with a code, after the time for that.
async fn until_revoked(session: &Session, mut changes: watch::Receiver<Arc<AuthorizedKeys>>) {
    let deadline = Instant::now() + PAIRING_TIME;
    loop {
        let is_waiting = session.access().is_empty();
        if is_waiting {
            if timeout_at(deadline, changes.changed()).await.is_err() {
                return;
            }
        } else if changes.changed().await.is_err() {
            // The keyring lives as long as the session, so there is always a next change.
            return std::future::pending().await;
        }
        let access = session.state.keyring.access(&session.peer);
        if access.is_empty() && !is_waiting {
            return;
        }
        if access != *session.access() {
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
    requests: &mut JoinSet<Outcome>,
) -> End {
    let limits = &session.state.limits;
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
                    Err(reason) => return End::Lost(reason),
                }
            }
            Some(ended) = requests.join_next() => {
                let is_aborted = report(ended) == Some(Outcome::GivenUp);
                if is_aborted && aborts.as_ref().is_some_and(|aborts| !aborts.try_take(1)) {
                    return End::Abuse;
                }
            }
            () = tokio::time::sleep(limits.idle_time.0), if requests.is_empty() => {
                return End::Idle;
            }
            () = stop.cancelled() => return End::Stopped,
        }
    }
}

/// A request's task reports its own failures; only a defect of ours ends it in another way.
fn report(ended: Result<Outcome, tokio::task::JoinError>) -> Option<Outcome> {
    match ended {
        Ok(outcome) => return Some(outcome),
        Err(error) if error.is_panic() => error!(%error, "a request panicked"),
        Err(error) => warn!(%error, "a request was cut off"),
    }
    None
}

/// How long a client may stay that has no rights and perhaps a code.
const PAIRING_TIME: Duration = Duration::from_secs(10);
