//! Session of one run of the program: its options, its output, and a connection to each server.
//!
//! The session asks the user about a server whose key is unknown. That handshake has failed by then,
//! so it is repeated, pinned to exactly the key that the user has seen.

use std::collections::HashMap;
use std::io::{self, BufRead, IsTerminal};
use std::sync::Arc;

use quire_certs::{Role, load_or_create};
use quire_client::known_servers::KnownServers;
use quire_client::trust::Refusal;
use quire_client::{
    Client, ClientBuilder, ClientError, Connector, Fingerprint, Identity, PairingCode, ServerId,
    StateDir, Trust,
};
use tokio::sync::Mutex;

use crate::config::Config;
use crate::output::Output;

/// One run of the program. Commands share its connections.
#[derive(Debug)]
pub struct CliSession {
    /// The user's settings.
    pub(crate) config: Config,
    /// The output of the program.
    pub output: Arc<Output>,
    links: Arc<Mutex<HashMap<ServerId, ServerLink>>>,
}

/// The connection to a server, and the connector to repeat it.
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

    /// The connection to `server`, opened now unless it is open.
    ///
    /// # Errors
    /// Why connecting failed, or why the server isn't trusted.
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

    /// This session with other settings, for one command; the connections are shared.
    pub(crate) fn with(&self, config: Config) -> Self {
        let links = Arc::clone(&self.links);
        Self {
            links,
            ..Self::new(config)
        }
    }

    /// The connection to `server` if it is open.
    pub(crate) async fn open_client(&self, server: &ServerId) -> Option<Client> {
        let links = self.links.lock().await;
        let client = &links.get(server)?.client;
        client.is_alive().then(|| client.clone())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        let links = std::mem::take(&mut *self.links.lock().await);
        for link in links.into_values() {
            link.client.close().await;
        }
    }

    /// This client's identity, generated now unless it exists.
    ///
    /// # Errors
    /// Names the file that can't be used.
    pub(crate) async fn identity(&self) -> Result<Arc<Identity>, ClientError> {
        let file = self.config.identity.clone();
        let state_dir = self.config.state_dir.clone();
        let identity = blocking(move || match file {
            Some(file) => Identity::from_pem_file(&file),
            None => load_or_create(&StateDir::open(state_dir.as_deref())?, Role::Client),
        });
        Ok(Arc::new(identity.await?))
    }

    /// Registers this client with `server` by a pairing code. The server proves knowledge of the code
    /// as well, and its key is trusted from then on.
    ///
    /// # Errors
    /// If the code isn't accepted, or the server can't be reached.
    pub(crate) async fn pair(
        &self,
        server: &ServerId,
        code: &PairingCode,
    ) -> Result<(), ClientError> {
        let builder = self.builder(server, self.identity().await?);
        let (client, unknown) = match builder.connect().await {
            Ok(client) => (client, None),
            Err(ClientError::NotTrusted(refusal)) => match *refusal {
                Refusal::Unknown { seen, .. } => {
                    let builder = self.builder(server, self.identity().await?);
                    let pinned = builder.trust(Trust::Pinned(seen));
                    (pinned.connect().await?, Some(seen))
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
        let builder = self.builder(server, Arc::clone(&identity));
        let connector = builder.connector().await?;
        let refusal = match connector.connect().await {
            Err(ClientError::NotTrusted(refusal)) => refusal,
            Ok(client) => return Ok(ServerLink { connector, client }),
            Err(error) => return Err(error),
        };
        let seen = match &*refusal {
            Refusal::Unknown { seen, .. } if self.is_accepted(server, *seen).await => *seen,
            _ => return Err(ClientError::NotTrusted(refusal)),
        };
        let builder = self.builder(server, identity);
        let connector = builder.trust(Trust::Pinned(seen)).connector().await?;
        let client = connector.connect().await?;
        self.remember(server, seen).await?;
        Ok(ServerLink { connector, client })
    }

    fn builder(&self, server: &ServerId, identity: Arc<Identity>) -> ClientBuilder {
        let builder = Client::builder(server.clone())
            .identity(identity)
            .congestion(self.config.congestion)
            .trust(match &self.config.ca {
                Some(file) => Trust::Authorities(file.clone()),
                None => Trust::Known,
            });
        match &self.config.state_dir {
            Some(directory) => builder.state_dir(directory),
            None => builder,
        }
    }

    /// Whether the user accepts this key, by a flag or when asked.
    async fn is_accepted(&self, server: &ServerId, seen: Fingerprint) -> bool {
        if self.config.trust_on_first_use {
            return true;
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return false;
        }
        self.output.message(&format!(
            "The server {server} is not known yet. Its key has the fingerprint\n    {seen}\n\
             Compare it with the one that the server printed at its start. Trust it from now on? \
             [y/N]"
        ));
        blocking(|| {
            let mut answer = String::new();
            // A failed read leaves the answer empty, which means no.
            let _ = io::stdin().lock().read_line(&mut answer);
            let answer = answer.trim().to_ascii_lowercase();
            answer == "y" || answer == "yes"
        })
        .await
    }

    async fn remember(&self, server: &ServerId, seen: Fingerprint) -> Result<(), ClientError> {
        let known = server.clone();
        let state_dir = self.config.state_dir.clone();
        blocking(move || -> Result<(), ClientError> {
            let dir = StateDir::open(state_dir.as_deref())?;
            Ok(KnownServers::new(dir).add(&known, seen)?)
        })
        .await?;
        self.output.note(&format!(
            "{server} is now a known server, with the key {seen}"
        ));
        Ok(())
    }
}

/// Runs `work`, which may block, off the asynchronous threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
