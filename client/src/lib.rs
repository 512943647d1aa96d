//! client.

pub mod known_servers;
pub mod tls;
pub mod trust;
