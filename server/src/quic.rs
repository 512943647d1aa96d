//! The QUIC front end: requests of the protocol `quire/1`, one bidirectional stream each.
//!
//! [`endpoint`] admits connections, `connection` knows the client and accepts its streams,
//! `request` reads one request and dispatches it; each is decoded, carried out by
//! [`Files`] and answered. What takes more than one line for that is in the
//! file of its name under `requests`.

mod admission;
mod connection;
pub(crate) mod endpoint;
mod error;
mod handshake;
mod reply;
mod request;
mod requests;
mod session;
pub mod tls;

use std::sync::Arc;

use quire_transport::flow::stream_limits::RateLimiter;
use quire_transport::flow::windows::WindowBudget;

use crate::auth::gate::Gate;
use crate::config::limits::Limits;
use crate::files::Files;
use crate::metrics::Metrics;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The operations.
    pub(crate) files: Files,
    /// Who may do what.
    pub(crate) gate: Gate,
    /// What clients may take of the server.
    pub(crate) limits: Arc<Limits>,
    /// How often each limit was met.
    pub(crate) metrics: Arc<Metrics>,
    /// Memory for the windows of all connections.
    pub(crate) windows: WindowBudget,
    /// What all transfers share.
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
}
