//! server.

pub mod authorized_keys;
pub mod locks;
pub mod tls;
