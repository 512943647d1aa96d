//! Bodies of files with holes: extents, each some data and the length of the hole behind it.
//!
//! A hole is a range that takes no space on disk and is read as zeros. It travels as its length
//! alone, and the receiver leaves a hole as well. The digest is of all bytes, also of these zeros,
//! so both ends hash them; they are the only work that the receiver has for a hole. See PROTOCOL.md,
//! "Bodies with holes".

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_blocking;

use quire_shared::codec::DecodeError;
use quire_shared::digest::{Digest, Hasher};
use quire_shared::limits::{self, ENCLOSED_BYTES_MAX};

use super::blocking::{ReadAhead, WriteBehind, interrupted};
use super::{BodySink, ReceiveBodyError, Received, SendBodyError, receive_raw, settled};
use crate::bottleneck::file_work;
use crate::stream::{ReceiveError, Receiver, Sender};

/// A part of a body: so many bytes of data, and behind them so many zeros of a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length of the data, in bytes.
    pub data: u64,
    /// Length of the hole, in bytes.
    pub hole: u64,
}

impl Extent {
    /// Finds the extent that begins at `position` of `file`, in a body that ends at `end`. Moves the
    /// cursor of the file. Blocks.
    ///
    /// A file system that can't tell has no holes, as far as this knows. What is wrong with the file
    /// shows when it is read.
    pub fn find(file: &File, position: u64, end: u64) -> Self {
        let dense = Self {
            data: end.saturating_sub(position),
            hole: 0,
        };
        let mut next = position;
        for _ in 0..SHORT_HOLES_MAX {
            let Some(hole) = next_hole(file, next).filter(|hole| *hole < end) else {
                return dense;
            };
            let Some(data) = next_data(file, hole) else {
                return dense;
            };
            next = data.min(end);
            if next.saturating_sub(hole) >= EXTENT_BYTES_MIN {
                return Self {
                    data: hole.saturating_sub(position),
                    hole: next - hole,
                };
            }
            if next == end {
                return dense;
            }
        }
        // The rest of a file that has nothing but short holes is looked at later.
        match next.saturating_sub(position) {
            data @ EXTENT_BYTES_MIN.. => Self { data, hole: 0 },
            _ => dense,
        }
    }

    /// Its length, in bytes.
    pub fn length(self) -> u64 {
        self.data.saturating_add(self.hole)
    }

    /// What it begins with on the wire, before its data.
    pub fn header(self) -> Bytes {
        let [data, hole] = [self.data, self.hole].map(u64::to_be_bytes);
        Bytes::from([data, hole].concat())
    }

    /// Decodes the beginning of an extent of a body that has `rest` bytes to come.
    ///
    /// # Errors
    /// If it is longer than these, or shorter than an extent before the last may be.
    pub(crate) fn decode(
        header: [u8; EXTENT_HEADER_BYTES],
        rest: u64,
    ) -> Result<Self, DecodeError> {
        let number = u128::from_be_bytes(header);
        let [data, hole] = [number >> u64::BITS, number & u128::from(u64::MAX)]
            .map(|half| u64::try_from(half).unwrap_or(u64::MAX));
        match data.checked_add(hole) {
            Some(length) if length == rest || (EXTENT_BYTES_MIN..rest).contains(&length) => {
                Ok(Self { data, hole })
            }
            _ => Err(DecodeError::Malformed),
        }
    }
}

/// Whether a file of `size` bytes that takes up `allocated` bytes of the disk has to be looked at for
/// holes: a large one that takes up less than it has. Compressed files do so as well.
pub const fn may_have_holes(size: u64, allocated: u64) -> bool {
    size > ENCLOSED_BYTES_MAX as u64 && allocated < size
}

/// Whether `file`, which has `size` bytes, has holes that are worth extents. Moves the cursor of the
/// file. Blocks.
pub fn has_holes(file: &File, size: u64) -> bool {
    Extent::find(file, 0, size).data < size
}

/// Reads a file extent by extent, ahead of the network.
#[derive(Debug)]
pub struct ExtentReader {
    file: Arc<File>,
    /// Where the next extent begins.
    position: u64,
    end: u64,
    stage: ExtentStage,
}

#[derive(Debug)]
enum ExtentStage {
    Between(Hasher),
    /// The data of an extent is being read; a hole of this length follows.
    Data(ReadAhead<File>, u64),
    Failed,
}

