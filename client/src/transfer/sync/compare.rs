//! The comparison of the two sides: one walk through both in step, which makes the plan.
//!
//! Entries come in the order of their names, so each side is read once, and only the directories from
//! the top to the one at hand are in memory.

mod details;
mod files;
mod leave;
mod links;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash};
use std::io;

use quire_shared::protocol::EntryKind;
use quire_shared::{Name, RemotePath};

use super::plan::{PlannedDeletion, PlannedDirectory, PlannedState, SyncPlan, TransferStep};
use super::resolve::spooling;
use super::side::SyncSide;
use super::walk::{LeftDirectory, Walk, WalkItem, WalkedEntry};
use super::{SyncJob, SyncOptions};
use crate::error::ClientError;
use crate::transfer::engine::{SkipReason, Transfer};
use crate::transfer::first_names::{FileKey, FirstNames};
use crate::transfer::links::LinkPolicy;

use files::MetFile;
use links::is_link;

/// A directory that both walks, or one of them, are in.
#[derive(Debug)]
struct ComparedDirectory {
    path: RemotePath,
    source: Option<WalkedEntry>,
    target: Option<WalkedEntry>,
    /// Whether the transfers have entered it.
    is_entered: bool,
    /// Whether something in it changes.
    is_touched: bool,
    /// Whether something in it stays that isn't at the source, so that it can't go as a whole.
    keeps: bool,
    /// Where the records of what is in it begin.
    transfers: u64,
    deletions: u64,
    gone: u64,
    /// How many entries below it are deleted.
    deleted: u64,
    /// Of what is in it, if it is at one side only.
    hash: DefaultHasher,
    /// Whether `hash` is of all that is in it.
    is_pure: bool,
    /// Whether there is a file in it that isn't empty.
    has_content: bool,
}

/// The walk through the source, which exists.
pub(super) struct SourceWalk {
    walk: Walk,
    top: WalkedEntry,
}

impl SourceWalk {
    /// Begins the walk. Blocks, and waits for the network.
    pub(super) fn begin(side: &SyncSide, options: &SyncOptions) -> Result<Self, ClientError> {
        match Walk::begin(
            side,
            options.filter.clone(),
            options.links,
            None,
            options.keep,
        )? {
            (_, None) => Err(side.not_found()),
            (walk, Some(top)) if top.kind == EntryKind::Directory => Ok(Self { walk, top }),
            (_, Some(_)) => Err(side.not_a_directory()),
        }
    }
}

/// Compares two sides. Blocks, and waits for the network.
pub(super) struct Comparison<'a> {
    source_side: &'a SyncSide,
    target_side: &'a SyncSide,
    options: &'a SyncOptions,
    transfer: &'a Transfer,
    source: Walk,
    target: Walk,
    levels: Vec<ComparedDirectory>,
    plan: SyncPlan,
    has_source_entries: bool,
    has_target_entries: bool,
    first_names: FirstNames<FileKey, MetFile>,
}

impl<'a> Comparison<'a> {
    /// Begins to compare the target with the source.
    pub(super) fn begin(
        source: SourceWalk,
        job: &'a SyncJob,
        transfer: &'a Transfer,
    ) -> Result<Self, ClientError> {
        let SyncJob {
            source: source_side,
            target: target_side,
            options,
        } = job;
        let hidden = options.backup_below(target_side);
        // What links at the target lead to is never looked at.
        let links = match options.links {
            LinkPolicy::Keep => LinkPolicy::Keep,
            LinkPolicy::Skip | LinkPolicy::Follow => LinkPolicy::Skip,
        };
        let filter = options.filter.clone();
        let (target, target_top) = Walk::begin(target_side, filter, links, hidden, options.keep)?;
        if target_top
            .as_ref()
            .is_some_and(|top| top.kind != EntryKind::Directory)
        {
            return Err(target_side.not_a_directory());
        }
        let SourceWalk {
            walk: source,
            top: source_top,
        } = source;
        let mut comparison = Self {
            source_side,
            target_side,
            options,
            transfer,
            source,
            target,
            levels: Vec::new(),
            plan: SyncPlan::default(),
            has_source_entries: false,
            has_target_entries: false,
            first_names: FirstNames::default(),
        };
        comparison
            .enter(RemotePath::ROOT, Some(source_top), target_top)
            .map_err(spooling)?;
        Ok(comparison)
    }

    /// Makes the plan.
    pub(super) fn run(mut self) -> Result<SyncPlan, ClientError> {
        while !self.levels.is_empty() {
            self.step()?;
        }
        self.plan.is_source_empty = !self.has_source_entries && self.has_target_entries;
        Ok(self.plan)
    }

