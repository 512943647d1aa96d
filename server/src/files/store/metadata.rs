//! What the disk says of a file: kind, identity, size and times, and the version made of them.
//!
//! A version is identity, size, modification and change time together. None of them alone is
//! enough: inode numbers are used again at once, and clocks of file systems tick coarsely.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use quire_shared::limits::VERSION_BYTES_MAX;
use quire_shared::protocol::{Attributes, EntryKind, Time, Version};
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Error;

/// What tells one file from all others while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What the disk says of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
    pub(super) kind: EntryKind,
    /// Whether another file system begins here. [`Metadata::of`] can't tell.
    pub(super) is_foreign: bool,
    pub(super) id: FileId,
    pub(super) owner: u32,
    pub(super) size: u64,
    pub(super) modified: Time,
    /// When content, name or attributes last changed.
    pub(super) changed: Time,
    pub(super) mode: u32,
}

impl Metadata {
    /// The facts of an open file.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Self::new(&found))
    }

    /// The facts of `name` in `directory`, if there is one; a symbolic link's are its own.
    /// `root_device` is the device of the served root.
    pub(super) fn at(
        directory: impl AsFd,
        name: impl Arg,
        root_device: u64,
    ) -> Result<Option<Self>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let found = match statx(directory, name, flags, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        let mut metadata = Self::new(&found);
        // The device tells a subvolume, the attribute a mount of the same device. Files aren't
        // asked for their device: a file system made of layers gives them those of the layers.
        metadata.is_foreign = found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            || metadata.kind == EntryKind::Directory && metadata.id.device != root_device;
        Ok(Some(metadata))
    }

    fn new(found: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(found.stx_mode.into()) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            _ => EntryKind::Other,
        };
        let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
        Self {
            kind,
            is_foreign: false,
            id: FileId {
                device,
                inode: found.stx_ino,
            },
            owner: found.stx_uid,
            size: found.stx_size,
            modified: time(found.stx_mtime),
            changed: time(found.stx_ctime),
            mode: u32::from(found.stx_mode) & MODE_MASK,
        }
    }

    /// The version of a file in this state.
    #[expect(clippy::expect_used, reason = "the length is const-checked below")]
    pub(super) fn version(&self) -> Version {
        let mut token = [0; VERSION_BYTES];
        let fields = [
            &self.id.device.to_be_bytes()[..],
            &self.id.inode.to_be_bytes(),
            &self.size.to_be_bytes(),
            &self.modified.seconds.to_be_bytes(),
            &self.changed.seconds.to_be_bytes(),
            &self.modified.nanoseconds.to_be_bytes(),
            &self.changed.nanoseconds.to_be_bytes(),
        ];
        for (byte, field) in token.iter_mut().zip(fields.into_iter().flatten()) {
            *byte = *field;
        }
        Version::new(&token).expect("a token within its limit")
    }

    /// What a client hears of a file in this state.
    pub(super) fn attributes(&self) -> Attributes {
        let kind = if self.is_foreign {
            EntryKind::Other
        } else {
            self.kind
        };
        Attributes {
            kind,
            size: if kind == EntryKind::File {
                self.size
            } else {
                0
            },
            modified: self.modified,
            mode: self.mode,
            version: self.version(),
        }
    }
}

impl Metadata {
    /// Checks that this is a regular file of the root's own file system.
    pub(super) fn require_file(&self) -> Result<(), Error> {
        match self.kind {
            _ if self.is_foreign => Err(Error::OtherFileSystem),
            EntryKind::File => Ok(()),
            EntryKind::Directory => Err(Error::IsDirectory),
            EntryKind::Symlink | EntryKind::Other => Err(Error::SpecialFile),
        }
    }
}

/// Whether the file of `version` has been left alone long enough that a further change will show
/// in its times. Content that is younger must not be kept for later under this version.
pub(crate) fn is_quiet(version: &Version) -> bool {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    was_quiet(version, now)
}

/// [`is_quiet`] at `now`, counted from 1970. A time in the future makes a file not quiet.
fn was_quiet(version: &Version, now: Duration) -> bool {
    let bytes = version.as_bytes();
    let is_past = |seconds: usize, nanoseconds: usize| {
        let seconds = bytes.get(seconds..).and_then(|rest| rest.first_chunk());
        let nanoseconds = bytes.get(nanoseconds..).and_then(|rest| rest.first_chunk());
        let (Some(seconds), Some(nanoseconds)) = (seconds, nanoseconds) else {
            return false;
        };
        let Ok(seconds) = u64::try_from(i64::from_be_bytes(*seconds)) else {
            return true;
        };
        let then = Duration::new(
            seconds,
            u32::from_be_bytes(*nanoseconds).min(NANOSECONDS_MAX),
        );
        now.checked_sub(then).is_some_and(|age| age >= QUIET)
    };
    bytes.len() == VERSION_BYTES && is_past(24, 40) && is_past(32, 44)
}

fn time(stamp: StatxTimestamp) -> Time {
    Time {
        seconds: stamp.tv_sec,
        nanoseconds: stamp.tv_nsec,
    }
}

/// Permission bits that travel and are kept: never setuid, setgid or sticky.
pub(super) const MODE_MASK: u32 = 0o777;

/// The most nanoseconds within a second.
pub(super) const NANOSECONDS_MAX: u32 = 999_999_999;

/// Length of a version token: five fields of eight bytes and two of four.
const VERSION_BYTES: usize = 48;

const _: () = assert!(VERSION_BYTES <= VERSION_BYTES_MAX);

/// How old the last change must be: a few ticks of the coarsest clock (10 ms at 100 Hz) with which
/// Linux stamps files.
const QUIET: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(modified: Time, changed: Time) -> Metadata {
        Metadata {
            kind: EntryKind::File,
            is_foreign: false,
            id: FileId {
                device: 1,
                inode: 2,
            },
            owner: 0,
            size: 3,
            modified,
            changed,
            mode: 0o644,
        }
    }

    fn at(seconds: i64, nanoseconds: u32) -> Time {
        Time {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn each_field_makes_another_version() {
        let base = metadata(at(10, 0), at(20, 0));
        let mut others = [base; 6];
        others[0].id.device = 9;
        others[1].id.inode = 9;
        others[2].size = 9;
        others[3].modified = at(10, 1);
        others[4].changed = at(20, 1);
        others[5].changed = at(-20, 0);
        for other in others {
            assert_ne!(other.version(), base.version());
        }
        assert_eq!(base.version().as_bytes().len(), VERSION_BYTES);
    }

    #[test]
    fn a_file_is_quiet_a_while_after_both_its_times() {
        let quiet = |modified, changed| {
            let version = metadata(modified, changed).version();
            was_quiet(&version, Duration::from_millis(100_100))
        };
        assert!(quiet(at(100, 0), at(100, 0)));
        assert!(!quiet(at(100, 1), at(100, 0)), "modified 1 ns too late");
        assert!(!quiet(at(100, 0), at(100, 1)), "changed 1 ns too late");
        assert!(!quiet(at(500, 0), at(100, 0)), "modified in the future");
        assert!(quiet(at(-5, 0), at(100, 0)), "modified before 1970");
    }
}
