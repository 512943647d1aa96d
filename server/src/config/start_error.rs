//! Why a server can't start, in words for its operator.

use std::io;
use std::path::PathBuf;

use quire_certs::CertsError;
use quire_shared::ErrorChain;
use quire_transport::socket::SocketError;

use crate::auth::authorized_keys::AuthorizedKeysError;
use crate::auth::client_ca::ClientCaError;
use crate::config::resolve::ConfigError;
use crate::files::OpenError;
use crate::quic::tls::TlsError;

/// Why a server can't start; the operator has to mend it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory can't be served.
    #[error(transparent)]
    Root(#[from] OpenError),
    /// A file that decides who gets in could be fetched or replaced by those who are in.
    #[error("{} must not lie in the served directory", .0.display())]
    SecretInRoot(PathBuf),
    /// A file that decides who gets in can't be looked at.
    #[error("{} can't be looked at", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The identity can't be made or loaded.
    #[error(transparent)]
    Identity(#[from] CertsError),
    /// The authorized-keys file can't be used.
    #[error(transparent)]
    AuthorizedKeys(#[from] AuthorizedKeysError),
    /// The authority of the clients' certificates can't be used.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// TLS refuses the identity.
    #[error("the certificate can't be used")]
    Tls(#[source] TlsError),
    /// An address can't be listened on.
    #[error(transparent)]
    Listen(SocketError),
    /// The kernel has Landlock and refuses to set it.
    #[error("Landlock can't be set: start with --no-landlock if that has to be")]
    Landlock(#[from] landlock::RulesetError),
    /// The runtime can't be started.
    #[error("the runtime can't be started")]
    Runtime(#[source] io::Error),
}

impl StartError {
    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        ErrorChain(self).to_string()
    }
}
