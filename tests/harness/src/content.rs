//! File contents that identify themselves, and a comparison that explains a difference.
//!
//! A content begins with its seed, and the rest follows from the seed. So a receiver can tell that a
//! content is complete and of one version without knowing which was sent.

use quire_shared::Side;
use quire_shared::chunks::{Chunk, ChunkParameters, Chunker};
use quire_shared::digest::DigestKind;
use quire_transport::flow::windows::stream_window;

/// Sizes around every buffer boundary: pieces grow from 64 KiB to 512 KiB, and a few MiB exceed the
/// read-ahead and a stream's window.
pub const SIZES: &[usize] = &[
    0,
    1,
    7,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    512 * KIB - 1,
    512 * KIB,
    512 * KIB + 1,
    5 * KIB * KIB + 3,
];

/// More than a client's windows and the server's read-ahead hold together: a few MiB stay on the
/// server's disk while the client doesn't read.
pub const LARGE: usize = stream_window(Side::Client) as usize + 8 * KIB * KIB;

/// A kibibyte.
pub const KIB: usize = 1024;

/// `len` bytes that follow from `seed`; the seed is at their beginning as far as it fits.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + size_of::<u64>());
    bytes.extend_from_slice(&seed.to_be_bytes());
    let mut state = seed;
    while bytes.len() < len {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        bytes.extend_from_slice(&mix(state).to_be_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The chunks of `bytes`, cut in one piece.
pub fn chunks_of(bytes: &[u8]) -> Vec<Chunk> {
    let mut chunker = Chunker::new(ChunkParameters::for_size(bytes.len() as u64).unwrap());
    let mut chunks = Vec::new();
    chunker.push(bytes, |chunk, _| chunks.push(chunk));
    chunker.finish(|chunk, _| chunks.push(chunk));
    chunks
}

/// Pseudorandom numbers from a seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next number, of 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// The next number, below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next_u64() % bound as u64).unwrap()
    }

    /// A random element of `all`.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// The mixing function of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The seed of `bytes`, if they are one complete content.
pub fn seed_of(bytes: &[u8]) -> Option<u64> {
    let seed = u64::from_be_bytes(*bytes.first_chunk()?);
    (content(seed, bytes.len()) == bytes).then_some(seed)
}

/// Fails unless both are the same, and reports how much and from where on they differ.
#[track_caller]
pub fn assert_same(got: impl AsRef<[u8]>, want: impl AsRef<[u8]>) {
    let (got, want) = (got.as_ref(), want.as_ref());
    if got == want {
        return;
    }
    let digest = |bytes: &[u8]| {
        let mut hasher = DigestKind::Xxh3.hasher();
        hasher.update(bytes);
        hasher.finish()
    };
    let first = got.iter().zip(want).position(|(got, want)| got != want);
    panic!(
        "not the same: {} bytes with digest {} instead of {} bytes with digest {}, {}",
        got.len(),
        digest(got),
        want.len(),
        digest(want),
        match first {
            Some(at) => format!("different from byte {at} on"),
            None => "the same as far as both go".to_owned(),
        }
    );
}

#[test]
fn a_content_says_which_it_is() {
    assert_eq!(seed_of(&content(7, 100_000)), Some(7));
    assert_ne!(content(7, 100), content(8, 100));
    let mut mixed = content(7, 100_000);
    mixed[50_000..].copy_from_slice(&content(8, 100_000)[50_000..]);
    assert_eq!(seed_of(&mixed), None);
}
