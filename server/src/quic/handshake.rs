//! A handshake, and what may happen before it is over.
//!
//! A client that comes back resumes its session, and its first packets may carry requests (early
//! data, RFC 9001 §4.6). Who it is, is certain then: only the client to whom a ticket was given can
//! encrypt what goes with it, and the session keeps the certificate that it was made with. What is
//! not certain is that the client sends it now, rather than somebody who recorded it; so only
//! requests that change nothing are carried out (`request.rs`), and a ticket is good only once.
//! Nobody but the client can end the handshake, and whoever doesn't within the time for it is cut
//! off.

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

/// A connection whose handshake may still be under way.
pub(crate) struct ServerHandshake {
    connection: Connection,
    stage: HandshakeStage,
    deadline: Instant,
    /// What counts the connection as long as it lasts.
    admitted: Admitted,
    metrics: Arc<Metrics>,
}

enum HandshakeStage {
    UnderWay(ZeroRttAccepted),
    Over,
    Failed { kept: Duration },
}

impl ServerHandshake {
    /// Waits until it is certain who the client is: for a resumed session that takes its first
    /// packet, otherwise the whole handshake. Where that fails or takes too long, waits until quinn
    /// has forgotten the connection.
    pub(crate) async fn begin(
        mut connecting: Connecting,
        admitted: Admitted,
        shared: &Shared,
        stop: &CancellationToken,
    ) -> Option<Self> {
        let metrics = &shared.metrics;
        let deadline = Instant::now() + shared.limits.handshake_time.0;
        let heard = timeout_at(deadline, connecting.handshake_data()).await;
        // The data itself says nothing of interest.
        let kept = match heard.map(|heard| heard.map(drop)) {
            Ok(Ok(())) => {
                // Never refused on this side.
                let (connection, over) = connecting.into_0rtt().ok()?;
                let mut handshake = Self {
                    connection,
                    stage: HandshakeStage::UnderWay(over),
                    deadline,
                    admitted,
                    metrics: Arc::clone(metrics),
                };
                // A certificate this early is that of a session which is resumed, or one that has
                // already been proved in this handshake.
                if tls::peer_chain(&handshake.connection).is_some() || handshake.is_over().await {
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

    /// Waits for the end of the handshake, and tells whether it was a good one.
    pub(crate) async fn is_over(&mut self) -> bool {
        if let HandshakeStage::UnderWay(over) = &mut self.stage {
            let ended = timeout_at(self.deadline, over).await;
            self.stage = match (ended, self.connection.close_reason()) {
                (Err(_), _) => HandshakeStage::Failed {
                    kept: kept_after_timeout(&self.metrics),
                },
                (Ok(_), Some(error)) if !has_keys(&self.connection) => HandshakeStage::Failed {
                    kept: kept_after(&error),
                },
                (Ok(_), _) => {
                    self.admitted.handshake_over();
                    HandshakeStage::Over
                }
            };
        }
        matches!(self.stage, HandshakeStage::Over)
    }

    /// Completes only if the handshake fails.
    pub(crate) async fn failed(&mut self) {
        if self.is_over().await {
            std::future::pending::<()>().await;
        }
    }

    /// Lets the connection go. If its handshake has failed, waits until quinn has forgotten it.
    pub(crate) async fn close(mut self, stop: &CancellationToken) {
        self.is_over().await;
        drop(self.connection);
        if let HandshakeStage::Failed { kept } = self.stage {
            linger(self.admitted, kept, stop).await;
        }
    }
}

/// Whether the handshake came to its end, whatever became of the connection afterwards: only then
/// there is keying material to export.
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

/// How long quinn keeps a connection whose handshake has ended with `error`. Where the client's
/// first packet closes it, quinn 0.11 sets no timer for that, and only the idle timeout is left.
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

/// Three probe timeouts at the round trip of 333 ms that is assumed before one is known (RFC 9002,
/// §6.2.2; RFC 9000, §10.2).
const KEPT_AFTER_CLOSE: Duration = Duration::from_secs(3);
