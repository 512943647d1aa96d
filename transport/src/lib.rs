//! How QUIC is driven.
//!
//! [`stream`] and [`body`] are the one implementation of messages and bodies on a stream that both
//! ends use, [`stream::message_buffer`] that of many small ones on one stream, [`socket`] that of
//! the UDP socket beneath, [`congestion`] of how fast to send on it, [`flow`] of what the streams
//! of a connection share. This crate opens no file, and decides nothing about trust.

pub mod body;
pub mod bottleneck;
pub mod close;
pub mod config;
pub mod congestion;
pub mod error_code;
pub mod flow;
#[cfg(test)]
mod loopback;
pub mod pairing;
pub mod socket;
pub mod stream;
pub mod tls;
