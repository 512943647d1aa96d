//! Journals of parts: how much counts of a body whose transfer was interrupted.
//!
//! A part is a file with the beginning of a body, and its journal says of which. Bytes that were
//! written stay in the page cache when a process ends, so the length of the part counts as long as
//! the system has not been started again. After that only what was synced counts, and the journal
//! records a length only after the sync of so many bytes. In the end the digest of the whole body
//! decides, so damage to a part, or to its journal, costs time only.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use quire_shared::digest::Hasher;

use super::extents::{Extent, HOLE_STEP};

/// Syncs of a large file while it is being written, so that little is left for the last one.
#[derive(Debug, Default)]
pub struct SyncAhead {
    written: u64,
    /// Bytes written when the last sync began.
    begun: u64,
    syncing: Option<JoinHandle<io::Result<()>>>,
}

impl SyncAhead {
    /// For a file that has `written` bytes.
    fn behind(written: u64) -> Self {
        Self {
            written,
            begun: written,
            syncing: None,
        }
    }

    /// Notes that `bytes` more were written to `file`. From time to time a thread syncs them.
    ///
    /// # Errors
    /// If such a sync failed. What was written is lost then, and a later sync may not say so.
    pub fn wrote(&mut self, bytes: u64, file: &File) -> io::Result<()> {
        self.wrote_and(bytes, file, |_| ())
    }

    /// As [`wrote`](Self::wrote); after a sync, `synced` gets the length that is durable.
    fn wrote_and(
        &mut self,
        bytes: u64,
        file: &File,
        synced: impl FnOnce(u64) + Send + 'static,
    ) -> io::Result<()> {
        self.written += bytes;
        let is_syncing = self
            .syncing
            .as_ref()
            .is_some_and(|sync| !sync.is_finished());
        if self.written - self.begun < SYNC_BYTES || is_syncing {
            return Ok(());
        }
        self.settle()?;
        let length = self.written;
        let file = file.try_clone()?;
        let syncing = move || {
            file.sync_data()?;
            synced(length);
            Ok(())
        };
        self.begun = length;
        self.syncing = Some(thread::Builder::new().spawn(syncing)?);
        Ok(())
    }

    /// Waits for the sync in progress.
    ///
    /// # Errors
    /// If it failed. See [`wrote`](Self::wrote).
    pub fn settle(&mut self) -> io::Result<()> {
        let failed = |_| Err(io::Error::other("a sync ended without a result"));
        match self.syncing.take() {
            Some(syncing) => syncing.join().unwrap_or_else(failed),
            None => Ok(()),
        }
    }
}

/// Journal of a part that is being written.
#[derive(Debug)]
pub struct Journal {
    lines: Arc<File>,
    syncs: SyncAhead,
}

impl Journal {
    /// Begins the journal, in the new file `lines`, of a part that has `written` bytes, of which
    /// `synced` are durable. `subject` are the lines that say of what it is.
    ///
    /// # Errors
    /// If writing fails.
    pub fn begin(lines: File, subject: &str, written: u64, synced: u64) -> io::Result<Self> {
        let boot = boot();
        (&lines).write_all(format!("{BOOT}{boot}\n{subject}{SYNCED}{synced}\n").as_bytes())?;
        Ok(Self {
            lines: Arc::new(lines),
            syncs: SyncAhead::behind(written),
        })
    }

    /// Notes that `bytes` more were written to `part`, and records from time to time how many of them
    /// are durable.
    ///
    /// # Errors
    /// As [`SyncAhead::wrote`].
    pub fn wrote(&mut self, bytes: u64, part: &File) -> io::Result<()> {
        let lines = Arc::clone(&self.lines);
        self.syncs.wrote_and(bytes, part, move |length| {
            // Without the line, less counts after a power cut.
            let _ = (&*lines).write_all(format!("{SYNCED}{length}\n").as_bytes());
        })
    }

    /// Waits for the sync in progress.
    ///
    /// # Errors
    /// As [`SyncAhead::settle`].
    pub fn settle(&mut self) -> io::Result<()> {
        self.syncs.settle()
    }

    /// Length of the part, in bytes.
    pub fn written(&self) -> u64 {
        self.syncs.written
    }

    /// Whether so much was written that the part is worth keeping.
    pub fn is_worth_keeping(&self) -> bool {
        self.written() >= PART_BYTES_MIN
    }
}

/// What a journal says of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartRecord {
    /// The lines that say of what it is.
    pub subject: String,
    /// How many of its bytes are durable.
    pub synced: u64,
    is_of_this_start: bool,
}

impl PartRecord {
    /// Reads a journal; `None` if it isn't whole.
    pub fn read(journal: &File) -> Option<Self> {
        let mut text = String::new();
        journal
            .take(JOURNAL_BYTES_MAX)
            .read_to_string(&mut text)
            .ok()?;
        Self::parse(&text, &boot())
    }

