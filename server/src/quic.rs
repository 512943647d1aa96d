//! The QUIC front end.

pub(crate) mod admission;
pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod request;
pub(crate) mod requests;
pub mod tls;
