//! Content-defined chunks of a file, from which two versions of it are compared.
//!
//! The cuts depend on the bytes around them, so that an insertion moves chunks without changing
//! them. Both ends have to cut alike: the parameters travel with a list of chunks, and the crate that
//! finds the cuts is pinned. A chunk is known by its BLAKE3, and by nothing that the crate computes.
//! See PROTOCOL.md, "Delta transfers".

use std::fmt;

use fastcdc::v2020::{self, Normalization};
use minicbor::{Decode, Encode};

/// How a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChunkParameters {
    /// The algorithm: [`ALGORITHM`] is the only one so far.
    #[n(0)]
    pub algorithm: u8,
    /// The shortest chunk but the last, in bytes; even, as are the next two.
    #[n(1)]
    pub min: u32,
    /// The length around which chunks are, in bytes.
    #[n(2)]
    pub average: u32,
    /// The longest chunk, in bytes.
    #[n(3)]
    pub max: u32,
}

impl ChunkParameters {
    /// Returns how a file of `size` bytes is cut; `None` if it is too large to be compared.
    pub fn for_size(size: u64) -> Option<Self> {
        if size > CHUNKED_BYTES_MAX {
            return None;
        }
        let mut average = match size {
            0..LARGE_FILE_BYTES => AVERAGE_SMALL,
            _ => AVERAGE_LARGE,
        };
        while size / u64::from(average) > CHUNKS_EXPECTED_MAX {
            average *= 2;
        }
        Some(Self {
            algorithm: ALGORITHM,
            min: average / SPREAD,
            average,
            max: average * SPREAD,
        })
    }

    /// Whether this version can cut a file in this way.
    pub fn is_known(&self) -> bool {
        let Self {
            algorithm,
            min,
            average,
            max,
        } = *self;
        let is_even = [min, average, max].iter().all(|length| length % 2 == 0);
        let is_ordered = AVERAGE_SMALL / SPREAD <= min && min < average && average < max;
        let is_small = average <= AVERAGE_MAX && max <= AVERAGE_MAX * SPREAD;
        algorithm == ALGORITHM && is_even && is_ordered && is_small
    }

    /// Returns the length of the first chunk of `bytes`, which are all that is left of a file, or at
    /// least [`max`](Self::max).
    fn cut(&self, bytes: &[u8]) -> usize {
        let (mask_s, mask_l) = v2020::select_masks(self.average as usize, NORMALIZATION);
        let (_, length) = v2020::cut(
            bytes,
            self.min as usize,
            self.average as usize,
            self.max as usize,
            mask_s,
            mask_l,
            mask_s << 1,
            mask_l << 1,
        );
        length
    }
}

/// What a chunk is known by: the BLAKE3 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkId([u8; ID_BYTES]);

impl ChunkId {
    /// Computes what `bytes` are known by.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Its length, in bytes.
    pub length: u32,
    /// What it is known by.
    pub id: ChunkId,
}

/// Cuts a file whose bytes are pushed piece by piece. Holds at most a few times
/// [`max`](ChunkParameters::max) bytes.
#[derive(Debug)]
pub struct Chunker {
    parameters: ChunkParameters,
    bytes: Vec<u8>,
    /// How many of `bytes` have been cut off.
    start: usize,
}

