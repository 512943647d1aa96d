//! The cases, one file per subject.

mod adversary;
mod cache;
mod command_line;
mod confinement;
mod corpus;
mod cut_gets;
mod cut_puts;
mod cuts_at_random;
mod disk_full;
#[cfg(feature = "fault-injection")]
mod each_call;
mod early_data;
mod endurance;
mod errors;
mod flood;
mod kills;
mod limits;
mod linearizable;
mod listing;
mod locks;
mod manage;
mod pairing;
mod paths;
mod power_cut;
mod protocol_document;
mod put_trees;
mod rights;
mod shutdown;
mod special;
mod sync_order;
mod tidy;
mod transfer;
mod trees;
mod trust;
mod versions;
mod wire;
