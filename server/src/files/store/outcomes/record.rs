//! Records of changes as they are stored: CBOR behind a length and a checksum.

use minicbor::{Decode, Encode};
use quire_certs::Fingerprint;
use quire_shared::RemotePath;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{ChangeId, Time, Version};

use super::super::metadata::Metadata;

/// A change, as one client names it. Another client can't name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(map)]
pub(in crate::files) struct ChangeKey {
    /// The key of the client.
    #[n(0)]
    #[cbor(with = "fingerprint")]
    pub owner: Fingerprint,
    /// What the client calls the change.
    #[n(1)]
    pub id: ChangeId,
}

/// What a change that succeeded left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(map)]
pub(in crate::files) struct Outcome {
    /// Version that the name got, unless it was deleted.
    #[n(0)]
    pub version: Option<Version>,
    /// Number of entries that a copy left out. Their names aren't kept: a client could fill the memory
    /// with them.
    #[n(1)]
    pub left_out: u64,
}

/// A change that is about to be made, and how to find out later whether it was.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Intent {
    /// What it is once it was made, but for the version in its outcome.
    #[n(0)]
    pub(super) change: MadeChange,
    /// Path that something else has after the change.
    #[n(1)]
    pub(super) witness: RemotePath,
    /// What has the path before.
    #[n(2)]
    pub(super) before: Option<WitnessIdentity>,
    /// Path whose version is the answer.
    #[n(3)]
    pub(super) target: Option<RemotePath>,
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct MadeChange {
    #[n(0)]
    pub(super) key: ChangeKey,
    /// Digest of the request.
    #[n(1)]
    pub(super) request: Digest,
    /// When it was made, or began, in seconds since 1970.
    #[n(2)]
    pub(super) time: u64,
    #[n(3)]
    pub(super) outcome: Outcome,
}

/// What tells a file from those before and after it under the same name, also after a restart of the
/// system. So the device doesn't count: its number may be another then, and all files are of one
/// file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct WitnessIdentity {
    #[n(0)]
    pub(super) inode: u64,
    /// When it was created, where the file system knows that: inode numbers are reused at once.
    #[n(1)]
    pub(super) born: Option<Time>,
    /// Last change, for other file systems.
    #[n(2)]
    pub(super) changed: Time,
}

impl WitnessIdentity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.id.inode,
            born: metadata.born,
            changed: metadata.changed,
        }
    }

    /// Whether both are of one file. Without a time of birth, one that was changed counts as another.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_same_birth = match (self.born, other.born) {
            (Some(one), Some(other)) => one == other,
            _ => self.changed == other.changed,
        };
        self.inode == other.inode && is_same_birth
    }
}

/// A record. The last one of a change counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum ChangeRecord {
    /// The change begins.
    #[n(0)]
    Intent(#[n(0)] Intent),
    /// The change was made.
    #[n(1)]
    Made(#[n(0)] MadeChange),
    /// The change failed, and nothing has changed.
    #[n(2)]
    Failed(#[n(0)] ChangeKey),
}

impl ChangeRecord {
    /// Appends the record to `bytes`.
    pub(super) fn append(&self, bytes: &mut Vec<u8>) {
        // Writing to memory doesn't fail.
        let payload = minicbor::to_vec(self).unwrap_or_default();
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_be_bytes());
        bytes.extend(checksum(&payload));
        bytes.extend(payload);
    }
}

/// The records of a file, as far as they are undamaged.
#[derive(Debug, Default)]
pub(super) struct ReadRecords {
    pub(super) records: Vec<ChangeRecord>,
    /// Bytes behind the last record that is undamaged.
    pub(super) damaged: usize,
}

impl ReadRecords {
    /// Reads the content of a file.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut read = Self::default();
        let Some(mut rest) = bytes.strip_prefix(HEADER) else {
            read.damaged = bytes.len().max(1);
            return read;
        };
        while let Some((record, behind)) = parse_one(rest) {
            read.records.push(record);
            rest = behind;
        }
        read.damaged = rest.len();
        read
    }
}

