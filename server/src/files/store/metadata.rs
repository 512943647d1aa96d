//! Metadata of a file: kind, identity, size and times, and the version derived from them.
//!
//! A version consists of identity, size, modification time and change time. None of them alone is
//! enough: inode numbers are reused at once, and file systems have coarse clocks.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use quire_shared::limits::VERSION_BYTES_MAX;
use quire_shared::protocol::{Attributes, EntryKind, HardLinkId, LinkTarget, Time, Version};
use rustix::fs::{
    AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp, readlinkat, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;

use super::Error;

/// Identity of a file: unique among all files while it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl FileId {
    /// What tells a client which names are of one file. Keyed, so that it says nothing else; a new key
    /// with each start of the program, as clients compare within one connection only.
    fn hard_link(self) -> HardLinkId {
        static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(Default::default);
        let [first, second] = KEYS.each_ref().map(|key| key.hash_one(self));
        HardLinkId::of(u128::from(first) << 64 | u128::from(second))
    }
}

/// Metadata of a file, as statx(2) reports it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
    pub(super) kind: EntryKind,
    /// Whether another file system begins here. Always `false` from [`Metadata::of`], which
    /// doesn't check it.
    pub(super) is_foreign: bool,
    pub(super) id: FileId,
    pub(super) owner: u32,
    pub(super) group: u32,
    pub(super) size: u64,
    /// Blocks of 512 bytes that the file takes up.
    pub(super) blocks: u64,
    pub(super) modified: Time,
    /// Last change of content, name or attributes.
    pub(super) changed: Time,
    pub(super) mode: u32,
    /// How many names it has.
    pub(super) links: u32,
    /// Whether it has no name any more.
    pub(super) is_removed: bool,
    /// When it was created, where the file system knows that.
    pub(super) born: Option<Time>,
    /// Whether the system keeps it from being changed and removed (chattr +i, +a).
    pub(super) is_immutable: bool,
    /// Setuid, setgid and sticky, which clients neither see nor set.
    pub(super) special_bits: u32,
}

impl Metadata {
    /// Reads the metadata of an open file.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        let stat = statx(file, c"", AtFlags::EMPTY_PATH, WANTED)?;
        Ok(Self::new(&stat))
    }

    /// Reads the metadata of `name` in `directory`; `None` if nothing has the name. A symbolic link
    /// isn't followed. `root_device` is the device of the served root.
    pub(super) fn at(
        directory: impl AsFd,
        name: impl Arg,
        root_device: u64,
    ) -> Result<Option<Self>, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(directory, name, flags, WANTED) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat?,
        };
        let mut metadata = Self::new(&stat);
        // The device number tells a subvolume, the attribute tells a mount of the same device. The
        // device of a file doesn't count: overlayfs reports the device of the layer.
        metadata.is_foreign = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            || metadata.kind == EntryKind::Directory && metadata.id.device != root_device;
        Ok(Some(metadata))
    }

    fn new(stat: &Statx) -> Self {
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => EntryKind::Symlink,
            _ => EntryKind::Other,
        };
        let device = u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor);
        Self {
            kind,
            is_foreign: false,
            id: FileId {
                device,
                inode: stat.stx_ino,
            },
            owner: stat.stx_uid,
            group: stat.stx_gid,
            size: stat.stx_size,
            blocks: stat.stx_blocks,
            modified: time(stat.stx_mtime),
            changed: time(stat.stx_ctime),
            mode: u32::from(stat.stx_mode) & MODE_MASK,
            links: stat.stx_nlink,
            is_removed: stat.stx_nlink == 0,
            born: StatxFlags::from_bits_retain(stat.stx_mask)
                .contains(StatxFlags::BTIME)
                .then(|| time(stat.stx_btime)),
            is_immutable: stat
                .stx_attributes
                .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
            special_bits: u32::from(stat.stx_mode) & SPECIAL_MASK,
        }
    }

    /// Builds the version of a file with this metadata.
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

    /// Converts the metadata to the attributes that clients receive.
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
            target: None,
            details: None,
            hard_link: (kind == EntryKind::File && self.links > 1).then(|| self.id.hard_link()),
        }
    }

    /// As [`attributes`](Self::attributes), of `name` in `directory`: with its target if it is a
    /// symbolic link. A target that is gone meanwhile, or too long to be sent, is left out.
    pub(super) fn attributes_at(&self, directory: impl AsFd, name: impl Arg) -> Attributes {
        let mut attributes = self.attributes();
        if attributes.kind == EntryKind::Symlink {
            let target = readlinkat(directory, name, Vec::new()).ok();
            attributes.target = target.and_then(|target| LinkTarget::new(target.to_bytes()));
        }
        attributes
    }

    /// Bytes of the disk that it takes up.
    pub(super) fn allocated(&self) -> u64 {
        self.blocks.saturating_mul(512)
    }

    /// Whether the size may be made up. Files of /proc are said to have no bytes, and those of /sys
    /// a page; both take up no blocks, as other files do that are empty or have holes only.
    pub(super) fn may_misstate_size(&self) -> bool {
        self.blocks == 0 && self.size <= MISSTATED_BYTES_MAX
    }

    /// Checks that this is a regular file on the root's own file system.
    pub(super) fn require_file(&self) -> Result<(), Error> {
        match self.kind {
            _ if self.is_foreign => Err(Error::OtherFileSystem),
            EntryKind::File => Ok(()),
            EntryKind::Directory => Err(Error::IsDirectory),
            EntryKind::Symlink | EntryKind::Other => Err(Error::SpecialFile),
        }
    }
}