impl Chunker {
    /// Starts at the beginning of a file, or at a cut.
    pub fn new(parameters: ChunkParameters) -> Self {
        Self {
            parameters,
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// Adds `piece`, and passes each chunk that is complete with its bytes to `found`.
    pub fn push(&mut self, piece: &[u8], mut found: impl FnMut(Chunk, &[u8])) {
        self.bytes.extend_from_slice(piece);
        while self.rest().len() >= self.parameters.max as usize {
            self.cut(&mut found);
        }
        // Not each time, so that long chunks aren't moved for each short piece.
        if self.start > self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Ends the file, and passes its last chunks to `found`.
    pub fn finish(mut self, mut found: impl FnMut(Chunk, &[u8])) {
        while !self.rest().is_empty() {
            self.cut(&mut found);
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    fn cut(&mut self, found: &mut impl FnMut(Chunk, &[u8])) {
        let length = self.parameters.cut(self.rest());
        let bytes = self.rest().get(..length).unwrap_or_default();
        let chunk = Chunk {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            id: ChunkId::of(bytes),
        };
        found(chunk, bytes);
        // At least one, so that it ends whatever is cut.
        self.start += length.max(1);
    }
}

/// Chunks as they travel: of each its length, in four bytes in network byte order, and what it is
/// known by.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PackedChunks(Vec<u8>);

impl PackedChunks {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / PACKED_BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chunks.
    pub fn iter(&self) -> impl Iterator<Item = Chunk> + '_ {
        let (packed, _) = self.0.as_chunks::<PACKED_BYTES>();
        packed.iter().filter_map(|bytes| {
            let (length, id) = bytes.split_first_chunk()?;
            Some(Chunk {
                length: u32::from_be_bytes(*length),
                id: ChunkId(*id.first_chunk()?),
            })
        })
    }
}

impl FromIterator<Chunk> for PackedChunks {
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Self {
        let mut packed = Vec::new();
        for chunk in chunks {
            packed.extend_from_slice(&chunk.length.to_be_bytes());
            packed.extend_from_slice(&chunk.id.0);
        }
        Self(packed)
    }
}

impl fmt::Debug for PackedChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackedChunks({})", self.len())
    }
}

impl<C> Encode<C> for PackedChunks {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for PackedChunks {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let packed = d.bytes()?;
        match packed.len().is_multiple_of(PACKED_BYTES) {
            true => Ok(Self(packed.to_vec())),
            false => Err(minicbor::decode::Error::message("not a list of chunks")),
        }
    }
}

/// FastCDC as of 2020, with normalization level 1 and without a seed.
pub const ALGORITHM: u8 = 1;

/// Length of a chunk's entry in a list, in bytes.
pub const PACKED_BYTES: usize = size_of::<u32>() + ID_BYTES;

/// Largest file that is compared by chunks, in bytes: with the longest chunks that the algorithm
/// knows it has as many as are expected of any file.
pub const CHUNKED_BYTES_MAX: u64 = CHUNKS_EXPECTED_MAX * AVERAGE_MAX as u64;

/// Most chunks of a file: an end that holds a list needs some 100 MiB for it at worst, and less than
/// half a MiB for each GiB of a usual file.
pub const CHUNKS_MAX: u64 = CHUNKS_EXPECTED_MAX * SPREAD as u64 + 1;

/// Most chunks of a file as it is expected: where there would be more, chunks are longer.
const CHUNKS_EXPECTED_MAX: u64 = 256 * 1024;

/// Size from which a file is cut into longer chunks, in bytes.
const LARGE_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Average chunk of a smaller file, in bytes: the list has half a thousandth of the file's size.
const AVERAGE_SMALL: u32 = 64 * 1024;

/// Average chunk of a larger file, in bytes: a change costs some hundred KiB, the list an eighth of a
/// thousandth.
const AVERAGE_LARGE: u32 = 256 * 1024;

/// Longest average that the algorithm knows, in bytes.
const AVERAGE_MAX: u32 = 4 * 1024 * 1024;

/// How often the shortest chunk goes into the average one, and that into the longest.
const SPREAD: u32 = 4;

/// How much cuts are drawn to the average; the paper's recommendation.
const NORMALIZATION: Normalization = Normalization::Level1;

/// Length of a BLAKE3, in bytes.
const ID_BYTES: usize = 32;

const _: () = assert!(AVERAGE_MAX as usize <= v2020::AVERAGE_MAX);
const _: () = assert!((AVERAGE_MAX * SPREAD) as usize <= v2020::MAXIMUM_MAX);
const _: () = assert!((AVERAGE_SMALL / SPREAD) as usize >= v2020::MINIMUM_MIN);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    /// Bytes without a pattern, the same for the same seed.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut reader = blake3::Hasher::new()
            .update(&seed.to_be_bytes())
            .finalize_xof();
        let mut bytes = vec![0; length];
        reader.fill(&mut bytes);
        bytes
    }

    /// The chunks of `bytes`, pushed in pieces of `piece` bytes.
    fn chunks(bytes: &[u8], piece: usize) -> Vec<Chunk> {
        let parameters = ChunkParameters::for_size(bytes.len() as u64).unwrap();
        let mut chunker = Chunker::new(parameters);
        let mut chunks = Vec::new();
        let mut whole = Vec::new();
        let mut found = |chunk: Chunk, of: &[u8]| {
            assert_eq!(chunk.length as usize, of.len());
            whole.extend_from_slice(of);
            chunks.push(chunk);
        };
        for piece in bytes.chunks(piece) {
            chunker.push(piece, &mut found);
        }
        chunker.finish(&mut found);
        assert_eq!(whole, bytes);
        chunks
    }