impl ExtentReader {
    /// Reads `file` from `position` to `end`. Moves the cursor of the file, so only one such reader
    /// may be in use.
    pub fn new(file: Arc<File>, position: u64, end: u64, hasher: Hasher) -> Self {
        Self {
            file,
            position,
            end,
            stage: ExtentStage::Between(hasher),
        }
    }

    /// Goes on to `end` after the former end.
    pub fn go_on(&mut self, end: u64) {
        self.end = end;
    }

    /// Adds the hole of the extent before to the digest, and finds the next one; `None` at the end.
    /// The data of the extent before has to have been read.
    ///
    /// # Errors
    /// If reading fails.
    pub async fn extent(&mut self) -> io::Result<Option<Extent>> {
        let hasher = match std::mem::replace(&mut self.stage, ExtentStage::Failed) {
            ExtentStage::Between(hasher) => hasher,
            ExtentStage::Data(reading, hole) => {
                let hasher = reading.into_hasher();
                let hasher = hasher.ok_or_else(|| io::Error::other("an extent wasn't read"))?;
                add_zeros(hasher, hole).await?
            }
            ExtentStage::Failed => return Err(io::Error::other("an earlier read failed")),
        };
        if self.position >= self.end {
            self.stage = ExtentStage::Between(hasher);
            return Ok(None);
        }
        let (file, position, end) = (Arc::clone(&self.file), self.position, self.end);
        let finding = spawn_blocking(move || {
            let extent = Extent::find(&file, position, end);
            let mut file = file.try_clone()?;
            file.seek(SeekFrom::Start(position))?;
            Ok::<_, io::Error>((extent, file))
        });
        let (extent, file) = finding.await.map_err(interrupted)??;
        self.position += extent.length();
        self.stage = ExtentStage::Data(ReadAhead::start(file, extent.data, hasher), extent.hole);
        Ok(Some(extent))
    }

    /// Returns the next bytes of the extent's data, at most about `piece_max`; `None` after them.
    ///
    /// # Errors
    /// If reading fails; [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the file has become
    /// shorter.
    pub async fn next(&mut self, piece_max: usize) -> io::Result<Option<Bytes>> {
        let ExtentStage::Data(reading, _) = &mut self.stage else {
            return Ok(None);
        };
        match reading.next(piece_max).await? {
            None if !reading.is_at_end() => Err(io::ErrorKind::UnexpectedEof.into()),
            piece => Ok(piece),
        }
    }

    /// The digest of everything. `None` unless [`extent`](Self::extent) has reached the end.
    pub fn digest(self) -> Option<Digest> {
        match self.stage {
            ExtentStage::Between(hasher) if self.position >= self.end => Some(hasher.finish()),
            _ => None,
        }
    }
}

/// Sends what `reader` reads, and returns the digest. `moved` counts the bytes, also those of holes.
///
/// # Errors
/// If reading or sending fails, or the file has become shorter.
pub async fn send_extents(
    sender: &mut Sender,
    mut reader: ExtentReader,
    moved: &AtomicU64,
) -> Result<Digest, SendBodyError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SendBodyError::Short { missing: 1 },
        _ => SendBodyError::Disk(error),
    };
    while let Some(extent) = sender.disk(reader.extent()).await.map_err(failed)? {
        sender.send_bytes(extent.header()).await?;
        while let Some(piece) = {
            let reading = reader.next(sender.piece_max());
            sender.disk(reading).await.map_err(failed)?
        } {
            let bytes = piece.len() as u64;
            sender.send_bytes(piece).await?;
            moved.fetch_add(bytes, Ordering::Relaxed);
        }
        moved.fetch_add(extent.hole, Ordering::Relaxed);
    }
    let cut_off = || SendBodyError::Disk(io::Error::other("a body without its end"));
    reader.digest().ok_or_else(cut_off)
}

/// Receives a body of `length` bytes that comes in extents into `sink`.
///
/// # Errors
/// As for [`receive_into`](super::receive_into).
pub async fn receive_extents_into<S: BodySink>(
    receiver: &mut Receiver,
    sink: &mut S,
    length: u64,
    moved: &AtomicU64,
) -> Result<(), ReceiveBodyError> {
    let received = receive_each(receiver, sink, length, moved).await;
    settled(received, sink).await
}