/// Checks whether the last change of `version` is so old that any further change gets other times.
/// Younger content must not be cached under this version, which a change may leave the same.
pub(in crate::files) fn is_quiet(version: &Version) -> bool {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    was_quiet(version, now)
}

/// [`is_quiet`] at `now`, counted from 1970. A file with a time in the future isn't quiet.
fn was_quiet(version: &Version, now: Duration) -> bool {
    let bytes = version.as_bytes();
    let is_past = |seconds: usize, nanoseconds: usize| {
        let seconds = bytes.get(seconds..).and_then(|rest| rest.first_chunk());
        let nanoseconds = bytes.get(nanoseconds..).and_then(|rest| rest.first_chunk());
        let (Some(seconds), Some(nanoseconds)) = (seconds, nanoseconds) else {
            return false;
        };
        // A time before 1970 is negative, and past.
        let Ok(seconds) = u64::try_from(i64::from_be_bytes(*seconds)) else {
            return true;
        };
        let then = Duration::new(
            seconds,
            u32::from_be_bytes(*nanoseconds).min(NANOSECONDS_MAX),
        );
        now.checked_sub(then).is_some_and(|age| age >= QUIET)
    };
    // Offsets of the fields in the token, see `Metadata::version`: modification, then change time.
    bytes.len() == VERSION_BYTES && is_past(24, 40) && is_past(32, 44)
}

fn time(stamp: StatxTimestamp) -> Time {
    Time {
        seconds: stamp.tv_sec,
        nanoseconds: stamp.tv_nsec,
    }
}

/// Permission bits that are sent and set: never setuid, setgid or sticky.
pub(super) const MODE_MASK: u32 = 0o777;

/// What is asked of the file system.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

const SPECIAL_MASK: u32 = 0o7000;

/// Largest count of nanoseconds within a second.
pub(super) const NANOSECONDS_MAX: u32 = 999_999_999;

/// Largest size, in bytes, that a file system makes up: a page of the largest kind.
const MISSTATED_BYTES_MAX: u64 = 64 * 1024;

/// Length of a version token in bytes: five fields of eight bytes and two of four.
const VERSION_BYTES: usize = 48;

const _: () = assert!(VERSION_BYTES <= VERSION_BYTES_MAX);

/// Age that the last change of a quiet file must have. It is some ticks of the coarsest clock with
/// which Linux stamps files (10 ms at 100 Hz).
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
            group: 0,
            size: 3,
            blocks: 8,
            modified,
            changed,
            mode: 0o644,
            links: 1,
            is_removed: false,
            born: None,
            is_immutable: false,
            special_bits: 0,
        }
    }

    fn at(seconds: i64, nanoseconds: u32) -> Time {
        Time {
            seconds,
            nanoseconds,
        }
    }

    #[test]
    fn each_field_changes_the_version() {
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
    fn a_file_is_quiet_some_time_after_both_its_times() {
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
