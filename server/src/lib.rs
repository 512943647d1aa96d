//! The server: a directory, served over QUIC.
//!
//! A request's path reads from top to bottom: [`server`] admits connections, `connection` knows
//! the client and its streams, `request` reads one request and finds who carries it out, `requests`
//! has one file for each, and [`root`] alone touches the served directory.

pub mod access;
pub mod args;
pub mod authorized_keys;
pub mod cache;
pub mod config;
mod connection;
mod digests;
pub mod error;
pub mod faults;
pub mod keyring;
pub mod locks;
mod request;
mod requests;
pub mod root;
pub mod rules;
pub mod server;
pub mod start_error;
mod state;
pub mod tls;

pub use config::Config;
pub use server::Server;
pub use start_error::StartError;
