//! Identities: what a quire program is known by.
//!
//! An [`Identity`] is a private key with a certificate that names it; its [`Fingerprint`] is what
//! people compare and what both ends remember. The [`StateDir`] is the private directory in which
//! a program keeps its identity and what it has learned about others.

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
