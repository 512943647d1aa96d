//! Where extents are found, and which a receiver takes.

use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;
use crate::loopback::Loopback;
use quire_shared::digest::DigestKind;

const MIB: u64 = 1024 * 1024;
const KIB: u64 = 1024;

/// A file of `size` bytes that has 7s from each offset on, for so many bytes.
fn sparse(size: u64, islands: &[(u64, u64)]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    for (offset, length) in islands {
        let data = vec![7; usize::try_from(*length).unwrap()];
        file.write_all_at(&data, *offset).unwrap();
    }
    file
}

/// All extents of a file from `position` on.
fn extents(file: &File, position: u64) -> Vec<(u64, u64)> {
    let end = file.metadata().unwrap().len();
    let mut found = Vec::new();
    let mut next = position;
    while next < end {
        let extent = Extent::find(file, next, end);
        assert!(extent.length() > 0);
        next += extent.length();
        found.push((extent.data, extent.hole));
    }
    assert_eq!(next, end.max(position));
    found
}

/// Whether the file system of temporary files tells of holes.
fn holes_are_told() -> bool {
    let file = sparse(MIB, &[]);
    file.metadata().unwrap().blocks() == 0 && extents(&file, 0) == [(0, MIB)]
}

#[test]
fn extents_are_found_and_short_holes_are_passed_over() {
    if !holes_are_told() {
        return;
    }
    let file = sparse(8 * MIB, &[(MIB, 64 * KIB), (MIB + 96 * KIB, 32 * KIB)]);
    let island = 128 * KIB;
    assert_eq!(extents(&file, 0), [(0, MIB), (island, 7 * MIB - island)]);
    assert_eq!(extents(&file, 8 * MIB - 1), [(1, 0)]);
    assert_eq!(extents(&file, 8 * MIB), []);
    assert!(has_holes(&file, 8 * MIB));
    assert!(may_have_holes(8 * MIB, 128 * KIB) && !may_have_holes(MIB, 0));
    let dense = sparse(MIB, &[(0, MIB)]);
    assert_eq!(extents(&dense, 5), [(MIB - 5, 0)]);
    assert!(!has_holes(&dense, MIB));
}

#[test]
fn a_file_of_short_holes_is_looked_at_in_steps() {
    if !holes_are_told() {
        return;
    }
    let step = 8 * KIB;
    let islands: Vec<_> = (0..3000).map(|number| (number * step, step / 2)).collect();
    let file = sparse(3000 * step, &islands);
    let found = extents(&file, 0);
    assert!(found.len() < 5, "{found:?}");
    let is_long = |(data, hole): &(u64, u64)| *hole == 0 && *data >= EXTENT_BYTES_MIN;
    assert!(found.iter().all(is_long), "{found:?}");
}

#[test]
fn an_extent_is_as_long_as_the_rest_or_not_too_short() {
    let decode = |data, hole, rest| {
        let header = Extent { data, hole }.header();
        Extent::decode(header[..].try_into().unwrap(), rest).is_ok()
    };
    let min = EXTENT_BYTES_MIN;
    for (data, hole, rest) in [(1, 0, 1), (0, 1, 1), (min, 0, MIB), (1, min - 1, MIB)] {
        assert!(decode(data, hole, rest), "{data} {hole} {rest}");
    }
    for (data, hole, rest) in [
        (0, 0, 1),
        (0, 0, MIB),
        (min - 1, 0, MIB),
        (0, min - 1, MIB),
        (MIB, 1, MIB),
        (0, MIB + 1, MIB),
        (u64::MAX, MIB + 1, MIB),
        (u64::MAX, u64::MAX, u64::MAX),
    ] {
        assert!(!decode(data, hole, rest), "{data} {hole} {rest}");
    }
}

// P58, P59
#[tokio::test]
async fn a_file_arrives_with_its_holes() {
    if !holes_are_told() {
        return;
    }
    let size = 40 * MIB + 3;
    let file = Arc::new(sparse(size, &[(MIB, 3 * MIB), (35 * MIB, 1)]));
    let moved = AtomicU64::new(0);
    let target = tempfile::tempfile().unwrap();
    let reopened = target.try_clone().unwrap();
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        let hasher = DigestKind::Blake3.hasher();
        let reader = ExtentReader::new(Arc::clone(&file), 0, size, hasher);
        let digest = send_extents(&mut sender, reader, &moved).await.unwrap();
        sender.finish().unwrap();
        let _ = receiver.expect_end().await;
        digest
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        let sink = SparseTarget(target.try_clone().unwrap());
        let hasher = DigestKind::Blake3.hasher();
        let count = AtomicU64::new(0);
        let received = receive_extents(&mut receiver, sink, size, hasher, &count).await;
        receiver.expect_end().await.unwrap();
        sender.finish().unwrap();
        received.unwrap()
    };
    let (sent, received) = Loopback::connect().await.talk(client, server).await;
    assert_eq!((sent, size), (received.digest.clone(), received.length));
    assert_eq!(moved.into_inner(), size);
    let mut bytes = Vec::new();
    (&reopened).seek(SeekFrom::Start(0)).unwrap();
    (&reopened).read_to_end(&mut bytes).unwrap();
    assert_eq!(received.digest, DigestKind::Blake3.of(&bytes));
    assert_eq!(extents(&reopened, 0), extents(&file, 0));
}

/// A file that is written.
#[derive(Debug)]
struct SparseTarget(File);

impl Write for SparseTarget {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HoleWrite for SparseTarget {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        leave_hole(&mut self.0, bytes)
    }
}

#[tokio::test]
async fn a_file_that_becomes_shorter_is_reported() {
    let file = Arc::new(sparse(4 * MIB, &[(MIB, 3 * MIB)]));
    let mut reader = ExtentReader::new(Arc::clone(&file), 0, 4 * MIB, DigestKind::Xxh3.hasher());
    file.set_len(2 * MIB).unwrap();
    let failed = async {
        while reader.extent().await?.is_some() {
            while reader.next(usize::MAX).await?.is_some() {}
        }
        Ok::<_, io::Error>(())
    };
    let error = failed.await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert!(reader.digest().is_none());
}
