//! Single files in both directions, whole, cut off, damaged or changed on the way.

mod cache;
mod command_line;
pub(crate) mod cut_gets;
mod cut_puts;
mod cuts_at_random;
mod deltas;
mod existing;
mod files;
mod flipped_bytes;
mod kills_at_random;
mod network_paths;
mod reconnect;
mod resume;
mod resume_puts;
mod sparse;
mod targets;
mod versions;
