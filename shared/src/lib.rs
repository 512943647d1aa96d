//! What quire's server and client must agree on.
//!
//! The conversation is in [`protocol`], its bytes in [`codec`], its names in [`path`] and its
//! limits in [`limits`]; PROTOCOL.md says the same in words. [`stream`] and [`body`] are the one
//! implementation of messages and bodies on a stream that both ends use, [`inbox`] that of many
//! small ones on one stream, [`socket`] that of the UDP socket beneath, [`congestion`] of how fast
//! to send on it, [`traffic`] of what the streams of a connection share. This crate opens no file,
//! and decides nothing about trust.

pub mod body;
pub mod closing;
pub mod codec;
pub mod congestion;
pub mod digest;
pub mod error_code;
pub mod inbox;
pub mod limits;
#[cfg(test)]
mod loopback;
pub mod pace;
pub mod pairing;
pub mod path;
pub mod protocol;
mod reassembly;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod traffic;
pub mod transport;
pub mod verdict;
pub mod windows;

pub use error_code::ErrorCode;
pub use path::{Escaped, Name, RemotePath};
