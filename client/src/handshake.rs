//! The end of a connection's handshake, for which the first requests needn't wait.
//!
//! Who comes back resumes a session, and may send requests with the first packets (early data,
//! RFC 9001 §4.6), which a server may decline. Requests that change something wait here instead:
//! somebody who recorded the packets could send them again.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use quinn::{Connection, ConnectionError, ZeroRttAccepted};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::connect::{AttemptError, CONNECT_TIMEOUT, refused};
use crate::error::ClientError;
use crate::known_servers::ServerId;

/// A handshake that is over, or under way while requests are.
#[derive(Debug)]
pub(crate) enum HandshakeState {
    /// It was waited for.
    Complete(HandshakeDone),
    /// It was not.
    InProgress {
        ending: Mutex<PendingHandshake>,
        /// Set by whoever holds the lock.
        over: OnceLock<HandshakeDone>,
    },
}

/// A handshake that went well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HandshakeDone {
    pub(crate) took: Duration,
    /// Whether the server took the requests that were sent before.
    pub(crate) early_accepted: bool,
}

/// A handshake that isn't over yet.
pub(crate) struct PendingHandshake {
    pub(crate) server: ServerId,
    pub(crate) connection: Connection,
    pub(crate) accepted: ZeroRttAccepted,
    pub(crate) begun: Instant,
    /// Where to note that this address answers.
    pub(crate) answered: Answered,
    /// How it failed.
    pub(crate) failed: Option<AttemptError>,
}

/// The address of a server that answered last.
pub(crate) type Answered = Arc<std::sync::Mutex<Option<SocketAddr>>>;

impl HandshakeState {
    pub(crate) fn in_progress(ending: PendingHandshake) -> Self {
        Self::InProgress {
            ending: Mutex::new(ending),
            over: OnceLock::new(),
        }
    }

    /// How it went, if it is over.
    pub(crate) fn over(&self) -> Option<HandshakeDone> {
        match self {
            Self::Complete(over) => Some(*over),
            Self::InProgress { over, .. } => over.get().copied(),
        }
    }

    /// Waits until it is over.
    ///
    /// # Errors
    /// [`ClientError::CannotConnect`]
    pub(crate) async fn end(&self) -> Result<HandshakeDone, ClientError> {
        match self {
            Self::Complete(over) => Ok(*over),
            Self::InProgress { ending, over } => {
                if let Some(over) = over.get() {
                    return Ok(*over);
                }
                let mut ending = ending.lock().await;
                if let Some(over) = over.get() {
                    return Ok(*over);
                }
                let end = ending.end().await?;
                Ok(*over.get_or_init(|| end))
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
    async fn end(&mut self) -> Result<HandshakeDone, ClientError> {
        let address = self.connection.remote_address();
        if self.failed.is_none() {
            let failed = tokio::select! {
                // What has gone well stays so, however late it is asked.
                biased;
                early_accepted = &mut self.accepted => match self.connection.close_reason() {
                    Some(error) if !early_accepted && !is_servers_decision(&error) => {
                        AttemptError::of(error)
                    }
                    _ => {
                        *lock(&self.answered) = Some(address);
                        let took = self.begun.elapsed();
                        return Ok(HandshakeDone { took, early_accepted });
                    }
                },
                () = refused(address) => AttemptError::Refused,
                () = sleep_until(self.begun + CONNECT_TIMEOUT) => AttemptError::NoAnswer,
            };
            // Nothing that comes later may make it a connection after all.
            self.connection.close(0_u8.into(), b"");
            self.failed = Some(failed);
        }
        Err(ClientError::CannotConnect {
            server: self.server.clone(),
            tried: self
                .failed
                .iter()
                .map(|failed| (address, failed.clone()))
                .collect(),
        })
    }
}

/// Whether a connection ended because the server let it end: the next request will say so.
fn is_servers_decision(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(_))
}

/// What `answered` guards.
pub(crate) fn lock(answered: &Answered) -> MutexGuard<'_, Option<SocketAddr>> {
    answered.lock().unwrap_or_else(PoisonError::into_inner)
}
