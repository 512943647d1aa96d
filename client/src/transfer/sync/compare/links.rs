//! Symbolic links in a comparison, where they are kept.

use std::io;

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, LinkTarget, Stat};
use tokio::runtime::Handle;

use super::Comparison;
use crate::error::ClientError;
use crate::transfer::links::{LinkPolicy, read_target};
use crate::transfer::sync::plan::{PlannedDeletion, PlannedLink, PlannedState, TransferStep};
use crate::transfer::sync::side::{SyncSide, joined_path, local_path};
use crate::transfer::sync::walk::WalkedEntry;

impl Comparison<'_> {
    pub(super) fn keeps_links(&self) -> bool {
        self.options.links == LinkPolicy::Keep
    }

    /// Compares two links.
    pub(super) fn links(
        &mut self,
        path: RemotePath,
        source: &WalkedEntry,
        target: &WalkedEntry,
    ) -> io::Result<()> {
        let is_same = source.target.is_some() && source.target == target.target;
        match is_same {
            true => {
                self.plan.same.add(0);
                Ok(())
            }
            false => self.link(path, source, Some(target)),
        }
    }

    /// Plans that a link is made, in the place of `target` if that is one. One that isn't made is
    /// reported, and what is at the target stays.
    pub(super) fn link(
        &mut self,
        path: RemotePath,
        source: &WalkedEntry,
        target: Option<&WalkedEntry>,
    ) -> io::Result<()> {
        if let Some(level) = self.levels.last_mut() {
            // A directory with links isn't one that only has another name: their targets aren't in
            // its fingerprint.
            level.is_pure = false;
        }
        let text = match self.confined_target(&path, source) {
            Ok(text) => text,
            Err(error) => {
                self.transfer.fail(self.source_side.name_of(&path), error);
                return Ok(());
            }
        };
        if target.is_some_and(|target| target.target.as_ref() == Some(&text)) {
            self.plan.same.add(0);
            return Ok(());
        }
        self.enter_transfers()?;
        if let Some(level) = self.levels.last_mut() {
            level.is_touched = true;
        }
        let mut replaces = target;
        if let Some(old) = target.filter(|_| self.options.backup.is_some()) {
            // It is moved to the backup, since links aren't copied.
            let deletion = PlannedDeletion::of(path.clone(), old, 0);
            self.plan.conflicts.push(&deletion)?;
            replaces = None;
        }
        let link = PlannedLink {
            path,
            target: text,
            modified: source.modified,
            state: match replaces {
                Some(_) => PlannedState::Changed,
                None => PlannedState::New,
            },
            replaces: replaces.and_then(|target| target.version.clone()),
        };
        self.plan.transfers.push(&TransferStep::Link(link))?;
        Ok(())
    }

    /// The target of a link, unless it would lead out of the target of the sync or, on a server, of
    /// all that it serves.
    pub(super) fn confined_target(
        &self,
        path: &RemotePath,
        source: &WalkedEntry,
    ) -> Result<LinkTarget, ClientError> {
        let target = match (&source.target, self.source_side) {
            (Some(target), _) => target.clone(),
            (None, SyncSide::Local(directory)) => read_target(&local_path(directory, path)?)?,
            // A server of an earlier version has to be asked.
            (None, SyncSide::Server(client, directory)) => {
                let path = joined_path(directory, path)?;
                let found = Handle::current().block_on(client.stat(Stat::of(path)))?;
                found.target.ok_or(ClientError::NoLinkTarget)?
            }
        };
        let (above, place) = match self.target_side {
            SyncSide::Local(_) => (0, "the directory that is synced"),
            SyncSide::Server(_, directory) => (directory.names().len(), "the served directory"),
        };
        let depth = (above + path.names().len()).saturating_sub(1);
        match target.stays_within(depth) {
            true => Ok(target),
            false => Err(ClientError::LinkLeadsOut { place, target }),
        }
    }
}

pub(super) fn is_link(entry: &WalkedEntry) -> bool {
    entry.kind == EntryKind::Symlink
}
