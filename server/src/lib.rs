//! File server: serves one directory over QUIC.
//!
//! Front ends decode requests and call operations; operations use the store. A request passes the
//! modules in this order:
//!
//! - [`quic`]: the QUIC front end;
//! - [`auth`]: authentication of clients, and their rights;
//! - [`files`]: every operation, including its rights, quota, locks, cache and change notices;
//! - `files::store`: the served directory, private to `files`.
//!
//! [`Server`] assembles them from a [`Config`].

pub mod auth;
pub mod config;
pub mod files;
mod metrics;
pub mod quic;
mod server;

pub use config::Config;
pub use config::start_error::StartError;
pub use server::{Server, Status};
