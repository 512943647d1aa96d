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

use crate::connect::{CONNECT_TIMEOUT, Outcome, refused};
use crate::error::ClientError;
use crate::known_servers::ServerId;

/// A handshake that is over, or under way while requests are.
#[derive(Debug)]
pub(crate) enum Handshake {
    /// It was waited for.
    Over(Over),
    /// It was not.
    UnderWay {
        ending: Mutex<UnderWay>,
        /// Set by whoever holds the lock.
        over: OnceLock<Over>,
    },
}

/// A handshake that went well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Over {
    pub(crate) took: Duration,
    /// Whether the server took the requests that were sent before.
    pub(crate) early_accepted: bool,
}

/// A handshake that isn't over yet.
pub(crate) struct UnderWay {
    pub(crate) server: ServerId,
    pub(crate) connection: Connection,
    pub(crate) accepted: ZeroRttAccepted,
    pub(crate) begun: Instant,
    /// Where to note that this address answers.
    pub(crate) answered: Answered,
    /// How it failed.
    pub(crate) failed: Option<Outcome>,
}

/// The address of a server that answered last.
pub(crate) type Answered = Arc<std::sync::Mutex<Option<SocketAddr>>>;

impl Handshake {
    pub(crate) fn under_way(ending: UnderWay) -> Self {
        Self::UnderWay {
            ending: Mutex::new(ending),
            over: OnceLock::new(),
        }
    }

    /// How it went, if it is over.
    pub(crate) fn over(&self) -> Option<Over> {
        match self {
            Self::Over(over) => Some(*over),
            Self::UnderWay { over, .. } => over.get().copied(),
        }
    }

    /// Waits until it is over.
    ///
    /// # Errors
    /// [`ClientError::CannotConnect`]
    pub(crate) async fn end(&self) -> Result<Over, ClientError> {
        match self {
            Self::Over(over) => Ok(*over),
            Self::UnderWay { ending, over } => {
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

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderWay")
            .field("connection", &self.connection)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl UnderWay {
    async fn end(&mut self) -> Result<Over, ClientError> {
        let address = self.connection.remote_address();
        if self.failed.is_none() {
            let failed = tokio::select! {
                // What has gone well stays so, however late it is asked.
                biased;
                early_accepted = &mut self.accepted => match self.connection.close_reason() {
                    Some(error) if !early_accepted && !is_servers_decision(&error) => {
                        Outcome::of(error)
                    }
                    _ => {
                        *lock(&self.answered) = Some(address);
                        let took = self.begun.elapsed();
                        return Ok(Over { took, early_accepted });
                    }
                },
                () = refused(address) => Outcome::Refused,
                () = sleep_until(self.begun + CONNECT_TIMEOUT) => Outcome::NoAnswer,
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