    fn step(&mut self) -> Result<(), ClientError> {
        let Some(level) = self.levels.last() else {
            return Ok(());
        };
        let (in_source, in_target) = (level.source.is_some(), level.target.is_some());
        let source = match in_source {
            true => self.source.peek()?.name(),
            false => None,
        };
        let target = match in_target {
            true => self.target.peek()?.name(),
            false => None,
        };
        let order = match (source, target) {
            (None, None) => {
                let source = in_source.then(|| self.source.next()).transpose()?;
                let target = in_target.then(|| self.target.next()).transpose()?;
                let left = |item| match item {
                    Some(WalkItem::Left(left)) => left,
                    _ => LeftDirectory::default(),
                };
                return self.leave(left(source), left(target));
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(source), Some(target)) => source.cmp(target),
        };
        if order.is_le() {
            self.has_source_entries = true;
        }
        if order.is_ge() {
            self.has_target_entries = true;
        }
        let done = match order {
            Ordering::Less => {
                let item = self.source.next()?;
                self.only_source(item)
            }
            Ordering::Greater => {
                let item = self.target.next()?;
                return self.only_target(item);
            }
            Ordering::Equal => {
                let (source, target) = (self.source.next()?, self.target.next()?);
                return self.both(source, target);
            }
        };
        done.map_err(spooling)
    }

    /// The path of an entry of the directory at hand.
    fn join(&self, name: Name) -> RemotePath {
        let path = self.levels.last().map(|level| level.path.join(name));
        // The walks have found that it is a path.
        path.and_then(Result::ok).unwrap_or_default()
    }

    fn only_source(&mut self, item: WalkItem) -> io::Result<()> {
        match item {
            WalkItem::Entry(name, entry) => {
                let path = self.join(name);
                match entry.kind {
                    EntryKind::File => self.file(path, &entry, PlannedState::New, None),
                    EntryKind::Symlink if self.keeps_links() => self.link(path, &entry, None),
                    _ => {
                        self.skip(&path, entry.kind);
                        Ok(())
                    }
                }
            }
            WalkItem::Entered(name, entry) => {
                let path = self.join(name);
                self.enter(path, Some(entry), None)
            }
            WalkItem::Missed(name, error) => {
                self.missed(&name, error);
                Ok(())
            }
            WalkItem::Left(_) => Ok(()),
        }
    }

    fn only_target(&mut self, item: WalkItem) -> Result<(), ClientError> {
        let deletes = self.options.deletion.is_some();
        match item {
            WalkItem::Entry(name, entry) if deletes => {
                let path = self.join(name.clone());
                let deletion = PlannedDeletion::of(path, &entry, 0);
                let is_file = entry.kind == EntryKind::File;
                let planned = self.plan.deletions.push(&deletion);
                let noted = match is_file {
                    true => planned.and_then(|_| self.plan.gone.add_file(&deletion)),
                    false => planned.map(drop),
                };
                noted.map_err(spooling)?;
                if let Some(level) = self.levels.last_mut() {
                    level.deleted += 1;
                    level.is_touched = true;
                    level.is_pure &= is_file;
                    level.add_to_hash(&name, &entry);
                }
            }
            WalkItem::Entered(name, entry) if deletes => {
                let path = self.join(name);
                self.enter(path, None, Some(entry)).map_err(spooling)?;
            }
            WalkItem::Entered(..) => self.target.skip_directory()?,
            WalkItem::Missed(name, error) => {
                if deletes {
                    let path = self.join(name);
                    self.transfer.fail(self.target_side.name_of(&path), error);
                }
                self.keep();
            }
            WalkItem::Entry(..) | WalkItem::Left(_) => {}
        }
        Ok(())
    }

    /// The same name is on both sides.
    fn both(&mut self, source: WalkItem, target: WalkItem) -> Result<(), ClientError> {
        match (source, target) {
            (WalkItem::Missed(name, error), target) => {
                self.missed(&name, error);
                self.pass_target(&target)
            }
            (source, WalkItem::Missed(name, error)) => {
                let path = self.join(name);
                self.transfer.fail(self.target_side.name_of(&path), error);
                self.pass_source(&source)
            }
            (WalkItem::Entered(name, source), WalkItem::Entered(_, target)) => {
                let path = self.join(name);
                let entered = self.enter(path, Some(source), Some(target));
                entered.map_err(spooling)
            }
            (WalkItem::Entry(name, source), WalkItem::Entry(_, target))
                if self.keeps_links() && is_link(&source) && is_link(&target) =>
            {
                let path = self.join(name);
                let compared = self.links(path, &source, &target);
                compared.map_err(spooling)
            }
            (WalkItem::Entry(name, source), target)
                if source.kind != EntryKind::File && !(self.keeps_links() && is_link(&source)) =>
            {
                let path = self.join(name);
                self.skip(&path, source.kind);
                self.pass_target(&target)
            }
            (WalkItem::Entry(name, source), WalkItem::Entry(_, target))
                if source.kind == EntryKind::File && target.kind == EntryKind::File =>
            {
                let path = self.join(name);
                let compared = self.files(path, &source, &target);
                compared.map_err(spooling)
            }
            (source, target) => self.conflict(source, &target),
        }
    }

