//! State of a connection's handshake, with 0-RTT resumption (RFC 9001, §4.6).
//!
//! A client that reconnects resumes a TLS session and may send requests with its first packets, which
//! the server may reject. An attacker can replay those packets. So requests that change something
//! wait here until the handshake is complete.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use quinn::{Connection, ConnectionError, ZeroRttAccepted};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::attempt::{AttemptError, refused};
use crate::error::ClientError;
use crate::known_servers::ServerId;

/// Progress of a connection's handshake.
#[derive(Debug)]
pub(crate) enum HandshakeState {
    /// It was complete before the connection was used.
    Complete(HandshakeDone),
    /// Requests may be sent before it is complete.
    InProgress {
        pending: Mutex<PendingHandshake>,
        /// Set while `pending` is locked.
        done: OnceLock<HandshakeDone>,
    },
}

/// A handshake that succeeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeDone {
    pub(crate) took: Duration,
    /// Whether the server accepted the requests that were sent as 0-RTT data.
    pub(crate) early_accepted: bool,
}

/// A handshake that isn't complete yet.
pub(crate) struct PendingHandshake {
    pub(crate) server: ServerId,
    pub(crate) connection: Connection,
    pub(crate) accepted: ZeroRttAccepted,
    pub(crate) begun: Instant,
    pub(crate) timeout: Duration,
    /// Gets the address once the server has answered.
    pub(crate) last_address: LastAddress,
    /// Set once it has failed.
    pub(crate) failed: Option<AttemptError>,
}

/// The address of a server that answered last.
pub(crate) type LastAddress = Arc<std::sync::Mutex<Option<SocketAddr>>>;

impl HandshakeState {
    pub(crate) fn in_progress(pending: PendingHandshake) -> Self {
        Self::InProgress {
            pending: Mutex::new(pending),
            done: OnceLock::new(),
        }
    }

    /// The result, if it is complete.
    pub(crate) fn completed(&self) -> Option<HandshakeDone> {
        match self {
            Self::Complete(done) => Some(*done),
            Self::InProgress { done, .. } => done.get().copied(),
        }
    }

    /// Waits until it is complete.
    ///
    /// # Errors
    /// [`ClientError::CannotConnect`]
    pub(crate) async fn complete(&self) -> Result<HandshakeDone, ClientError> {
        match self {
            Self::Complete(done) => Ok(*done),
            Self::InProgress { pending, done } => {
                if let Some(done) = done.get() {
                    return Ok(*done);
                }
                let mut pending = pending.lock().await;
                if let Some(done) = done.get() {
                    return Ok(*done);
                }
                let completed = pending.complete().await?;
                Ok(*done.get_or_init(|| completed))
            }
        }
    }
}

impl fmt::Debug for PendingHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingHandshake")
            .field("connection", &self.connection)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl PendingHandshake {
    async fn complete(&mut self) -> Result<HandshakeDone, ClientError> {
        let address = self.connection.remote_address();
        if self.failed.is_none() {
            let failed = tokio::select! {
                // A handshake that has succeeded is never reported as timed out.
                biased;
                early_accepted = &mut self.accepted => match self.connection.close_reason() {
                    Some(error) if !early_accepted && !is_servers_decision(&error) => error.into(),
                    _ => {
                        *lock(&self.last_address) = Some(address);
                        let took = self.begun.elapsed();
                        return Ok(HandshakeDone { took, early_accepted });
                    }
                },
                () = refused(address) => AttemptError::Refused,
                () = sleep_until(self.begun + self.timeout) => AttemptError::NoAnswer,
            };
            // Without this, a late packet could still establish the connection.
            self.connection.close(0_u8.into(), b"");
            self.failed = Some(failed);
        }
        let failed = self.failed.iter().cloned();
        Err(ClientError::CannotConnect {
            server: self.server.clone(),
            attempts: failed.map(|failed| (address, failed)).collect(),
        })
    }
}

/// Whether the server closed the connection. The next request then reports the server's reason.
fn is_servers_decision(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(_))
}

/// Locks `last_address`; a panic elsewhere leaves the address valid.
pub(crate) fn lock(last_address: &LastAddress) -> MutexGuard<'_, Option<SocketAddr>> {
    last_address.lock().unwrap_or_else(PoisonError::into_inner)
}