    // P54
    #[test]
    fn the_cuts_of_known_bytes_stay_where_they_are() {
        let bytes = noise(MIB, 1);
        let found = chunks(&bytes, MIB);
        let lengths: Vec<_> = found.iter().map(|chunk| chunk.length).collect();
        assert_eq!(lengths, KNOWN_LENGTHS);
        let first = format!("{:?}", found[0].id);
        let expected = blake3::hash(&bytes[..KNOWN_LENGTHS[0] as usize]);
        assert_eq!(first, expected.to_hex().as_str());
        // Without any cut that depends on the content.
        let zeros = chunks(&vec![0; MIB], MIB);
        assert!(zeros.iter().all(|chunk| chunk.length == 256 * 1024));
    }

    /// The lengths of the chunks of 1 MiB of noise. A change of these is a new algorithm, with a
    /// number of its own: chunks that ends of different versions cut would have nothing in common.
    const KNOWN_LENGTHS: [u32; 14] = [
        59602, 24641, 89585, 89879, 80683, 51495, 66384, 20561, 87883, 78356, 109_746, 16466,
        42576, 230_719,
    ];

    #[test]
    fn cuts_depend_on_the_content_alone() {
        let bytes = noise(3 * MIB + 1, 2);
        let whole = chunks(&bytes, bytes.len());
        for piece in [1 << 12, 100_003, MIB] {
            assert_eq!(chunks(&bytes, piece), whole);
        }
        let parameters = ChunkParameters::for_size(0).unwrap();
        let (last, others) = whole.split_last().unwrap();
        assert!(last.length <= parameters.max);
        for chunk in others {
            assert!((parameters.min..=parameters.max).contains(&chunk.length));
        }
        assert!(chunks(&[], 1).is_empty());
        assert_eq!(chunks(b"x", 1).len(), 1);
    }

    #[test]
    fn data_that_is_shifted_keeps_its_chunks() {
        let bytes = noise(8 * MIB, 3);
        let before = chunks(&bytes, MIB);
        let middle = bytes.len() / 2;
        for inserted in [1, 333, MIB] {
            let new = [&bytes[..middle], &noise(inserted, 4), &bytes[middle..]].concat();
            let after = chunks(&new, MIB);
            let kept = before.iter().filter(|chunk| after.contains(chunk)).count();
            assert!(kept + 6 >= before.len(), "{kept} of {}", before.len());
        }
    }

    #[test]
    fn larger_files_have_longer_chunks_and_no_more_than_a_bound() {
        let average = |size| ChunkParameters::for_size(size).map(|found| found.average);
        assert_eq!(average(0), Some(64 * 1024));
        assert_eq!(average((64 << 20) - 1), Some(64 * 1024));
        assert_eq!(average(64 << 20), Some(256 * 1024));
        assert_eq!(average(64 << 30), Some(256 * 1024));
        assert_eq!(average(65 << 30), Some(512 * 1024));
        assert_eq!(average(1 << 40), Some(4 << 20));
        assert_eq!(average((1 << 40) + 1), None);
        for shift in 0..=40 {
            let size = 1 << shift;
            let found = ChunkParameters::for_size(size).unwrap();
            assert!(found.is_known());
            assert!(size.div_ceil(u64::from(found.min)) <= CHUNKS_MAX);
        }
    }

    #[test]
    fn parameters_that_cut_otherwise_are_not_known() {
        let known = ChunkParameters::for_size(0).unwrap();
        let others = [
            ChunkParameters {
                algorithm: 2,
                ..known
            },
            ChunkParameters {
                min: known.min + 1,
                ..known
            },
            ChunkParameters { min: 2, ..known },
            ChunkParameters {
                max: known.average,
                ..known
            },
            ChunkParameters {
                max: u32::MAX - 1,
                ..known
            },
            ChunkParameters {
                average: known.min,
                ..known
            },
        ];
        for other in others {
            assert!(!other.is_known(), "{other:?}");
        }
    }
}
