//! Authentication and authorization: which client is connected, and what it may do.

pub mod access;
pub mod authorized_keys;
pub mod client_ca;
pub(crate) mod gate;
pub mod keyring;
pub mod pairing;
pub mod rules;
