//! Handshake of a connection, and early data (0-RTT) before it is complete.
//!
//! A returning client resumes its session, and its first packets may carry requests (0-RTT, RFC
//! 9001, section 4.6). The client is authenticated even then. Only the client that received a
//! ticket can encrypt with its secret, and the session stores the certificate of the original
//! handshake. But 0-RTT data can be a replay of recorded packets (RFC 9001, section 9.2). So only
//! requests that change nothing are carried out (`request.rs`), and a ticket is valid only once.
//! Only the client can complete the handshake; a connection is closed if that takes too long.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connecting, Connection, ConnectionError, ZeroRttAccepted};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Shared;
use super::admission::Admitted;
use super::tls;
use crate::metrics::Metrics;

/// Connection whose handshake may still be in progress.
pub(crate) struct ServerHandshake {
    connection: Connection,
    stage: HandshakeStage,
    deadline: Instant,
    /// Counts the connection until it is closed.
    admitted: Admitted,
    metrics: Arc<Metrics>,
}

enum HandshakeStage {
    InProgress(ZeroRttAccepted),
    Complete,
    /// Failed; quinn keeps the connection for this long.
    Failed {
        kept: Duration,
    },
}

impl ServerHandshake {
    /// Waits until the client is authenticated: by its first packet for a resumed session,
    /// otherwise by the whole handshake. If that fails or takes too long, waits until quinn has
    /// dropped the connection, and returns `None`.
    pub(crate) async fn begin(
        mut connecting: Connecting,
        admitted: Admitted,
        shared: &Shared,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let metrics = &shared.metrics;
        let deadline = Instant::now() + shared.limits.handshake_time.0;
        let heard = timeout_at(deadline, connecting.handshake_data()).await;
        // Only the arrival matters here; the data itself isn't needed.
        let kept = match heard.map(|heard| heard.map(drop)) {
            Ok(Ok(())) => {
                // Never fails on the server's side.
                let (connection, over) = connecting.into_0rtt().ok()?;
                let mut handshake = Self {
                    connection,
                    stage: HandshakeStage::InProgress(over),
                    deadline,
                    admitted,
                    metrics: Arc::clone(metrics),
                };
                // A certificate this early is that of a resumed session, or one whose key has
                // already signed this handshake.
                if tls::peer_chain(&handshake.connection).is_some() || handshake.completes().await {
                    return Some(handshake);
                }
                handshake.close(stop).await;
                return None;
            }
            Ok(Err(error)) => kept_after(&error),
            Err(_) => {
                drop(connecting);
                kept_after_timeout(metrics)
            }
        };
        linger(admitted, kept, stop).await;
        None
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for the end of the handshake, and returns whether it succeeded.
    pub(crate) async fn completes(&mut self) -> bool {
        if let HandshakeStage::InProgress(over) = &mut self.stage {
            let ended = timeout_at(self.deadline, over).await;
            self.stage = match (ended, self.connection.close_reason()) {
                (Err(_), _) => HandshakeStage::Failed {
                    kept: kept_after_timeout(&self.metrics),
                },
                (Ok(_), Some(error)) if !has_keys(&self.connection) => HandshakeStage::Failed {
                    kept: kept_after(&error),
                },
                (Ok(_), _) => {
                    self.admitted.end_handshake();
                    HandshakeStage::Complete
                }
            };
        }
        matches!(self.stage, HandshakeStage::Complete)
    }

    /// Waits for the handshake to fail; never returns if it succeeds.
    pub(crate) async fn failed(&mut self) {
        if self.completes().await {
            std::future::pending::<()>().await;
        }
    }

    /// Drops the connection. If its handshake has failed, waits until quinn has dropped it, too.
    pub(crate) async fn close(mut self, stop: &CancellationToken) {
        self.completes().await;
        drop(self.connection);
        if let HandshakeStage::Failed { kept } = self.stage {
            linger(self.admitted, kept, stop).await;
        }
    }
}

/// Whether the handshake was completed, even if the connection was closed afterwards. Keying
/// material can be exported only then.
fn has_keys(connection: &Connection) -> bool {
    connection
        .export_keying_material(&mut [0; 1], b"", b"")
        .is_ok()
}

async fn linger(admitted: Admitted, time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = admitted.linger(time) => {}
        () = stop.cancelled() => {}
    }
}

/// Time for which quinn keeps a connection whose handshake ended with `error`. Where the client's
/// first packet closes the connection, quinn 0.11 sets no drain timer: only the idle timeout is
/// left.
fn kept_after(error: &ConnectionError) -> Duration {
    debug!(%error, "handshake ended");
    match error {
        ConnectionError::ConnectionClosed(_) | ConnectionError::ApplicationClosed(_) => {
            quire_transport::config::IDLE_TIMEOUT
        }
        _ => KEPT_AFTER_CLOSE,
    }
}

fn kept_after_timeout(metrics: &Metrics) -> Duration {
    metrics.handshake_time.add_one();
    debug!("handshake took too long");
    KEPT_AFTER_CLOSE
}

/// Duration of the closing state: three probe timeouts (RFC 9000, section 10.2) at the initial
/// round trip of 333 ms (RFC 9002, section 6.2.2).
const KEPT_AFTER_CLOSE: Duration = Duration::from_secs(3);
