//! Power cuts: what a disk may hold when the power fails at any moment.
//!
//! A real file system lies on a disk that logs every write and every flush, and every
//! acknowledgement is written beside the file system, so that it gets its place in the same log.
//! Afterwards the disk is built up as it may have been at any point of the log: all that was
//! written before the last flush, and of what came later any part. Each such disk is mounted, which
//! replays the file system's journal, and compared with what had been acknowledged by then.

mod disk;
mod replay;

pub(crate) use disk::{FileSystem, LoggedDisk, Mounted, SmallDisk};
pub(crate) use replay::Replay;
