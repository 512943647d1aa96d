//! QUIC front end: requests of the protocol `quire/1`, one bidirectional stream each.
//!
//! [`endpoint`] admits connections, `connection` authorizes the client and accepts its streams,
//! `request` reads one request and dispatches it. Each request is decoded, carried out by [`Files`]
//! and answered. A request that needs more than a few lines for that has a file under `requests`.

mod admission;
mod connection;
mod enclosures;
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

/// State that all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Operations on the files.
    pub(crate) files: Files,
    /// Authentication and rights of clients.
    pub(crate) gate: Gate,
    /// Limits on the resources that clients may use.
    pub(crate) limits: Arc<Limits>,
    /// Counters of reached limits.
    pub(crate) metrics: Arc<Metrics>,
    /// Memory for the flow-control windows of all connections.
    pub(crate) windows: WindowBudget,
    /// Rate limit that all transfers share.
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
}
