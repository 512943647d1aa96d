//! Digest cache: digests of whole files, by file version.
//!
//! Reading a large file for its digest takes seconds, and its version tells whether the file is
//! unchanged. A file that was changed a moment ago may change again without a new version, because
//! timestamps are coarse. So only digests of files that have been left alone are cached.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::Version;

use super::store;

/// Least-recently-used cache of digests.
#[derive(Debug)]
pub(crate) struct DigestCache(Mutex<LruCache<(Version, DigestKind), Digest>>);

impl DigestCache {
    /// Makes an empty cache.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(ENTRIES_MAX)))
    }

    /// Looks up the digest of the whole content of `version`.
    pub(crate) fn get(&self, version: &Version, kind: DigestKind) -> Option<Digest> {
        self.0.lock().get(&(version.clone(), kind)).cloned()
    }

    /// Stores the digest of the whole content of `version`, unless the file changed too recently.
    pub(crate) fn put(&self, version: &Version, kind: DigestKind, digest: &Digest) {
        if store::is_quiet(version) {
            self.0.lock().put((version.clone(), kind), digest.clone());
        }
    }
}

/// Maximum number of entries; at some two hundred bytes each they take less than 1 MiB.
const ENTRIES_MAX: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[cfg(test)]
mod tests {
    use super::super::fixture::version;
    use super::*;

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
    fn a_file_that_may_change_without_a_new_version_is_not_cached() {
        let digests = DigestCache::new();
        let young = version(1, i64::MAX);
        digests.put(&young, DigestKind::Blake3, &digest(1));
        assert_eq!(digests.get(&young, DigestKind::Blake3), None);
    }

    #[test]
    fn the_least_recently_used_digest_is_evicted_first() {
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
