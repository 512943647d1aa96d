//! The cases, one file per subject.

mod cache;
mod command_line;
mod cut_gets;
mod cut_puts;
mod errors;
mod listing;
mod locks;
mod manage;
mod protocol_document;
mod put_trees;
mod rights;
mod shutdown;
mod tidy;
mod transfer;
mod trees;
mod trust;
mod versions;
mod wire;
