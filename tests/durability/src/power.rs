//! Power cuts: the states of a disk when the power fails at any moment.
//!
//! A real file system is on a disk that logs every write and every flush. Every acknowledgement is
//! written beside the file system, so that it gets its place in the same log. Afterwards the disk is
//! rebuilt as it may have been at any point of the log: with all writes before the last flush, and any
//! part of the later ones. Each such disk is mounted, which replays the file system's journal, and
//! compared with the acknowledgements up to that point.

mod disk;
mod replay;

pub(crate) use disk::{FileSystem, LoggedDisk, Mounted, SmallDisk};
pub(crate) use replay::Replay;
