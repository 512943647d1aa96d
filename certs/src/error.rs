//! Errors of identities and of the state directory.
//!
//! Every message is one line that names the file to fix. Paths are escaped, so that a file name can't
//! send control characters to a terminal.

use std::{io, path::PathBuf};

use rustls::pki_types::pem;
use thiserror::Error;

/// Why an identity could not be generated, stored or loaded.
#[derive(Debug, Error)]
pub enum CertsError {
    /// The platform names no home directory to derive the state directory from.
    #[error("no home directory to keep keys in: set --state-dir")]
    NoStateDir,
    /// The system refused an operation on a file.
    #[error("{path:?}: cannot {action}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The failed operation, as a verb.
        action: &'static str,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The path of the state directory is not a directory.
    #[error("{path:?} is not a directory")]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// A private file or directory belongs to another user.
    #[error("{path:?} belongs to user {owner}, not to user {expected} who runs this program")]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// The numeric ID of its owner.
        owner: u32,
        /// The numeric ID of the user who runs the program.
        expected: u32,
    },
    /// A private file or directory is open to others.
    #[error("{path:?} has mode {mode:04o}, open to other users: set it with chmod {wanted:o}")]
    LooseMode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The most permissive mode that is accepted.
        wanted: u32,
    },
    /// A file prevents the creation of a new one and yet can't be opened.
    #[error("{path:?} exists but can't be opened: it may be a dangling link")]
    Vanished {
        /// The file.
        path: PathBuf,
    },
    /// A file is far larger than any key or certificate chain.
    #[error("{path:?} is over {limit} bytes, too large for keys and certificates")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is not well-formed PEM.
    #[error("{path:?} is not valid PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The error of the PEM parser.
        #[source]
        source: pem::Error,
    },
    /// A file that should hold a certificate holds none.
    #[error("{path:?} holds no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file that should hold a private key holds none that can be read.
    #[error("{path:?} holds no unencrypted private key")]
    NoPrivateKey {
        /// The file.
        path: PathBuf,
    },
    /// A file has more than one private key, so the right one is ambiguous.
    #[error("{path:?} holds more than one private key")]
    SeveralPrivateKeys {
        /// The file.
        path: PathBuf,
    },
    /// The first certificate of a file does not parse.
    #[error("{path:?}: the first certificate is malformed")]
    MalformedCertificate {
        /// The file.
        path: PathBuf,
        /// The error of the parser.
        #[source]
        source: rustls::Error,
    },
    /// A private key is malformed or of a kind that TLS 1.3 does not use.
    #[error("{path:?}: the private key is malformed or of an unsupported kind")]
    UnusablePrivateKey {
        /// The file.
        path: PathBuf,
        /// The error of the crypto provider.
        #[source]
        source: rustls::Error,
    },
    /// The private key is not the one in the certificate.
    #[error("the key in {key:?} does not match the first certificate in {certificate:?}")]
    KeyMismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// A certificate that a peer or a caller gave does not parse.
    #[error("malformed certificate")]
    NotACertificate(#[source] rustls::Error),
    /// A key or certificate could not be generated.
    #[error("cannot make a certificate")]
    Generate(#[source] rcgen::Error),
}