/// As [`receive`](super::receive), of a body that comes in extents.
///
/// # Errors
/// As for [`receive`](super::receive).
pub async fn receive_extents<W: HoleWrite + Send + 'static>(
    receiver: &mut Receiver,
    sink: W,
    length: u64,
    hasher: Hasher,
    moved: &AtomicU64,
) -> Result<Received<W>, ReceiveBodyError> {
    let mut writer = WriteBehind::new(sink, hasher);
    receive_extents_into(receiver, &mut writer, length, moved).await?;
    writer.finish().await.map_err(ReceiveBodyError::Disk)
}

async fn receive_each<S: BodySink>(
    receiver: &mut Receiver,
    sink: &mut S,
    length: u64,
    moved: &AtomicU64,
) -> Result<(), ReceiveBodyError> {
    let mut rest = length;
    while rest > 0 {
        let header = receiver.receive_array().await?;
        let extent = Extent::decode(header, rest).map_err(ReceiveError::Decode)?;
        rest -= extent.length();
        receive_raw(receiver, sink, extent.data, moved).await?;
        if extent.hole > 0 {
            // The sender computes as long, and sends nothing meanwhile.
            receiver.allow_stall(Duration::from_secs(extent.hole / ZEROS_PER_SECOND));
            let skipped = receiver.disk(sink.skip(extent.hole)).await;
            skipped.map_err(ReceiveBodyError::Disk)?;
            moved.fetch_add(extent.hole, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A writer that can leave a hole.
pub trait HoleWrite: Write {
    /// Goes on `bytes` bytes further, so that zeros are read before that.
    ///
    /// # Errors
    /// As for writing.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// Leaves a hole of `bytes` bytes at the cursor of `file`, which is its end.
///
/// # Errors
/// If the file system can't have a file of that length.
pub fn leave_hole(file: &mut File, bytes: u64) -> io::Result<()> {
    let position = file.stream_position()?;
    let too_long = || io::Error::from(io::ErrorKind::FileTooLarge);
    let end = position.checked_add(bytes).ok_or_else(too_long)?;
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end)).map(drop)
}

/// Writes `bytes` zeros to a `sink` that can't have holes.
///
/// # Errors
/// If writing fails.
pub fn write_zeros(sink: &mut impl Write, bytes: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes), sink).map(drop)
}

/// A writer that gets the zeros of holes.
#[derive(Debug)]
pub struct Filled<W>(pub W);

impl<W: Write> Write for Filled<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> HoleWrite for Filled<W> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        write_zeros(&mut self.0, bytes)
    }
}

/// Adds zeros to a digest on a blocking thread, which others get in between.
async fn add_zeros(mut hasher: Hasher, count: u64) -> io::Result<Hasher> {
    let mut rest = count;
    while rest > 0 {
        let step = rest.min(HOLE_STEP);
        rest -= step;
        let adding = move || {
            hasher.update_zeros(step);
            hasher
        };
        let added = spawn_blocking(|| file_work(adding)).await;
        hasher = added.map_err(interrupted)?;
    }
    Ok(hasher)
}

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
fn next_hole(file: &File, position: u64) -> Option<u64> {
    rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(position)).ok()
}

#[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
fn next_data(file: &File, position: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(data) => Some(data),
        // There is none up to the end of the file, which may be another than it was.
        Err(rustix::io::Errno::NXIO) => file.metadata().ok().map(|now| now.len()),
        Err(_) => None,
    }
}

/// Other systems don't say where holes are.
#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
fn next_hole(_: &File, _: u64) -> Option<u64> {
    None
}

#[cfg(not(any(target_os = "linux", target_os = "macos", target_os = "freebsd")))]
fn next_data(_: &File, _: u64) -> Option<u64> {
    None
}

/// The shortest extent before the last, in bytes, as a length of files.
const EXTENT_BYTES_MIN: u64 = limits::EXTENT_BYTES_MIN as u64;

/// Bytes of the beginning of an extent: two numbers of 64 bits.
pub(crate) const EXTENT_HEADER_BYTES: usize = 16;

/// Holes that are too short for an extent of their own and are passed in one search, which some
/// thousand system calls take a moment for.
const SHORT_HOLES_MAX: usize = 1024;

/// Bytes of a hole that are hashed in one go, after which others get the thread: some tens of
/// milliseconds of work.
pub(super) const HOLE_STEP: u64 = 32 * 1024 * 1024;

/// Zeros that an end hashes in a second at least: the slowest digest on a slow processor.
const ZEROS_PER_SECOND: u64 = 100 * 1024 * 1024;

#[cfg(test)]
mod tests;