    fn parse(text: &str, boot: &str) -> Option<Self> {
        // A line that was cut off has no end.
        let mut lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let written_at = lines.next()?.strip_prefix(BOOT)?.trim_end();
        let mut subject = String::new();
        let mut synced = None;
        for line in lines {
            match line.strip_prefix(SYNCED) {
                Some(length) => synced = Some(length.trim_end().parse().ok()?),
                None if synced.is_none() => subject.push_str(line),
                None => return None,
            }
        }
        Some(Self {
            subject,
            synced: synced?,
            is_of_this_start: !boot.is_empty() && written_at == boot,
        })
    }

    /// How much counts of a part that has `written` bytes.
    pub fn durable(&self, written: u64) -> u64 {
        match self.is_of_this_start {
            true => written,
            false => written.min(self.synced),
        }
    }
}

/// Adds the first `length` bytes of `file` to a digest, as long as `goes_on` says so, and returns
/// whether all were there and added. The position is behind them then. Blocks.
///
/// # Errors
/// If reading fails.
pub fn add_first(
    mut file: &File,
    hasher: &mut Hasher,
    length: u64,
    goes_on: impl Fn() -> bool,
) -> io::Result<bool> {
    let mut buffer = vec![0; READ_BYTES];
    let mut position = 0;
    while position < length {
        let Extent { data, hole } = Extent::find(file, position, length);
        file.seek(SeekFrom::Start(position))?;
        let mut rest = data;
        while rest > 0 && goes_on() {
            let limit = usize::try_from(rest).map_or(READ_BYTES, |rest| rest.min(READ_BYTES));
            let room = buffer.get_mut(..limit).unwrap_or_default();
            match file.read(room) {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    hasher.update(room.get(..read).unwrap_or_default());
                    rest -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut rest = hole;
        while rest > 0 && goes_on() {
            let step = rest.min(HOLE_STEP);
            hasher.update_zeros(step);
            rest -= step;
        }
        if !goes_on() {
            return Ok(false);
        }
        position += data + hole;
    }
    file.seek(SeekFrom::Start(length))?;
    Ok(true)
}

/// The file with the ID that Linux gives to each start of the system.
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The ID of this start of the system; empty where there is none.
fn boot() -> String {
    let id = std::fs::read_to_string(BOOT_ID_PATH);
    id.unwrap_or_default().trim().to_owned()
}

/// Files that are smaller are sent anew, and less of a file isn't kept: that takes less than a
/// second on all but the slowest paths.
pub const PART_BYTES_MIN: u64 = 1024 * 1024;

/// Bytes from one sync to the next: what of a part is to be sent again after a power cut.
const SYNC_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes per read when a file is read for its digest alone.
const READ_BYTES: usize = 256 * 1024;

/// Bytes of the longest journal that is read: of files of some terabytes.
const JOURNAL_BYTES_MAX: u64 = 1024 * 1024;

/// The beginnings of the first and the last lines of a journal.
const BOOT: &str = "boot ";
const SYNCED: &str = "synced ";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<PartRecord> {
        PartRecord::parse(text, "here")
    }

    #[test]
    fn only_what_was_synced_counts_after_a_start_of_the_system() {
        let record = parse("boot here\npath a\nsynced 0\nsynced 5\n").unwrap();
        assert_eq!((&*record.subject, record.synced), ("path a\n", 5));
        assert_eq!(record.durable(7), 7);
        let earlier = parse("boot then\npath a\nsynced 0\nsynced 5\n").unwrap();
        assert_eq!((earlier.durable(7), earlier.durable(3)), (5, 3));
        let unknown = PartRecord::parse("boot \npath a\nsynced 5\n", "").unwrap();
        assert_eq!(unknown.durable(7), 5);
    }

    #[test]
    fn a_journal_that_was_cut_off_counts_up_to_its_last_whole_line() {
        let record = parse("boot then\npath a\nsynced 5\nsynced 10").unwrap();
        assert_eq!(record.durable(20), 5);
        for broken in [
            "",
            "boot then",
            "boot then\npath a\n",
            "path a\nsynced 5\n",
            "boot then\npath a\nsynced x\n",
            "boot then\nsynced 5\npath a\n",
        ] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_file_is_synced_each_time_that_so_much_was_written() {
        let file = tempfile::tempfile().unwrap();
        let mut syncs = SyncAhead::default();
        syncs.wrote(SYNC_BYTES - 1, &file).unwrap();
        assert!(syncs.syncing.is_none());
        syncs.wrote(1, &file).unwrap();
        assert!(syncs.syncing.is_some());
        syncs.settle().unwrap();
        syncs.wrote(SYNC_BYTES - 1, &file).unwrap();
        assert!(syncs.syncing.is_none());
    }

    #[test]
    fn a_journal_is_read_as_it_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lines = file.reopen().unwrap();
        let mut journal = Journal::begin(lines, "path a\n", 10, 5).unwrap();
        journal.wrote(SYNC_BYTES, file.as_file()).unwrap();
        journal.settle().unwrap();
        assert_eq!(journal.written(), SYNC_BYTES + 10);
        let record = PartRecord::read(file.as_file()).unwrap();
        assert_eq!(record.subject, "path a\n");
        assert_eq!(record.synced, SYNC_BYTES + 10);
    }
}
