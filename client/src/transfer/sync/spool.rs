//! Records of a plan, in memory while they are few and in a temporary file when they are many, so that
//! the size of a tree doesn't decide how much memory its sync takes.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;

use minicbor::{Decode, Encode};
use tempfile::SpooledTempFile;

/// A list of records in the order in which they were added.
#[derive(Debug)]
pub(super) struct Spool<T> {
    file: SpooledTempFile,
    /// Where the next record begins, in bytes.
    end: u64,
    records: PhantomData<T>,
}

impl<T> Default for Spool<T> {
    fn default() -> Self {
        Self {
            file: SpooledTempFile::new(MEMORY_BYTES),
            end: 0,
            records: PhantomData,
        }
    }
}

impl<T: Encode<()> + for<'b> Decode<'b, ()>> Spool<T> {
    /// Where the next record will begin.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Adds a record, and returns where it begins.
    pub(super) fn push(&mut self, record: &T) -> io::Result<u64> {
        let mut bytes = vec![0; HEAD_BYTES];
        minicbor::encode(record, &mut bytes).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len() - HEAD_BYTES).map_err(io::Error::other)?;
        for (head, byte) in bytes.iter_mut().zip(length.to_be_bytes()) {
            *head = byte;
        }
        let begin = self.end;
        self.file.seek(SeekFrom::Start(begin))?;
        self.file.write_all(&bytes)?;
        self.end += bytes.len() as u64;
        Ok(begin)
    }

    /// Forgets all records from `begin` on.
    pub(super) fn truncate(&mut self, begin: u64) {
        // The next record is written over them.
        self.end = self.end.min(begin);
    }

    /// Reads the record that begins at `begin`, and returns where the next one begins; nothing if that
    /// is the end.
    pub(super) fn read_next(&mut self, begin: u64) -> io::Result<Option<(T, u64)>> {
        let end = self.end;
        self.file.seek(SeekFrom::Start(begin))?;
        let mut position = begin;
        let record = read(&mut self.file, &mut position, end)?;
        Ok(record.map(|record| (record, position)))
    }

    /// As [`read_next`](Self::read_next), without where it ends.
    pub(super) fn read_at(&mut self, begin: u64) -> io::Result<Option<T>> {
        let record = self.read_next(begin)?;
        Ok(record.map(|(record, _)| record))
    }

    /// Reads all records, from the first on.
    pub(super) fn into_reader(mut self) -> io::Result<SpoolReader<T>> {
        self.file.seek(SeekFrom::Start(0))?;
        Ok(SpoolReader {
            file: BufReader::new(self.file),
            position: 0,
            end: self.end,
            records: PhantomData,
        })
    }
}

/// Reads the records of a [`Spool`].
#[derive(Debug)]
pub(super) struct SpoolReader<T> {
    file: BufReader<SpooledTempFile>,
    position: u64,
    end: u64,
    records: PhantomData<T>,
}

impl<T: for<'b> Decode<'b, ()>> SpoolReader<T> {
    /// Where the next record begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next record, or nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<T>> {
        read(&mut self.file, &mut self.position, self.end)
    }

    /// Begins again with the first record.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.position = 0;
        self.file.seek(SeekFrom::Start(0)).map(drop)
    }

    /// Goes to the record that begins at `begin`.
    pub(super) fn skip_to(&mut self, begin: u64) -> io::Result<()> {
        self.position = begin;
        self.file.seek(SeekFrom::Start(begin)).map(drop)
    }
}

fn read<T: for<'b> Decode<'b, ()>>(
    file: &mut impl Read,
    position: &mut u64,
    end: u64,
) -> io::Result<Option<T>> {
    if *position >= end {
        return Ok(None);
    }
    let mut head = [0; HEAD_BYTES];
    file.read_exact(&mut head)?;
    let length = u32::from_be_bytes(head);
    let mut bytes = Vec::new();
    file.take(length.into()).read_to_end(&mut bytes)?;
    *position += HEAD_BYTES as u64 + u64::from(length);
    minicbor::decode(&bytes).map(Some).map_err(io::Error::other)
}

/// Bytes of the length before each record.
const HEAD_BYTES: usize = 4;

/// Bytes of records in memory, beyond which they go into a file: some hundred thousand of them. A plan
/// has half a dozen such lists.
const MEMORY_BYTES: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_from_memory_and_from_a_file() {
        for count in [0, 3, 2 * MEMORY_BYTES as u64 / 100] {
            let mut spool = Spool::default();
            let text = |number: u64| format!("{number:0100}");
            for number in 0..count {
                spool.push(&text(number)).unwrap();
            }
            let mut reader = spool.into_reader().unwrap();
            for number in 0..count {
                assert_eq!(reader.next().unwrap(), Some(text(number)));
            }
            assert_eq!(reader.next().unwrap(), None);
        }
    }

    #[test]
    fn what_was_truncated_is_gone_and_others_take_its_place() {
        let mut spool = Spool::default();
        spool.push(&1_u64).unwrap();
        let second = spool.push(&u64::MAX).unwrap();
        spool.push(&3).unwrap();
        spool.truncate(second);
        assert_eq!(spool.push(&4).unwrap(), second);
        assert_eq!(spool.read_at(second).unwrap(), Some(4));
        let end = spool.end();
        assert_eq!(spool.read_at(end).unwrap(), None);
        let mut reader = spool.into_reader().unwrap();
        assert_eq!(reader.next().unwrap(), Some(1));
        assert_eq!(reader.position(), second);
        assert_eq!(reader.next().unwrap(), Some(4));
        assert_eq!(reader.next().unwrap(), None);
    }
}
