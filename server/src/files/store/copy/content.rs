//! Copying the content of a file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use quire_transport::body::extents::Extent;
use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use super::super::open_file::{OpenFile, SinceOpened};
use super::super::{Error, cancel};

/// Copies what a file had when it was opened: by sharing blocks, else within the kernel, else with
/// read and write. What is a hole in the original is one in the copy.
///
/// # Errors
/// If a system call fails, or the file changed meanwhile, otherwise than by growing.
pub(super) fn copy_content(source: &OpenFile, target: &mut File) -> Result<(), Error> {
    let size = source.attributes.size;
    if let Some(content) = source.content() {
        return target.write_all(content).map_err(Error::system("copying"));
    }
    copy_bytes(&source.file, target, size)?;
    match source.state_now()? {
        Some(SinceOpened::Same) => Ok(()),
        Some(SinceOpened::Grown) if has_same_bytes(&source.file, target, size)? => Ok(()),
        Some(SinceOpened::Grown) | None => Err(Error::Changed),
    }
}

/// Copies the first `size` bytes.
pub(super) fn copy_bytes(source: &File, target: &mut File, size: u64) -> Result<(), Error> {
    cancel::check()?;
    // FICLONE shares the blocks of the whole file, copy on write, as Btrfs and XFS can. It
    // takes no size. After any error the content is copied instead.
    if ioctl_ficlone(&*target, source).is_ok() {
        // It may have grown since it was opened.
        return target.set_len(size).map_err(Error::system("copying"));
    }
    let mut position = 0;
    while position < size {
        cancel::check()?;
        let extent = Extent::find(source, position, size);
        for mut file in [source, &*target] {
            let at = SeekFrom::Start(position);
            file.seek(at).map_err(Error::system("copying"))?;
        }
        copy_data(source, target, extent.data)?;
        position += extent.length();
        if extent.hole > 0 {
            target.set_len(position).map_err(Error::system("copying"))?;
        }
    }
    Ok(())
}

/// Copies `bytes` bytes, from the cursor of one file to that of the other.
fn copy_data(mut source: &File, target: &mut File, bytes: u64) -> Result<(), Error> {
    let mut left = bytes;
    while left > 0 {
        cancel::check()?;
        let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        match copy_file_range(source, None, &*target, None, step) {
            // The file became shorter, or the kernel can't copy it: for /proc it returns 0.
            Ok(0) => break,
            Ok(copied) => left = left.saturating_sub(copied as u64),
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
            Err(errno) => return Err(Error::system("copying")(errno)),
        }
    }
    // The cursors of both files are where copy_file_range left them.
    while left > 0 {
        cancel::check()?;
        let mut step = Read::by_ref(&mut source).take(left.min(STEP_BYTES as u64));
        match io::copy(&mut step, target).map_err(Error::system("copying"))? {
            0 => return Err(Error::Changed),
            copied => left -= copied,
        }
    }
    Ok(())
}

/// Whether two files begin with the same `size` bytes.
fn has_same_bytes(one: &File, other: &File, size: u64) -> Result<bool, Error> {
    let mut from_one = vec![0; PIECE_BYTES];
    let mut from_other = vec![0; PIECE_BYTES];
    let mut next = 0;
    while next < size {
        cancel::check()?;
        let rest = usize::try_from(size - next).unwrap_or(PIECE_BYTES);
        from_one.truncate(rest);
        from_other.truncate(rest);
        let reading = || Error::system("comparing a copy");
        one.read_exact_at(&mut from_one, next).map_err(reading())?;
        other
            .read_exact_at(&mut from_other, next)
            .map_err(reading())?;
        if from_one != from_other {
            return Ok(false);
        }
        next += from_one.len() as u64;
    }
    Ok(true)
}

/// Bytes copied between two checks for cancellation: a moment on any disk.
const STEP_BYTES: usize = 16 * 1024 * 1024;

/// Bytes compared at once.
const PIECE_BYTES: usize = 256 * 1024;
