//! Who a client is, and what it may do now.

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

/// Decides who a client is, and what it may do now.
#[derive(Debug)]
pub(crate) struct Gate {
    keyring: Keyring,
    /// Whose certificates give clients names.
    client_ca: ClientCa,
    /// Clients that may come with a code.
    pairing: Pairing,
}

impl Gate {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let keys = config.authorized_keys.clone();
        Ok(Self {
            keyring: Keyring::open(config.access.clone(), keys.clone())?,
            client_ca: config.client_ca.clone(),
            pairing: Pairing::new(config.state_dir.as_ref(), keys.as_ref()),
        })
    }

    /// Rereads the authorized keys whenever they change, for as long as it is polled.
    pub(crate) async fn watch_file(&self) {
        self.keyring.watch_file().await;
    }

    /// Who the other end of `connection` has proved to be.
    pub(crate) fn peer(&self, connection: &Connection) -> Peer {
        self.client_ca.peer(connection)
    }

    /// What `peer` may do now.
    pub(crate) fn access(&self, peer: &Peer) -> Access {
        self.keyring.access(peer)
    }

    /// The same, after a look at the file, and a way to hear of every change from then on.
    pub(crate) async fn follow(
        &self,
        peer: &Peer,
    ) -> (Access, watch::Receiver<Arc<AuthorizedKeys>>) {
        self.keyring.refresh(false).await;
        let changes = self.keyring.subscribe();
        (self.access(peer), changes)
    }

    /// Whether `peer` has rights of its own, and not just those that all have.
    pub(crate) fn knows(&self, peer: &Peer) -> bool {
        self.keyring.knows(peer)
    }

    /// Whether a client without rights may come with a code.
    pub(crate) async fn is_pairing(&self) -> bool {
        self.pairing.is_open().await
    }

    /// Lets the key of `peer` in, if its proof is right. Its rights come with the next look at the
    /// file, which is now.
    ///
    /// # Errors
    /// The refusal, or why the key can't be let in.
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
