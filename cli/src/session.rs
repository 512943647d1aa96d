//! One run of the program: its settings, its output, and a connection to each server it talks to.
//!
//! Here the user is asked about a server that nothing vouches for: the handshake has failed by
//! then, and is done again, pinned to the key that was shown.

use std::collections::HashMap;
use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use quire_certs::{Fingerprint, Identity, Role, StateDir, load_or_create};
use quire_shared::pairing::PairingCode;
use tokio::sync::Mutex;

use crate::config::Config;
use crate::output::Output;
use quire_client::blocking::blocking;
use quire_client::client::Client;
use quire_client::connect::Connector;
use quire_client::error::ClientError;
use quire_client::known_servers::{KnownServers, ServerId};
use quire_client::trust::{Refusal, ServerVerifier};

/// One run of the program. Commands share its connections.
#[derive(Debug)]
pub struct CliSession {
    /// What the user chose.
    pub config: Config,
    /// Where everything is printed.
    pub output: Arc<Output>,
    links: Arc<Mutex<HashMap<ServerId, ServerLink>>>,
}

/// The connection to a server, and what it takes to make it again.
#[derive(Debug)]
struct ServerLink {
    connector: Connector,
    client: Client,
}

impl CliSession {
    /// A session without connections yet.
    pub fn new(config: Config) -> Self {
        Self {
            output: Arc::new(Output::new(config.json, config.quiet)),
            config,
            links: Arc::default(),
        }
    }

    /// The connection to `server`, made now unless it stands already.
    ///
    /// # Errors
    /// Why there is none, or no trust in what answers.
    pub async fn client(&self, server: &ServerId) -> Result<Client, ClientError> {
        let mut links = self.links.lock().await;
        let link = match links.remove(server) {
            Some(link) if link.client.is_alive() => link,
            Some(ServerLink { connector, .. }) => ServerLink {
                client: connector.connect().await?,
                connector,
            },
            None => self.connect(server).await?,
        };
        let client = link.client.clone();
        links.insert(server.clone(), link);
        Ok(client)
    }

    /// This session with other choices, for one command; the connections are shared.
    pub(crate) fn with(&self, config: Config) -> Self {
        let links = Arc::clone(&self.links);
        Self {
            links,
            ..Self::new(config)
        }
    }

    /// The connection to `server` if it stands, for what isn't worth connecting for.
    pub(crate) async fn standing_client(&self, server: &ServerId) -> Option<Client> {
        let links = self.links.lock().await;
        let client = &links.get(server)?.client;
        client.is_alive().then(|| client.clone())
    }

    /// Ends all connections well.
    pub async fn close(&self) {
        let links = std::mem::take(&mut *self.links.lock().await);
        for link in links.into_values() {
            link.client.close().await;
        }
    }

    /// This client's own identity, made now unless it exists.
    ///
    /// # Errors
    /// Names the file that can't be used.
    pub async fn identity(&self) -> Result<Identity, ClientError> {
        let (file, state_dir) = (self.config.identity.clone(), self.config.state_dir.clone());
        blocking(move || match file {
            Some(file) => Ok(Identity::from_pem_file(&file)?),
            None => {
                let dir = StateDir::open(state_dir.as_deref())?;
                Ok(load_or_create(&dir, Role::Client)?)
            }
        })
        .await
    }

    /// Has `server` let this client in with a code, and trusts its key from now on, which the
    /// server proves by the same code.
    ///
    /// # Errors
    /// If the code is no good, or the server can't be reached.
    pub async fn pair(&self, server: &ServerId, code: &PairingCode) -> Result<(), ClientError> {
        let identity = self.identity().await?;
        let verifier = self.verifier(server).await?;
        let (client, unknown) = match Client::connect(server, &identity, verifier).await {
            Ok(client) => (client, None),
            Err(ClientError::NotTrusted(refusal)) => match *refusal {
                Refusal::Unknown { seen, .. } => {
                    let pinned = ServerVerifier::pinned(server.clone(), seen);
                    (
                        Client::connect(server, &identity, pinned).await?,
                        Some(seen),
                    )
                }
                refusal => return Err(ClientError::NotTrusted(Box::new(refusal))),
            },
            Err(error) => return Err(error),
        };
        let paired = client.pair(code).await;
        client.close().await;
        paired?;
        match unknown {
            Some(seen) => self.remember(server, seen).await,
            None => Ok(()),
        }
    }

    async fn connect(&self, server: &ServerId) -> Result<ServerLink, ClientError> {
        let identity = self.identity().await?;
        let verifier = self.verifier(server).await?;
        let congestion = self.config.congestion;
        let connector = Connector::new(server, &identity, verifier, congestion)?;
        let refusal = match connector.connect().await {
            Err(ClientError::NotTrusted(refusal)) => refusal,
            Ok(client) => return Ok(ServerLink { connector, client }),
            Err(error) => return Err(error),
        };
        let seen = match &*refusal {
            Refusal::Unknown { seen, .. } if self.is_accepted(server, *seen).await => *seen,
            _ => return Err(ClientError::NotTrusted(refusal)),
        };
        let pinned = ServerVerifier::pinned(server.clone(), seen);
        let connector = Connector::new(server, &identity, pinned, congestion)?;
        let client = connector.connect().await?;
        self.remember(server, seen).await?;
        Ok(ServerLink { connector, client })
    }

    async fn verifier(&self, server: &ServerId) -> Result<ServerVerifier, ClientError> {
        let (ca, state_dir) = (self.config.ca.clone(), self.config.state_dir.clone());
        let server = server.clone();
        blocking(move || match ca {
            Some(ca) => Ok(ServerVerifier::with_ca(server, &ca)?),
            None => {
                let dir = StateDir::open(state_dir.as_deref())?;
                Ok(ServerVerifier::new(server, &dir)?)
            }
        })
        .await
    }

    /// Whether the user trusts this key, said beforehand or now.
    async fn is_accepted(&self, server: &ServerId, seen: Fingerprint) -> bool {
        if self.config.trust_on_first_use {
            return true;
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return false;
        }
        self.output.message(&format!(
            "The server at {server} is not known yet. The fingerprint of its key is\n    {seen}\n\
             Compare it with what the server showed at its start. Trust it from now on? [y/N]"
        ));
        blocking(|| {
            let mut answer = String::new();
            // Without an answer there is no consent.
            let _ = io::stdin().lock().read_line(&mut answer);
            let answer = answer.trim().to_ascii_lowercase();
            Ok(answer == "y" || answer == "yes")
        })
        .await
        .unwrap_or(false)
    }

    async fn remember(&self, server: &ServerId, seen: Fingerprint) -> Result<(), ClientError> {
        let (known, state_dir) = (server.clone(), self.config.state_dir.clone());
        blocking(move || {
            let dir = StateDir::open(state_dir.as_deref())?;
            Ok(KnownServers::new(dir).add(&known, seen)?)
        })
        .await?;
        self.output.note(&format!(
            "{server} is a known server now, by its key {seen}"
        ));
        Ok(())
    }
}