fn parse_one(bytes: &[u8]) -> Option<(ChangeRecord, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length > RECORD_BYTES_MAX {
        return None;
    }
    let (sum, rest) = rest.split_at_checked(CHECKSUM_BYTES)?;
    let (payload, behind) = rest.split_at_checked(length)?;
    if checksum(payload) != sum {
        return None;
    }
    let mut decoder = minicbor::Decoder::new(payload);
    let record = decoder.decode().ok()?;
    (decoder.position() == length).then_some((record, behind))
}

fn checksum(payload: &[u8]) -> Vec<u8> {
    let digest = DigestKind::Blake3.of(payload);
    digest
        .as_bytes()
        .iter()
        .copied()
        .take(CHECKSUM_BYTES)
        .collect()
}

/// Text form of a fingerprint in CBOR.
mod fingerprint {
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};
    use quire_certs::Fingerprint;

    pub(super) fn encode<C, W: Write>(
        fingerprint: &Fingerprint,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.str(&fingerprint.to_string())?;
        Ok(())
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Fingerprint, DecodeError> {
        let parsed = d.str()?.parse();
        parsed.map_err(|_| DecodeError::message("not a fingerprint"))
    }
}

/// What a file of records begins with: what it is, and the version of its format.
pub(super) const HEADER: &[u8] = b"quire changes 1\n";

/// Bytes of a checksum, which tells damage, not forgery.
const CHECKSUM_BYTES: usize = 16;

/// Longest record, in bytes: two paths of full length, and the rest.
pub(super) const RECORD_BYTES_MAX: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::super::tests::{intent, made};
    use super::*;

    fn file(records: &[ChangeRecord]) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        records.iter().for_each(|record| record.append(&mut bytes));
        bytes
    }

    fn some_records() -> [ChangeRecord; 3] {
        let one = intent(1, "a", None);
        let failed = ChangeRecord::Failed(one.change.key);
        [
            ChangeRecord::Intent(one),
            failed,
            ChangeRecord::Made(made(2, 5)),
        ]
    }

    #[test]
    fn records_come_back_as_they_were() {
        let records = some_records();
        let read = ReadRecords::parse(&file(&records));
        assert_eq!(read.records, records);
        assert_eq!(read.damaged, 0);
    }

    #[test]
    fn a_torn_tail_leaves_the_records_before_it() {
        let records = some_records();
        let bytes = file(&records);
        let before_last = file(&records[..2]).len();
        for length in before_last + 1..bytes.len() {
            let read = ReadRecords::parse(&bytes[..length]);
            assert_eq!(read.records, records[..2]);
            assert_eq!(read.damaged, length - before_last);
        }
    }

    #[test]
    fn nothing_counts_from_a_flipped_byte_on() {
        let records = some_records();
        let bytes = file(&records);
        let ends = [0, 1, 2].map(|count| file(&records[..count]).len());
        for position in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            let read = ReadRecords::parse(&flipped);
            let count = ends.iter().filter(|end| **end <= position).count();
            assert_eq!(
                read.records,
                records[..count.saturating_sub(1)],
                "{position}"
            );
            assert!(read.damaged > 0);
        }
    }

    #[test]
    fn a_file_with_the_same_inode_number_is_another_if_it_was_born_later() {
        let time = |seconds| Time {
            seconds,
            nanoseconds: 0,
        };
        let of = |inode, born: Option<i64>, changed| WitnessIdentity {
            inode,
            born: born.map(time),
            changed: time(changed),
        };
        assert!(of(1, Some(5), 6).is_same(&of(1, Some(5), 7)));
        assert!(!of(1, Some(5), 6).is_same(&of(1, Some(6), 6)));
        assert!(!of(1, Some(5), 6).is_same(&of(2, Some(5), 6)));
        assert!(of(1, None, 6).is_same(&of(1, None, 6)));
        assert!(!of(1, None, 6).is_same(&of(1, None, 7)));
    }
}