    /// Two entries of one name of which one can't replace the other.
    fn conflict(&mut self, source: WalkItem, target: &WalkItem) -> Result<(), ClientError> {
        let Some(name) = source.name().cloned() else {
            return Ok(());
        };
        let path = self.join(name);
        if let WalkItem::Entry(_, entry) = &source
            && is_link(entry)
            && let Err(error) = self.confined_target(&path, entry)
        {
            // Nothing is deleted for a link that isn't made.
            self.transfer.fail(self.source_side.name_of(&path), error);
            return self.pass_target(target);
        }
        if self.options.deletion.is_none() {
            let name = self.target_side.name_of(&path);
            self.transfer.fail(name, ClientError::OtherKind);
            self.pass_source(&source)?;
            return self.pass_target(target);
        }
        let below = match target {
            WalkItem::Entered(..) => self.count_target()?,
            _ => 0,
        };
        let planned = match target {
            WalkItem::Entry(_, entry) | WalkItem::Entered(_, entry) => {
                let deletion = PlannedDeletion::of(path, entry, below);
                self.plan.conflicts.push(&deletion)
            }
            WalkItem::Missed(..) | WalkItem::Left(_) => Ok(0),
        };
        let planned = planned.and_then(|_| self.only_source(source));
        planned.map_err(spooling)
    }

    /// Passes over what was found at the target and stays there.
    fn pass_target(&mut self, target: &WalkItem) -> Result<(), ClientError> {
        match target {
            WalkItem::Entered(..) => self.target.skip_directory(),
            _ => Ok(()),
        }
    }

    fn pass_source(&mut self, source: &WalkItem) -> Result<(), ClientError> {
        match source {
            WalkItem::Entered(..) => self.source.skip_directory(),
            _ => Ok(()),
        }
    }

    /// Passes over a directory of the target, and counts what is in it.
    fn count_target(&mut self) -> Result<u64, ClientError> {
        let (mut depth, mut count) = (1_usize, 0);
        while depth > 0 {
            match self.target.next()? {
                WalkItem::Entered(..) => {
                    depth += 1;
                    count += 1;
                }
                WalkItem::Entry(..) | WalkItem::Missed(..) => count += 1,
                WalkItem::Left(_) => depth -= 1,
            }
        }
        Ok(count)
    }

    /// Has the transfers enter the directory at hand, and those above it.
    fn enter_transfers(&mut self) -> io::Result<()> {
        let mut levels = std::mem::take(&mut self.levels);
        let entered = levels
            .iter_mut()
            .try_for_each(|level| self.enter_transfer(level));
        self.levels = levels;
        entered
    }

    fn enter_transfer(&mut self, level: &mut ComparedDirectory) -> io::Result<()> {
        if let Some(source) = level.source.as_ref().filter(|_| !level.is_entered) {
            level.is_entered = true;
            let enter = TransferStep::Enter(PlannedDirectory {
                path: level.path.clone(),
                modified: source.modified,
                mode: source.mode,
                is_new: level.target.is_none(),
                details: match level.target {
                    // It keeps its own until the end.
                    Some(_) => None,
                    None => self.told(&level.path, source),
                },
            });
            self.plan.transfers.push(&enter)?;
        }
        Ok(())
    }

    fn enter(
        &mut self,
        path: RemotePath,
        source: Option<WalkedEntry>,
        target: Option<WalkedEntry>,
    ) -> io::Result<()> {
        let is_new = source.is_some() && target.is_none();
        if let Some(above) = self.levels.last_mut() {
            above.is_touched |= source.is_none() || target.is_none();
        }
        if is_new {
            // So that what follows is the new directory only.
            self.enter_transfers()?;
        }
        let mut hash = DefaultHasher::new();
        if let Some(entry) = source.as_ref().xor(target.as_ref()) {
            entry.details_hash().hash(&mut hash);
        }
        self.levels.push(ComparedDirectory {
            path,
            source,
            target,
            is_entered: false,
            is_touched: false,
            keeps: false,
            transfers: self.plan.transfers.end(),
            deletions: self.plan.deletions.end(),
            gone: self.plan.gone.entries.end(),
            deleted: 0,
            hash,
            is_pure: true,
            has_content: false,
        });
        match is_new {
            true => self.enter_transfers(),
            false => Ok(()),
        }
    }

    /// Something of the source that can't be looked at: what has its name at the target stays.
    fn missed(&mut self, name: &Name, error: ClientError) {
        let path = self.join(name.clone());
        self.transfer.fail(self.source_side.name_of(&path), error);
        if let Some(level) = self.levels.last_mut() {
            level.is_pure = false;
        }
    }

    fn skip(&mut self, path: &RemotePath, kind: EntryKind) {
        let reason = match kind {
            EntryKind::Symlink => SkipReason::SymbolicLink,
            _ => SkipReason::SpecialFile,
        };
        self.transfer.skip(self.source_side.name_of(path), reason);
        if let Some(level) = self.levels.last_mut() {
            level.is_pure = false;
        }
    }

    fn keep(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.keeps = true;
            level.is_pure = false;
        }
    }
}

impl ComparedDirectory {
    fn add_to_hash(&mut self, name: &Name, entry: &WalkedEntry) {
        let WalkedEntry { size, modified, .. } = entry;
        let time = (modified.seconds, modified.nanoseconds);
        (name.as_str(), size, time, entry.details_hash()).hash(&mut self.hash);
        self.has_content |= *size > 0;
    }
}
