//! The server: a directory, served over QUIC.
//!
//! A request's path reads from top to bottom: [`server`] admits connections, `connection` knows
//! the client and its streams, `request` reads one request and finds who carries it out, `requests`
//! has one file for each, and [`root`] alone touches the served directory.

pub mod access;
mod admission;
pub mod args;
pub mod authorized_keys;
pub mod cache;
pub mod client_ca;
pub mod config;
pub mod config_file;
mod connection;
mod counters;
mod digests;
pub mod error;
pub mod faults;
mod handshake;
mod holders;
pub mod keyring;
pub mod limits;
pub mod locks;
pub mod pairing;
mod request;
mod requests;
pub mod root;
pub mod rules;
pub mod sandbox;
pub mod server;
pub mod start_error;
mod state;
pub mod tls;

pub use config::Config;
pub use server::Server;
pub use start_error::StartError;
