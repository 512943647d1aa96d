//! DigestCache of files, remembered for whoever asks again.
//!
//! Reading a large file for its digest takes seconds, and its version tells whether the file is
//! still the same. A file that was changed a moment ago may change again without another version,
//! so only those that have been left alone are remembered.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::Version;

use super::store;

/// The digests that were asked for last.
#[derive(Debug)]
pub(crate) struct DigestCache(Mutex<LruCache<(Version, DigestKind), Digest>>);

impl DigestCache {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(ENTRIES_MAX)))
    }

    /// The digest of that kind of all the content of `version`, if it is known.
    pub(crate) fn get(&self, version: &Version, kind: DigestKind) -> Option<Digest> {
        self.0.lock().get(&(version.clone(), kind)).cloned()
    }

    /// Remembers a digest of all the content of `version`, if that has been left alone.
    pub(crate) fn put(&self, version: &Version, kind: DigestKind, digest: &Digest) {
        if store::is_quiet(version) {
            self.0.lock().put((version.clone(), kind), digest.clone());
        }
    }
}

/// How many are remembered; at some two hundred bytes each that is less than a mebibyte.
const ENTRIES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[cfg(test)]
mod tests {
    use super::*;

    /// A version of a file that was changed in that second of 1970, as `root` makes them.
    fn version(inode: u64, second: i64) -> Version {
        let mut bytes = [0; 48];
        bytes[8..16].copy_from_slice(&inode.to_be_bytes());
        bytes[24..32].copy_from_slice(&second.to_be_bytes());
        bytes[32..40].copy_from_slice(&second.to_be_bytes());
        Version::new(&bytes).unwrap()
    }

    fn digest(byte: u8) -> Digest {
        let mut hasher = DigestKind::Xxh3.hasher();
        hasher.update(&[byte]);
        hasher.finish()
    }

    #[test]
    fn a_digest_belongs_to_one_version_and_one_kind() {
        let digests = DigestCache::new();
        digests.put(&version(1, 10), DigestKind::Blake3, &digest(1));
        let get = |inode, second, kind| digests.get(&version(inode, second), kind);
        assert_eq!(get(1, 10, DigestKind::Blake3), Some(digest(1)));
        assert_eq!(get(1, 10, DigestKind::Xxh3), None);
        assert_eq!(get(1, 11, DigestKind::Blake3), None, "the file was changed");
        assert_eq!(get(2, 10, DigestKind::Blake3), None);
    }

    #[test]
    fn a_file_that_may_change_unnoticed_is_not_remembered() {
        let digests = DigestCache::new();
        let young = version(1, i64::MAX);
        digests.put(&young, DigestKind::Blake3, &digest(1));
        assert_eq!(digests.get(&young, DigestKind::Blake3), None);
    }

    #[test]
    fn what_was_asked_for_longest_ago_is_forgotten_first() {
        let digests = DigestCache::new();
        let all = ENTRIES_MAX.get() as u64 + 1;
        for inode in 0..all {
            digests.put(&version(inode, 1), DigestKind::Xxh3, &digest(1));
            assert!(digests.get(&version(0, 1), DigestKind::Xxh3).is_some());
        }
        assert!(digests.get(&version(1, 1), DigestKind::Xxh3).is_none());
        assert!(digests.get(&version(2, 1), DigestKind::Xxh3).is_some());
    }
}
