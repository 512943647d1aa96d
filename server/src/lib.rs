//! server.

pub mod authorized_keys;
pub mod tls;
