//! How quire uses QUIC.
//!
//! Both ends of a connection drive [`quinn`] in the same way, so the code is here once. The crate
//! carries the messages of `quire-shared` and the bytes of files. It opens no file that a user or a peer
//! names, and decides nothing about trust.
//!
//! | module | contents |
//! |---|---|
//! | [`stream`] | the two halves of a request's stream: messages, bytes, priorities |
//! | [`body`] | the bytes of a file between a stream and a blocking reader or writer |
//! | [`details`] | extended attributes and owners of open files |
//! | [`flow`] | flow-control windows, stall timers, rate limits and probes of a connection |
//! | [`congestion`] | the congestion controller |
//! | [`socket`] | the UDP socket: buffers, segmentation offload, MTU, anti-amplification |
//! | [`config`], [`tls`] | the settings of every connection |
//! | [`close`], [`error_code`] | how a connection or a stream ends |
//! | [`pairing`] | proofs of a pairing code, bound to a connection |
//! | [`bottleneck`] | what limited a transfer |
//!
//! A request goes through these layers as follows: [`stream::Sender`] encodes its message, waits
//! for room in the send window of [`flow::ConnectionFlow`], and writes to quinn. quinn packs it
//! into datagrams as fast as [`congestion`] allows, and [`socket`] gives these to the kernel in few
//! calls.

pub mod body;
pub mod bottleneck;
pub mod close;
pub mod config;
pub mod congestion;
mod controller;
pub mod details;
pub mod error_code;
pub mod flow;
#[cfg(test)]
mod loopback;
pub mod pairing;
pub mod socket;
pub mod stream;
pub mod tls;
