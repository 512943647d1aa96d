//! Conversion of modification times and permission bits between protocol and local file system.

use std::fs::{File, Metadata};
use std::io;
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

/// Sets the permission bits that the server reported, without those that the umask denies. A
/// server must not open this user's files to others. Setuid, setgid and sticky are never set.
#[cfg(unix)]
pub(crate) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = mode & PERMISSION_BITS & !umask();
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Does nothing, because other systems have no such bits.
#[cfg(not(unix))]
pub(crate) fn set_mode(_: &File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Reads the umask, once. POSIX can read it only by setting it. It is set to a strict value for that
/// moment, so that a file that another thread creates is not more open than intended.
#[cfg(unix)]
fn umask() -> u32 {
    use std::sync::OnceLock;

    use rustix::fs::Mode;
    use rustix::process::umask;
    static UMASK: OnceLock<u32> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let current = umask(Mode::RWXG | Mode::RWXO);
        umask(current);
        current.as_raw_mode()
    })
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
const PERMISSION_BITS: u32 = 0o777;

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
