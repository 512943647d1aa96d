//! server.

pub mod authorized_keys;
pub mod cache;
pub mod error;
pub mod locks;
pub mod root;
pub mod tls;
