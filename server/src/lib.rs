//! The server: a directory, served over QUIC.
//!
//! Front ends decode requests and call operations; operations use the store. In the order in which a
//! request passes them:
//!
//! - [`quic`]: the QUIC front end;
//! - [`auth`]: who a client is, and what it may do;
//! - [`files`]: every operation, with rights, quota, locks, cache and notices of changes inside;
//! - `files::store`: the served directory, private to `files`.
//!
//! [`Server`] puts them together, [`Config`] says how.

pub mod auth;
pub mod config;
pub mod files;
mod metrics;
pub mod quic;
mod server;

pub use config::Config;
pub use config::start_error::StartError;
pub use server::{Server, Status};
