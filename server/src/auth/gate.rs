//! Authentication and authorization of clients.

use std::sync::Arc;

use quinn::Connection;
use quire_shared::pairing::{Pair, Paired};
use tokio::sync::watch;

use super::access::Access;
use super::authorized_keys::{AuthorizedKeys, Peer};
use super::client_ca::ClientCa;
use super::keyring::Keyring;
use super::pairing::{Pairing, PairingError};
use crate::config::Config;
use crate::config::start_error::StartError;

/// Identifies clients and looks up their current rights.
#[derive(Debug)]
pub(crate) struct Gate {
    keyring: Keyring,
    /// CA whose certificates give names to clients.
    client_ca: ClientCa,
    /// Enrolment of clients that have a pairing code.
    pairing: Pairing,
}

impl Gate {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// If one of them can't be read or is invalid.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let keys = config.authorized_keys.clone();
        Ok(Self {
            keyring: Keyring::open(config.access.clone(), keys.clone())?,
            client_ca: config.client_ca.clone(),
            pairing: Pairing::new(config.state_dir.as_ref(), keys.as_ref()),
        })
    }

    /// Rereads the authorized keys each time they change. Never completes.
    pub(crate) async fn watch_file(&self) {
        self.keyring.watch_file().await;
    }

    /// Identity that the client of `connection` has proved.
    pub(crate) fn peer(&self, connection: &Connection) -> Peer {
        self.client_ca.peer(connection)
    }

    /// Current rights of `peer`.
    pub(crate) fn access(&self, peer: &Peer) -> Access {
        self.keyring.access(peer)
    }

    /// Rereads the file, then returns the rights of `peer` and a receiver of later changes.
    pub(crate) async fn follow(
        &self,
        peer: &Peer,
    ) -> (Access, watch::Receiver<Arc<AuthorizedKeys>>) {
        self.keyring.refresh(false).await;
        let changes = self.keyring.subscribe();
        (self.access(peer), changes)
    }

    /// Whether `peer` has rights of its own, and not only those that all clients have.
    pub(crate) fn knows(&self, peer: &Peer) -> bool {
        self.keyring.knows(peer)
    }

    /// Whether a pairing code is open now.
    pub(crate) async fn is_pairing(&self) -> bool {
        self.pairing.is_open().await
    }

    /// Authorizes the key of `peer` if its proof of the code is valid. Rereads the file afterwards,
    /// so the client has its rights at once.
    ///
    /// # Errors
    /// If pairing is refused, or the key can't be added.
    pub(crate) async fn pair(
        &self,
        pair: Pair,
        peer: &Peer,
        connection: &Connection,
    ) -> Result<Paired, PairingError> {
        let key = peer.key.ok_or(PairingError::NotAuthorized)?;
        let paired = self.pairing.accept(pair, key, connection).await?;
        self.keyring.refresh(false).await;
        Ok(paired)
    }
}
