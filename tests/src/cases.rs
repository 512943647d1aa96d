//! The cases, one file per subject.

mod cache;
mod cut_gets;
mod cut_puts;
mod errors;
mod listing;
mod locks;
mod manage;
mod protocol_document;
mod shutdown;
mod transfer;
mod trust;
mod versions;
mod wire;
