//! Identities of quire's programs: keys, certificates, fingerprints, and the files that hold them.
//!
//! An [`Identity`] is a private key with its certificate; people compare its [`Fingerprint`], and
//! the other side stores it. The [`StateDir`] is the private directory of a program's identity and
//! of the keys that it trusts. [`replace_file`] replaces small files atomically and durably.

mod error;
mod fingerprint;
mod identity;
mod pem;
pub mod replace_file;
mod state_dir;
mod store;

pub use error::CertsError;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use identity::{Identity, local_names};
pub use pem::load_certificates;
pub use replace_file::FileLock;
pub use state_dir::StateDir;
pub use store::{Role, load, load_or_create, replace};
