//! Errors at the start of a server, with messages for its operator.

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

/// Why a server can't start; the operator has to fix it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The directory can't be served.
    #[error(transparent)]
    Root(#[from] OpenError),
    /// A file with keys or rights lies where clients could read or replace it.
    #[error("{} must not lie in the served directory", .0.display())]
    SecretInRoot(PathBuf),
    /// A file with keys or rights can't be examined.
    #[error("{}: cannot examine it", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The identity can't be made or loaded.
    #[error(transparent)]
    Identity(#[from] CertsError),
    /// The authorized-keys file can't be used.
    #[error(transparent)]
    AuthorizedKeys(#[from] AuthorizedKeysError),
    /// The client CA can't be used.
    #[error(transparent)]
    ClientCa(#[from] ClientCaError),
    /// TLS refuses the identity.
    #[error("cannot use the certificate")]
    Tls(#[source] TlsError),
    /// An address can't be listened on.
    #[error(transparent)]
    Listen(SocketError),
    /// The kernel has Landlock and refuses to set it.
    #[error("cannot set up the Landlock sandbox; --no-landlock disables it")]
    Landlock(#[from] landlock::RulesetError),
    /// The runtime can't be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// Standard output can't be written to.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl StartError {
    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        ErrorChain(self).to_string()
    }
}
