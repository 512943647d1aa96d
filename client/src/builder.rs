//! [`ClientBuilder`]: identity, trust and settings of a connection, with defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quire_certs::{Fingerprint, Identity, Role, StateDir, load_or_create};
use quire_transport::congestion::CongestionControl;

use crate::blocking::blocking;
use crate::client::Client;
use crate::connect::Connector;
use crate::error::ClientError;
use crate::known_servers::ServerId;
use crate::trust::ServerVerifier;

/// Basis on which a server is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// The key that the state directory's file of known servers names. For a server without an
    /// entry: the user's own server key, or a certificate that the platform trusts for that name.
    #[default]
    Known,
    /// A certificate for the server's name that an authority in this PEM file issued.
    Authorities(PathBuf),
    /// Exactly this key.
    Pinned(Fingerprint),
}

/// Settings for connections to one server; see [`Client::builder`].
#[derive(Debug)]
pub struct ClientBuilder {
    server: ServerId,
    state_dir: Option<PathBuf>,
    identity: Option<Arc<Identity>>,
    trust: Trust,
    congestion: CongestionControl,
    timeout: Option<Duration>,
}

impl Client {
    /// Settings for connections to `server`, all of which have defaults.
    ///
    /// ```
    /// # use quire_test_harness::{TestServer, Tree};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let tree = Tree::new();
    /// # let test = TestServer::start(&tree).await;
    /// # let identity = test.keys().reader.clone();
    /// # let address = test.address().to_string();
    /// # let fingerprint = test.fingerprint();
    /// use std::time::Duration;
    /// use quire_client::{Client, Trust};
    ///
    /// let client = Client::builder(address.parse()?)
    ///     .identity(identity)
    ///     .trust(Trust::Pinned(fingerprint))
    ///     .connect_timeout(Duration::from_secs(10))
    ///     .connect()
    ///     .await?;
    /// println!("{} runs {}", client.remote_address(), client.ping().await?.software);
    /// # client.close().await;
    /// # test.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(server: ServerId) -> ClientBuilder {
        ClientBuilder {
            server,
            state_dir: None,
            identity: None,
            trust: Trust::default(),
            congestion: CongestionControl::default(),
            timeout: None,
        }
    }
}

impl ClientBuilder {
    /// The directory with this user's key and the known servers. The default is the platform's
    /// directory for application state.
    #[must_use]
    pub fn state_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(directory.into());
        self
    }

    /// The key and certificate to connect with. By default the one in the state directory, which is
    /// generated at first use.
    #[must_use]
    pub fn identity(mut self, identity: impl Into<Arc<Identity>>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// The basis on which the server is trusted.
    #[must_use]
    pub fn trust(mut self, trust: Trust) -> Self {
        self.trust = trust;
        self
    }

    /// The congestion control for what is sent.
    #[must_use]
    pub fn congestion(mut self, control: CongestionControl) -> Self {
        self.congestion = control;
        self
    }

    /// Time limit for connecting, including the resolution of the name. The default is 5 seconds.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Connects once.
    ///
    /// # Errors
    /// As [`connector`](Self::connector) and [`Connector::connect`].
    pub async fn connect(self) -> Result<Client, ClientError> {
        self.connector().await?.connect().await
    }

    /// A connector for several connections, which resume each other's sessions.
    ///
    /// # Errors
    /// Names the file that can't be used.
    pub async fn connector(self) -> Result<Connector, ClientError> {
        let Self {
            server,
            state_dir,
            identity,
            trust,
            congestion,
            timeout,
        } = self;
        blocking(move || {
            // Opening creates the directory, so it is opened only if it is needed.
            let open = || StateDir::open(state_dir.as_deref());
            let identity = match identity {
                Some(identity) => identity,
                None => Arc::new(load_or_create(&open()?, Role::Client)?),
            };
            let verifier = match trust {
                Trust::Known => ServerVerifier::new(server.clone(), &open()?)?,
                Trust::Authorities(file) => ServerVerifier::with_ca(server.clone(), &file)?,
                Trust::Pinned(key) => ServerVerifier::pinned(server.clone(), key),
            };
            let connector = Connector::new(&server, &identity, verifier, congestion)?;
            Ok(match timeout {
                Some(timeout) => connector.with_timeout(timeout),
                None => connector,
            })
        })
        .await
    }
}
