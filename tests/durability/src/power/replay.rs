//! The log of a disk, and the states that power cuts may leave.
//!
//! The format is that of the kernel's dm-log-writes: a superblock, then each entry as a sector of
//! its own with the data behind it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use tempfile::TempDir;

use super::disk::{DISK_BEFORE, FileSystem, LOG, MARK_BYTES};
use quire_test_harness::content::Random;

/// A disk rebuilt from its log, forwards only.
#[derive(Debug)]
pub(crate) struct Replay {
    directory: TempDir,
    file_system: FileSystem,
    log: File,
    entries: Vec<LogRecord>,
    /// The state that is certainly on the disk: all before entry `flushed`.
    durable: Blocks,
    flushed: usize,
    random: Random,
}

/// One write, flush, discard or mark.
#[derive(Debug, Clone, Copy)]
struct LogRecord {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Offset of its data in the log, in bytes.
    data: u64,
}

/// Numbers of the blocks that were ever written.
#[derive(Debug, Clone, Default)]
struct Blocks(BTreeMap<u64, Box<[u8; BLOCK]>>);

/// The moment of a power cut: after so many entries of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(usize);

impl Replay {
    /// Reads the log that a finished disk left in `directory`.
    pub(crate) fn new(directory: TempDir, file_system: FileSystem, seed: u64) -> Self {
        let log = File::open(directory.path().join(LOG)).unwrap();
        let entries = read_entries(&log);
        let durable = Blocks::of(&directory.path().join(DISK_BEFORE));
        Self {
            directory,
            file_system,
            log,
            entries,
            durable,
            flushed: 0,
            random: Random::new(seed),
        }
    }

    /// The moments to check, in order: just after each flush since the first acknowledgement, and one at
    /// random before the next flush.
    pub(crate) fn moments(&mut self) -> Vec<Moment> {
        let entries = 0..self.entries.len();
        let Some(first) = entries.clone().find(|entry| self.mark(*entry).is_some()) else {
            return Vec::new();
        };
        let is_flush = |entry: &usize| self.entries[*entry].flags & FLUSH != 0;
        let mut flushes: Vec<_> = entries.skip(first).filter(is_flush).collect();
        flushes.push(self.entries.len());
        let mut moments = vec![Moment(first + 1)];
        for between in flushes.windows(2) {
            let (after, before_next) = (between[0] + 1, between[1]);
            moments.push(Moment(after));
            if before_next > after {
                moments.push(Moment(after + 1 + self.random.below(before_next - after)));
            }
        }
        moments
    }

    /// How many steps each worker had acknowledged at that moment.
    pub(crate) fn acknowledged(&self, moment: Moment) -> HashMap<u64, u64> {
        (0..moment.0).filter_map(|entry| self.mark(entry)).collect()
    }

    /// Writes to `image` a disk as the power cut may leave it. Moments must come in order.
    pub(crate) fn write_image(&mut self, moment: Moment, image: &Path) {
        let last_flush = (self.flushed..moment.0)
            .rev()
            .find(|entry| self.entries[*entry].flags & FLUSH != 0);
        if let Some(flush) = last_flush {
            for entry in self.flushed..=flush {
                let pieces = self.pieces(entry);
                pieces
                    .iter()
                    .for_each(|(at, bytes)| self.durable.write(*at, bytes));
            }
            self.flushed = flush + 1;
        }
        let mut left = self.durable.clone();
        for entry in self.flushed..moment.0 {
            let has_to_be = self.entries[entry].flags & FUA != 0;
            for (at, bytes) in self.pieces(entry) {
                if has_to_be || self.random.below(2) == 0 {
                    left.write(at, &bytes);
                }
            }
        }
        left.write_to(image, self.file_system.size());
    }

    /// The directory for images.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The writes of an entry, in pieces that a disk writes completely or not at all.
    fn pieces(&self, entry: usize) -> Vec<(u64, Vec<u8>)> {
        let LogRecord {
            sector,
            sectors,
            flags,
            data,
        } = self.entries[entry];
        let (start, len) = (sector * SECTOR, sectors * SECTOR);
        if start >= self.file_system.size() {
            return Vec::new();
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        if flags & DISCARD == 0 {
            self.log.read_exact_at(&mut bytes, data).unwrap();
        }
        let at = (start..).step_by(BLOCK);
        at.zip(bytes.chunks(BLOCK).map(<[u8]>::to_vec)).collect()
    }

    /// The acknowledgement in an entry, if it is one.
    fn mark(&self, entry: usize) -> Option<(u64, u64)> {
        let entry = self.entries[entry];
        if entry.sector * SECTOR != self.file_system.size() || entry.sectors == 0 {
            return None;
        }
        let mut bytes = [0; MARK_BYTES];
        self.log.read_exact_at(&mut bytes, entry.data).unwrap();
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap());
        Some((number(0), number(8)))
    }
}

fn read_entries(log: &File) -> Vec<LogRecord> {
    let words = |at: u64| {
        let mut bytes = [0; 32];
        log.read_exact_at(&mut bytes, at).unwrap();
        let word = |index: usize| u64::from_le_bytes(*bytes[8 * index..].first_chunk().unwrap());
        [word(0), word(1), word(2), word(3)]
    };
    let [magic, version, count, sector_size] = words(0);
    assert_eq!((magic, version), (MAGIC, 1), "not a log of writes");
    assert_eq!(sector_size & u64::from(u32::MAX), SECTOR, "other sectors");
    let mut at = SECTOR;
    let entries = (0..count).map(|_| {
        let [sector, sectors, flags, _] = words(at);
        let data = at + SECTOR;
        // A discard has a length and no data.
        at = data
            + if flags & DISCARD == 0 {
                sectors * SECTOR
            } else {
                0
            };
        LogRecord {
            sector,
            sectors,
            flags,
            data,
        }
    });
    entries.collect()
}

impl Blocks {
    /// The blocks of a file that has holes.
    fn of(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        let mut blocks = Self::default();
        let mut at = 0;
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(data))
                .unwrap()
                .min(len);
            for start in (data..at).step_by(BLOCK) {
                let mut bytes = vec![0; BLOCK.min(usize::try_from(at - start).unwrap())];
                file.read_exact_at(&mut bytes, start).unwrap();
                blocks.write(start, &bytes);
            }
        }
        blocks
    }

    /// Writes in units of blocks.
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = usize::try_from(at % BLOCK as u64).unwrap();
            let len = bytes.len().min(BLOCK - within);
            let block = self.0.entry(at / BLOCK as u64);
            let block = block.or_insert_with(|| Box::new([0; BLOCK]));
            block[within..within + len].copy_from_slice(&bytes[..len]);
            bytes = &bytes[len..];
            at += len as u64;
        }
    }

    fn write_to(&self, path: &Path, size: u64) {
        let file = File::create(path).unwrap();
        file.set_len(size).unwrap();
        for (number, block) in &self.0 {
            file.write_all_at(&block[..], number * BLOCK as u64)
                .unwrap();
        }
    }
}

/// Bytes that a disk writes atomically.
const BLOCK: usize = 4096;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
