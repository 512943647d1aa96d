//! Files with several names: one name is transferred, and the others become names of what came of it.
//!
//! The table of such files is bounded; what has no room in it is transferred for each of its names.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quire_shared::RemotePath;
use quire_shared::protocol::{HardLinkId, Time, Version};
use tokio_util::sync::CancellationToken;

use super::engine::Transfer;
use crate::local_file::LocalId;

/// What tells the files of one side from each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FileKey {
    Local(LocalId),
    Server(HardLinkId),
}

/// The name that is transferred of a file with several.
#[derive(Debug)]
pub(super) struct FirstName {
    pub(super) remote: RemotePath,
    pub(super) local: PathBuf,
    /// Whether it was found to be there already, so that nothing is known of its version.
    pub(super) is_standing: bool,
    /// Set when it is known what became of it.
    known: CancellationToken,
    /// The version that the file has on the server, if it has arrived.
    version: Mutex<Option<Version>>,
    /// Held while the file gets another name, which gives it another version.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl FirstName {
    fn new(remote: RemotePath, local: PathBuf, is_standing: bool) -> Self {
        Self {
            remote,
            local,
            is_standing,
            known: CancellationToken::new(),
            version: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// One that is going to be transferred. Its fate is that of the guard.
    pub(super) fn transferred(remote: RemotePath, local: PathBuf) -> (Arc<Self>, FirstNameGuard) {
        let first = Arc::new(Self::new(remote, local, false));
        (Arc::clone(&first), FirstNameGuard(first))
    }

    /// One that is there already.
    pub(super) fn standing(remote: RemotePath, local: PathBuf) -> Arc<Self> {
        let first = Self::new(remote, local, true);
        first.known.cancel();
        Arc::new(first)
    }

    /// Waits until it is known what became of it.
    pub(super) async fn known(&self) {
        self.known.cancelled().await;
    }

    /// The version that the file has on the server; none if it hasn't arrived, or stood there.
    pub(super) fn version(&self) -> Option<Version> {
        self.lock().clone()
    }

    /// Notes the version that it has by now.
    pub(super) fn set_version(&self, version: Version) {
        *self.lock() = Some(version);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Version>> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Belongs to the transfer of a first name. Without [`arrived`](Self::arrived), it has failed.
#[derive(Debug)]
pub(super) struct FirstNameGuard(Arc<FirstName>);

impl FirstNameGuard {
    /// Notes that it has arrived, or was there already, in this version.
    pub(super) fn arrived(&self, version: &Version) {
        self.0.set_version(version.clone());
    }
}

impl Drop for FirstNameGuard {
    fn drop(&mut self) {
        self.0.known.cancel();
    }
}

/// What a file is, among those with several names.
#[derive(Debug)]
pub(super) enum NameOfFile {
    /// It has one name, or is transferred as if.
    Alone,
    /// The first of its names.
    First(FirstNameGuard),
    /// Another name.
    Other(OtherName),
}

/// Another name of a file.
#[derive(Debug)]
pub(super) struct OtherName {
    pub(super) first: Arc<FirstName>,
    /// Size and time of what has the name at the target now, as they were seen, if that has other names
    /// itself.
    pub(super) replaces: Option<(u64, Time)>,
}

/// The table of the files with several names that a walk has met.
#[derive(Debug)]
pub(super) struct FirstNames<K, F> {
    table: HashMap<K, F>,
    is_full: bool,
}

impl<K, F> Default for FirstNames<K, F> {
    fn default() -> Self {
        Self {
            table: HashMap::new(),
            is_full: false,
        }
    }
}

impl<K: Hash + Eq, F> FirstNames<K, F> {
    /// The file that was met under another name.
    pub(super) fn get(&self, key: &K) -> Option<&F> {
        self.table.get(key)
    }

    /// Notes a file that was met for the first time; whether there is room for it. That there is none
    /// is told once.
    pub(super) fn insert(&mut self, key: K, first: F, transfer: &Transfer) -> bool {
        let has_room = self.table.len() < FIRST_NAMES_MAX;
        if has_room {
            self.table.insert(key, first);
        } else if !self.is_full {
            self.is_full = true;
            transfer.tell_links_full(FIRST_NAMES_MAX);
        }
        has_room
    }
}

impl FirstNames<FileKey, Arc<FirstName>> {
    /// What a file is that has several names at the source.
    pub(super) fn name_of(
        &mut self,
        key: FileKey,
        (remote, local): (&RemotePath, PathBuf),
        transfer: &Transfer,
    ) -> NameOfFile {
        if let Some(first) = self.get(&key) {
            return NameOfFile::Other(OtherName {
                first: Arc::clone(first),
                replaces: None,
            });
        }
        let (first, guard) = FirstName::transferred(remote.clone(), local);
        match self.insert(key, first, transfer) {
            true => NameOfFile::First(guard),
            false => NameOfFile::Alone,
        }
    }
}

/// Files with several names that a walk remembers: their table takes some ten megabytes. What is beyond
/// becomes a file of its own for each name.
const FIRST_NAMES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bounded_and_what_is_beyond_is_alone() {
        let told = Arc::new(Mutex::new(0));
        let log = Arc::clone(&told);
        let transfer = Transfer::new(move |event| {
            if matches!(event, super::super::engine::TransferEvent::LinksFull(_)) {
                *log.lock().unwrap() += 1;
            }
        });
        let mut names = FirstNames::<usize, usize>::default();
        for number in 0..FIRST_NAMES_MAX + 3 {
            let has_room = names.insert(number, number, &transfer);
            assert_eq!(has_room, number < FIRST_NAMES_MAX);
        }
        assert_eq!(names.table.len(), FIRST_NAMES_MAX);
        assert_eq!(*told.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn the_fate_of_a_first_name_is_known_when_its_guard_is_gone() {
        let (first, guard) = FirstName::transferred(RemotePath::ROOT, "f".into());
        guard.arrived(&Version::new(b"1").unwrap());
        drop(guard);
        first.known().await;
        assert_eq!(first.version().unwrap().as_bytes(), b"1");
        let (lost, guard) = FirstName::transferred(RemotePath::ROOT, "f".into());
        drop(guard);
        lost.known().await;
        assert_eq!(lost.version(), None);
    }
}
