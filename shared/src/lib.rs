//! What quire's server and client must agree on.
//!
//! The conversation is in [`protocol`], its bytes in [`codec`], its names in [`path`] and its
//! limits in [`limits`]; `docs/PROTOCOL.md` says the same in words. This crate opens no file and no
//! socket.

pub mod codec;
pub mod digest;
pub mod error_code;
pub mod limits;
mod octets;
pub mod pairing;
pub mod path;
pub mod protocol;
mod side;

pub use error_code::ErrorCode;
pub use path::{Escaped, Name, RemotePath};
pub use side::Side;
