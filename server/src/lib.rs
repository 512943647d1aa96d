//! The server: a directory, served over QUIC.
//!
//! A request's path reads from top to bottom: [`server`] admits connections, `quic::connection`
//! knows the client and its streams, `quic::request` reads one request and finds who carries it
//! out, `quic::requests` has one file for each, and [`store`] alone touches the served directory.

pub mod auth;
pub mod config;
pub mod error;
pub mod files;
mod metrics;
pub mod quic;
pub mod server;
mod state;
pub mod store;

pub use config::Config;
pub use config::start_error::StartError;
pub use server::Server;
