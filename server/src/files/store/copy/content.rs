//! Copying the content of a file.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use quire_shared::digest::Hasher;
use quire_transport::body::extents::Extent;
use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use super::super::open_file::{OpenFile, SinceOpened};
use super::super::staged_file::StagedFile;
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
        let at = SeekFrom::Start(position);
        target.seek(at).map_err(Error::system("copying"))?;
        copy_range(source, target, position..position + extent.data)?;
        position += extent.length();
        if extent.hole > 0 {
            target.set_len(position).map_err(Error::system("copying"))?;
        }
    }
    Ok(())
}

/// Copies a range to the cursor of the other file.
fn copy_range(source: &File, target: &mut File, range: Range<u64>) -> Result<(), Error> {
    let mut copy = RangeCopy::new(source, range);
    while !copy.is_done() {
        cancel::check()?;
        let copied = copy.step(target, STEP_BYTES);
        if copied.map_err(Error::system("copying"))? == 0 {
            return Err(Error::Changed);
        }
    }
    Ok(())
}

/// A copy of a range of a file, step by step: within the kernel, else with read and write.
struct RangeCopy<'a> {
    source: &'a File,
    range: Range<u64>,
    is_in_kernel: bool,
}

impl<'a> RangeCopy<'a> {
    fn new(source: &'a File, range: Range<u64>) -> Self {
        Self {
            source,
            range,
            is_in_kernel: true,
        }
    }

    fn is_done(&self) -> bool {
        self.range.is_empty()
    }

    /// Copies up to `step` bytes to the cursor of `target`. Returns how many; none if the source has
    /// become shorter.
    fn step(&mut self, target: &mut File, step: usize) -> io::Result<usize> {
        let rest = self.range.end - self.range.start;
        let step = usize::try_from(rest).map_or(step, |rest| rest.min(step));
        if self.is_in_kernel {
            let mut offset = self.range.start;
            match copy_file_range(self.source, Some(&mut offset), &*target, None, step) {
                // The file became shorter, or the kernel can't copy it: for /proc it returns 0.
                Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.is_in_kernel = false;
                }
                Ok(copied) => {
                    self.range.start += copied as u64;
                    return Ok(copied);
                }
                Err(Errno::INTR) => return self.step(target, step),
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut bytes = vec![0; step.min(PIECE_BYTES)];
        let read = self.source.read_at(&mut bytes, self.range.start)?;
        target.write_all(bytes.get(..read).unwrap_or_default())?;
        self.range.start += read as u64;
        Ok(read)
    }
}

impl StagedFile {
    /// Appends `range` of `base`, and adds it to a digest: what is read again from this file, so that
    /// the digest proves the copy. Stops when `is_wanted` says so. Blocks.
    ///
    /// # Errors
    /// If a system call fails, `base` has become shorter, or the copy was stopped.
    pub(in crate::files) fn copy_from(
        &mut self,
        base: &OpenFile,
        range: Range<u64>,
        hasher: &mut Hasher,
        is_wanted: impl Fn() -> bool,
    ) -> io::Result<()> {
        if let Some(content) = base.content() {
            let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
            let bytes = content.get(index(range.start)..index(range.end));
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            hasher.update(bytes);
            // Notes itself what is written.
            return self.write_all(bytes);
        }
        let mut copy = RangeCopy::new(&base.file, range);
        let mut written = self.file.stream_position()?;
        let mut piece = vec![0; PIECE_BYTES];
        while !copy.is_done() {
            if !is_wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let copied = copy.step(&mut self.file, HASHED_STEP_BYTES)?;
            if copied == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.note(copied as u64)?;
            let end = written + copied as u64;
            while written < end {
                let rest = usize::try_from(end - written).unwrap_or(PIECE_BYTES);
                let piece = piece.get_mut(..rest.min(PIECE_BYTES)).unwrap_or_default();
                self.file.read_exact_at(piece, written)?;
                hasher.update(piece);
                written += piece.len() as u64;
            }
        }
        Ok(())
    }
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

/// Bytes copied before they are read again for a digest: they are still in the processor's cache, or
/// at least in memory.
const HASHED_STEP_BYTES: usize = 4 * 1024 * 1024;

/// Bytes read or compared at once.
const PIECE_BYTES: usize = 256 * 1024;
