//! The end of a directory in a comparison: what becomes of it as a whole.

use std::hash::{Hash, Hasher};
use std::io;

use quire_shared::protocol::Preserve;

use super::{ComparedDirectory, Comparison};
use crate::error::ClientError;
use crate::transfer::sync::plan::{NewDirectory, PlannedDeletion, PlannedDirectory, TransferStep};
use crate::transfer::sync::resolve::spooling;
use crate::transfer::sync::side::SyncSide;
use crate::transfer::sync::walk::{LeftDirectory, WalkedEntry};

impl Comparison<'_> {
    /// Leaves a directory.
    pub(super) fn leave(
        &mut self,
        source: LeftDirectory,
        target: LeftDirectory,
    ) -> Result<(), ClientError> {
        let Some(mut level) = self.levels.pop() else {
            return Ok(());
        };
        self.report(&level, &source, &target);
        level.is_pure &= source.failure.is_none()
            && source.unnameable.count == 0
            && target.failure.is_none()
            && !target.has_excluded;
        if let Some(failure) = source.failure {
            // Nothing is deleted because a listing doesn't show it.
            self.plan.deletions.truncate(level.deletions);
            self.plan.gone.entries.truncate(level.gone);
            level.deleted = 0;
            self.transfer
                .fail(self.source_side.name_of(&level.path), failure);
        }
        level.keeps |=
            target.failure.is_some() || target.unnameable.count > 0 || target.has_excluded;
        if let Some(failure) = target.failure {
            self.transfer
                .fail(self.target_side.name_of(&level.path), failure);
        }
        let left = match (&level.source, &level.target) {
            (Some(_), None) => self.leave_new(&level),
            (None, Some(target)) => {
                let target = target.clone();
                self.leave_gone(&level, &target)
            }
            _ => self.leave_common(&level),
        };
        left.map_err(spooling)
    }

    /// Reports names that can't be sent.
    fn report(&self, level: &ComparedDirectory, source: &LeftDirectory, target: &LeftDirectory) {
        let report = |side: &SyncSide, left: &LeftDirectory| {
            if left.unnameable.count > 0 {
                let error = ClientError::Unnameable(left.unnameable.clone());
                self.transfer.fail(side.name_of(&level.path), error);
            }
        };
        report(self.source_side, source);
        if self.options.deletion.is_some() {
            report(self.target_side, target);
        }
    }

    /// A directory that is only at the source.
    fn leave_new(&mut self, level: &ComparedDirectory) -> io::Result<()> {
        self.plan.transfers.push(&TransferStep::Leave)?;
        if level.is_pure && level.has_content && self.plan.new_directories.len() < NEW_MAX {
            self.plan.new_directories.push(NewDirectory {
                fingerprint: level.hash.finish(),
                begin: level.transfers,
                end: self.plan.transfers.end(),
            });
        }
        self.add_to_above(level);
        Ok(())
    }

    /// A directory that is only at the target.
    fn leave_gone(&mut self, level: &ComparedDirectory, target: &WalkedEntry) -> io::Result<()> {
        let is_whole = !level.keeps && self.options.backup.is_none();
        if is_whole {
            self.plan.deletions.truncate(level.deletions);
        }
        if !level.keeps {
            let below = if is_whole { level.deleted } else { 0 };
            let deletion = PlannedDeletion::of(level.path.clone(), target, below);
            self.plan.deletions.push(&deletion)?;
            if level.is_pure && level.has_content {
                let fingerprint = level.hash.finish();
                self.plan.gone.add_directory(fingerprint, &deletion)?;
            }
        }
        if let Some(above) = self.levels.last_mut() {
            above.deleted += level.deleted + u64::from(!level.keeps);
            above.keeps |= level.keeps;
        }
        self.add_to_above(level);
        Ok(())
    }

    /// A directory on both sides.
    fn leave_common(&mut self, level: &ComparedDirectory) -> io::Result<()> {
        let Some((source, target)) = level.source.as_ref().zip(level.target.as_ref()) else {
            return Ok(());
        };
        if level.is_entered {
            self.plan.transfers.push(&TransferStep::Leave)?;
        }
        let has_other_details = !self.have_same_details(source, target);
        let details = match has_other_details {
            true => self.told(&level.path, source),
            false => None,
        };
        let differs = level.is_touched
            || source.modified != target.modified
            || (self.options.preserve == Preserve::Exact && source.mode != target.mode);
        let differs = differs && self.options.preserve != Preserve::Nothing;
        if differs || details.is_some() {
            self.plan.directories.push(&PlannedDirectory {
                path: level.path.clone(),
                modified: source.modified,
                mode: source.mode,
                is_new: false,
                details,
            })?;
        }
        Ok(())
    }

    /// Adds a directory that is at one side only to the hash of the one above it.
    fn add_to_above(&mut self, level: &ComparedDirectory) {
        if let Some((above, name)) = self.levels.last_mut().zip(level.path.name()) {
            above.is_pure &= level.is_pure;
            above.has_content |= level.has_content;
            (name.as_str(), level.hash.finish()).hash(&mut above.hash);
        }
    }
}

/// New directories that may be old ones with another name: their table takes a few megabytes. What is
/// beyond is transferred.
const NEW_MAX: usize = 100_000;
