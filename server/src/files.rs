//! What can be done with files, whoever asks.

pub mod cache;
pub mod digest_cache;
pub mod locks;
pub mod quota;
