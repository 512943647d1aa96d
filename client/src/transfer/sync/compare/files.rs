//! Files in a comparison: which are transferred, and which only get other permissions.

use std::io;

use quire_shared::RemotePath;

use super::Comparison;
use crate::transfer::first_names::FileKey;
use crate::transfer::sync::plan::{PlannedFile, PlannedState, TransferStep};
use crate::transfer::sync::walk::WalkedEntry;

impl Comparison<'_> {
    /// Compares two files.
    pub(super) fn files(
        &mut self,
        path: RemotePath,
        source: &WalkedEntry,
        target: &WalkedEntry,
    ) -> io::Result<()> {
        let state = match source.size == target.size {
            false => PlannedState::Changed,
            // What has other details is transferred, because digests say nothing of them.
            true if self.options.checksum && self.have_same_details(source, target) => {
                PlannedState::Unknown
            }
            true if self.options.checksum => PlannedState::Changed,
            true if source.modified == target.modified => {
                if !self.lacks_name(&path, source, target) {
                    self.plan.same.add(source.size);
                    return self.modes(path, source, target);
                }
                PlannedState::Changed
            }
            true => PlannedState::Changed,
        };
        self.file(path, source, state, Some(target))
    }

    /// Whether a file that has the content of the source is not yet another name of the file that it
    /// is another name of there.
    fn lacks_name(
        &mut self,
        path: &RemotePath,
        source: &WalkedEntry,
        target: &WalkedEntry,
    ) -> bool {
        let Some(key) = source.key.as_ref().filter(|_| self.options.hard_links) else {
            return false;
        };
        match self.first_names.get(key) {
            Some(first) => first.at_target.is_none() || first.at_target != target.key,
            None => {
                let first = MetFile {
                    path: path.clone(),
                    at_target: target.key.clone(),
                };
                self.first_names.insert(key.clone(), first, self.transfer);
                false
            }
        }
    }

    /// Plans the transfer of a file.
    pub(super) fn file(
        &mut self,
        path: RemotePath,
        source: &WalkedEntry,
        state: PlannedState,
        target: Option<&WalkedEntry>,
    ) -> io::Result<()> {
        let (is_first, other_of) = self.place_among_names(&path, source);
        let state = match (&other_of, state) {
            // Its content is that of the first.
            (Some(_), PlannedState::Unknown) => PlannedState::Changed,
            (_, state) => state,
        };
        self.enter_transfers()?;
        if let Some((level, name)) = self.levels.last_mut().zip(path.name()) {
            level.is_touched = true;
            level.add_to_hash(name, source);
            // A directory that is renamed as a whole doesn't get names of files elsewhere.
            level.is_pure &= other_of.is_none();
        }
        self.plan.bytes += source.size;
        self.plan.has_unknown |= state == PlannedState::Unknown;
        self.plan.transfers.push(&TransferStep::File(PlannedFile {
            path,
            size: source.size,
            modified: source.modified,
            mode: source.mode,
            state,
            replaces: target.and_then(|target| target.version.clone()),
            details: source.details_hash(),
            replaced: target
                .filter(|target| target.key.is_some())
                .map(|target| (target.size, target.modified)),
            is_first,
            other_of,
        }))?;
        Ok(())
    }

    /// Whether a file to be transferred is the first name of one with several, or another name of
    /// which.
    fn place_among_names(
        &mut self,
        path: &RemotePath,
        source: &WalkedEntry,
    ) -> (bool, Option<RemotePath>) {
        let Some(key) = source.key.as_ref().filter(|_| self.options.hard_links) else {
            return (false, None);
        };
        match self.first_names.get(key) {
            Some(first) => (false, Some(first.path.clone())),
            None => {
                let first = MetFile {
                    path: path.clone(),
                    at_target: None,
                };
                let has_room = self.first_names.insert(key.clone(), first, self.transfer);
                (has_room, None)
            }
        }
    }
}

/// A file with several names at the source.
#[derive(Debug)]
pub(super) struct MetFile {
    /// The name under which it was met first.
    path: RemotePath,
    /// What tells it from others at the target, if it is there already and has several names.
    at_target: Option<FileKey>,
}
