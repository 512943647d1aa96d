//! What a comparison says of the permissions and details of two files or directories.

use std::io;

use quire_shared::RemotePath;
use quire_shared::protocol::{Details, NamedId, Preserve};

use super::Comparison;
use crate::details::{self, DetailsFailure, Keep};
use crate::transfer::sync::plan::PlannedMode;
use crate::transfer::sync::side::SyncSide;
use crate::transfer::sync::walk::WalkedEntry;

impl Comparison<'_> {
    /// Compares permission bits and details of two files with the same content.
    pub(super) fn modes(
        &mut self,
        path: RemotePath,
        source: &WalkedEntry,
        target: &WalkedEntry,
    ) -> io::Result<()> {
        let is_exact = self.options.preserve == Preserve::Exact;
        let sets_mode = is_exact && source.mode != target.mode;
        let details = match self.have_same_details(source, target) {
            true => None,
            false => self.told(&path, source),
        };
        if sets_mode || details.is_some() {
            self.plan.modes.push(&PlannedMode {
                path,
                mode: if sets_mode { source.mode } else { target.mode },
                version: target.version.clone(),
                sets_mode,
                details,
            })?;
        }
        Ok(())
    }

    /// Whether the target has the details that are kept of the source.
    pub(super) fn have_same_details(&self, source: &WalkedEntry, target: &WalkedEntry) -> bool {
        if self.options.keep.is_nothing() {
            return true;
        }
        let (Some(source), Some(target)) = (&source.details, &target.details) else {
            return false;
        };
        let is_local = matches!(self.target_side, SyncSide::Local(_));
        let is_same =
            |source: Option<&NamedId>, target: Option<&NamedId>, is_group| match (source, target) {
                (Some(source), Some(target)) if is_local => {
                    details::id_here(source, is_group) == target.id
                }
                (Some(source), Some(target)) => is_same_account(source, target),
                (None, None) => true,
                _ => false,
            };
        source.xattrs.is_some() == self.options.keep.kinds.xattrs
            && source.xattrs == target.xattrs
            && is_same(source.owner.as_ref(), target.owner.as_ref(), false)
            && is_same(source.group.as_ref(), target.group.as_ref(), true)
    }

    /// The details of the source that its copy gets. What can't be told is reported.
    pub(super) fn told(&self, path: &RemotePath, source: &WalkedEntry) -> Option<Box<Details>> {
        let keep: Keep = self.options.keep;
        if keep.is_nothing() {
            return None;
        }
        let details = source.details.clone().unwrap_or_default();
        if !keep.is_told(&details) {
            let name = self.source_side.name_of(path);
            self.transfer.fail(name, DetailsFailure::NotTold.into());
            return None;
        }
        details.boxed()
    }
}

/// Whether an account of the server is the one that an account of the source would become there, as far
/// as its answer tells: the server alone knows all its names.
fn is_same_account(source: &NamedId, target: &NamedId) -> bool {
    match (&source.name, &target.name) {
        (Some(source), Some(target)) => source == target,
        _ => source.id == target.id,
    }
}
