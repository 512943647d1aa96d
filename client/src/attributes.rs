//! Modification times, permission bits and ACLs of local files, and their form in the protocol.

#[cfg(unix)]
mod acl;

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quire_shared::protocol::Time;

/// Modification time of a local file, in the form of the protocol.
pub(crate) fn modified(metadata: &Metadata) -> Option<Time> {
    // Some platforms have no modification times; then none is sent.
    metadata.modified().ok().map(to_wire)
}

/// The permission bits of a local file, on systems that have them.
#[cfg(unix)]
pub(crate) fn mode(metadata: &Metadata) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    Some(metadata.permissions().mode() & PERMISSION_BITS)
}

/// The permission bits of a local file, on systems that have them.
#[cfg(not(unix))]
pub(crate) fn mode(_: &Metadata) -> Option<u32> {
    None
}

/// Sets the modification time that the server reported. A time that this system can't express is
/// ignored.
pub(crate) fn set_modified(file: &File, time: Time) -> io::Result<()> {
    match from_wire(time) {
        Some(time) => file.set_modified(time),
        None => Ok(()),
    }
}

/// What stays of a file that is replaced: permission bits, ACL and group. Nothing on systems that
/// have none of them.
#[derive(Debug)]
pub(crate) struct KeptAttributes {
    #[cfg(unix)]
    mode: u32,
    #[cfg(unix)]
    owner: u32,
    #[cfg(unix)]
    group: u32,
    #[cfg(unix)]
    acl: Option<Vec<u8>>,
}

#[cfg(unix)]
impl KeptAttributes {
    /// Reads them from the file `path`.
    pub(crate) fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        Ok(Self {
            mode: metadata.mode() & PERMISSION_BITS,
            owner: metadata.uid(),
            group: metadata.gid(),
            acl: acl::read(path)?,
        })
    }

    /// Gives them to the file that replaces it. The owner changes only if the system permits that;
    /// without its group, the old file's group must not open the new one to another group.
    pub(crate) fn apply(&self, file: &File) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, fchown};
        let metadata = file.metadata()?;
        if metadata.uid() != self.owner {
            // Only a privileged user may; else the file belongs to who wrote it.
            let _ = fchown(file, Some(self.owner), None);
        }
        let has_group =
            metadata.gid() == self.group || fchown(file, None, Some(self.group)).is_ok();
        if has_group {
            acl::write(file, self.acl.as_deref())?;
        } else {
            acl::write(file, None)?;
        }
        let others = self.mode & 0o007;
        let mode = match has_group {
            true => self.mode,
            false => self.mode & (0o707 | others << 3),
        };
        set_mode(file, mode)
    }
}

#[cfg(not(unix))]
impl KeptAttributes {
    pub(crate) fn of(_: &Path, _: &Metadata) -> io::Result<Self> {
        Ok(Self {})
    }

    pub(crate) fn apply(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

/// Sets these permission bits. Setuid, setgid and sticky are never set, and stay on a directory.
#[cfg(unix)]
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let before = file.metadata()?;
    let special = match before.is_dir() {
        true => before.mode() & SPECIAL_BITS,
        false => 0,
    };
    let mode = special | mode & PERMISSION_BITS;
    match before.mode() & (SPECIAL_BITS | PERMISSION_BITS) == mode {
        true => Ok(()),
        false => file.set_permissions(std::fs::Permissions::from_mode(mode)),
    }
}

/// Sets exactly these permission bits, without an ACL.
#[cfg(unix)]
pub(crate) fn set_exact_mode(file: &File, mode: u32) -> io::Result<()> {
    acl::write(file, None)?;
    set_mode(file, mode)
}

/// Does nothing, because other systems have no such bits.
#[cfg(not(unix))]
pub(crate) fn set_exact_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Takes from a directory those permissions of its owner that `mode` hasn't.
#[cfg(unix)]
pub(crate) fn restrict_owner(directory: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let missing = OWNER_BITS & !mode;
    match missing {
        0 => Ok(()),
        missing => set_mode(directory, directory.metadata()?.mode() & !missing),
    }
}

/// Does nothing, because other systems have no such bits.
#[cfg(not(unix))]
pub(crate) fn restrict_owner(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Does nothing, because other systems have no such bits.
#[cfg(not(unix))]
pub(crate) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Converts a time of the protocol, if this system can express it.
pub(crate) fn from_wire(time: Time) -> Option<SystemTime> {
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let whole = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(seconds)?
    } else {
        UNIX_EPOCH.checked_add(seconds)?
    };
    let nanoseconds = time.nanoseconds.min(NANOSECONDS_PER_SECOND - 1);
    whole.checked_add(Duration::from_nanos(nanoseconds.into()))
}

/// Converts a time of this system. Nanoseconds count forward, also before 1970.
fn to_wire(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Time {
                    seconds: -seconds,
                    nanoseconds: 0,
                },
                nanoseconds => Time {
                    seconds: (-seconds).saturating_sub(1),
                    nanoseconds: NANOSECONDS_PER_SECOND - nanoseconds,
                },
            }
        }
    }
}

/// The bits that `chmod` takes, without setuid, setgid and sticky.
#[cfg(unix)]
pub(crate) const PERMISSION_BITS: u32 = 0o777;

/// What its owner needs to fill a directory.
#[cfg(unix)]
pub(crate) const OWNER_BITS: u32 = 0o700;

/// Setuid, setgid and sticky.
#[cfg(unix)]
const SPECIAL_BITS: u32 = 0o7000;

const NANOSECONDS_PER_SECOND: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_wire_on_both_sides_of_1970() {
        for (seconds, nanoseconds) in [
            (0, 0),
            (0, 1),
            (-1, 999_999_999),
            (-1, 0),
            (-86_400, 5),
            (1_700_000_000, 123_456_700),
        ] {
            let time = Time {
                seconds,
                nanoseconds,
            };
            assert_eq!(to_wire(from_wire(time).unwrap()), time);
        }
    }

    #[test]
    fn times_from_a_hostile_server_are_clamped_or_refused() {
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds,
        };
        assert_eq!(
            from_wire(time(0, u32::MAX)),
            from_wire(time(0, 999_999_999))
        );
        // Whatever the system can express, nothing overflows.
        for seconds in [i64::MIN, i64::MIN + 1, i64::MAX] {
            let _ = from_wire(time(seconds, u32::MAX));
        }
    }
}
