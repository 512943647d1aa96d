//! Standard input as the content of a file.
//!
//! Neither a program that was started without standard input, nor one whose standard input can't be
//! read, may store an empty file. The standard library hides both: it opens `/dev/null` in the place
//! of a descriptor that is closed, and reads nothing from one that isn't open for reading.

use std::fs::File;
use std::io::{self, Read};

use quire_client::ClientError;

/// Standard input, read without a buffer. Its end is the end: a terminal would go on after Ctrl-D.
#[derive(Debug)]
pub(crate) struct StandardInput {
    file: File,
    has_ended: bool,
}

/// Opens standard input.
///
/// # Errors
/// If the program was started with standard input closed.
pub(crate) fn open() -> Result<StandardInput, ClientError> {
    require_open()?;
    Ok(StandardInput {
        file: duplicate().map_err(|error| ClientError::disk(NAME.as_ref(), "read", error))?,
        has_ended: false,
    })
}

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.has_ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.file.read(buffer)?;
        self.has_ended = read == 0;
        Ok(read)
    }
}

#[cfg(unix)]
fn duplicate() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn duplicate() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(io::stdin().as_handle().try_clone_to_owned()?.into())
}

/// Checks that standard input was not closed when the program started.
///
/// The standard library opens what is closed for reading and writing, as `<>/dev/null` would. A shell
/// opens `</dev/null` for reading alone, which stays an empty input that somebody asked for.
///
/// # Errors
/// If it was closed.
#[cfg(unix)]
pub(crate) fn require_open() -> Result<(), ClientError> {
    use rustix::fs::{OFlags, fcntl_getfl, fstat, stat};
    let stdin = io::stdin();
    let is_both = fcntl_getfl(&stdin).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR);
    let is_null = match (fstat(&stdin), stat("/dev/null")) {
        (Ok(input), Ok(null)) => input.st_rdev == null.st_rdev && input.st_mode == null.st_mode,
        (Ok(_) | Err(_), _) => false,
    };
    match is_both && is_null {
        true => Err(ClientError::Unsuitable {
            path: NAME.into(),
            reason: "is closed",
        }),
        false => Ok(()),
    }
}

#[cfg(not(unix))]
pub(crate) fn require_open() -> Result<(), ClientError> {
    Ok(())
}

/// Its name in messages.
const NAME: &str = "standard input";
