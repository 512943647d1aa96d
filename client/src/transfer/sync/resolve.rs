//! What a comparison of sizes and times leaves open: files that only have another name, and files whose
//! contents are to be compared. Both sides compute digests, and no content moves.

use std::collections::{HashMap, HashSet};
use std::io;

use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;

use super::plan::{FileCount, PlannedDeletion, PlannedFile, PlannedState, SyncPlan, TransferStep};
use super::side::{SyncSide, joined_path};
use super::spool::SpoolReader;
use crate::error::ClientError;
use crate::transfer::jobs::AtOnce;
use crate::upload::Links;

/// Something that gets another name at the target instead of being transferred.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) from: RemotePath,
    pub(super) to: RemotePath,
    pub(super) is_directory: bool,
    /// How many entries it has at the target, itself included.
    entries: u64,
    /// Its files, and their bytes.
    pub(super) content: FileCount,
}

/// What was found out.
#[derive(Debug, Default)]
pub(super) struct ResolvedNames {
    pub(super) moves: Vec<Move>,
    /// The old names of what is moved, and whether each is of a directory.
    moved: HashMap<RemotePath, bool>,
    /// How many entries are moved out of each directory.
    moved_below: HashMap<RemotePath, u64>,
    /// Where the steps of files begin that aren't transferred.
    passed: HashSet<u64>,
    /// Where the steps of directories begin that aren't transferred, and where they end.
    ranges: HashMap<u64, u64>,
    /// Files with the same digest on both sides.
    pub(super) same: FileCount,
}

impl ResolvedNames {
    fn is_below_moved(&self, path: &RemotePath) -> bool {
        let mut above = path.parent();
        while let Some(path) = above {
            if self.moved.get(&path) == Some(&true) {
                return true;
            }
            above = path.parent();
        }
        false
    }

    /// Bytes that aren't transferred, of what was planned to be.
    pub(super) fn spared(&self) -> u64 {
        let moved = self.moves.iter().map(|moved| moved.content.bytes);
        self.same.bytes + moved.sum::<u64>()
    }

    /// How many entries are deleted: none that are moved.
    pub(super) fn count(&self, deletion: &PlannedDeletion) -> u64 {
        let has_moved = self.moved.contains_key(&deletion.path);
        if has_moved || self.is_below_moved(&deletion.path) {
            return 0;
        }
        let moved = self.moved_below.get(&deletion.path).copied();
        1 + deletion.below.saturating_sub(moved.unwrap_or(0))
    }

    fn add(&mut self, moved: Move) {
        let mut above = moved.from.parent();
        while let Some(path) = above {
            above = path.parent();
            *self.moved_below.entry(path).or_default() += moved.entries;
        }
        self.moved.insert(moved.from.clone(), moved.is_directory);
        self.moves.push(moved);
    }
}

/// Reads the steps that are left.
#[derive(Debug)]
pub(super) struct StepReader<'a> {
    steps: &'a mut SpoolReader<TransferStep>,
    resolved: &'a ResolvedNames,
}

impl<'a> StepReader<'a> {
    /// Begins with the first step.
    pub(super) fn new(
        steps: &'a mut SpoolReader<TransferStep>,
        resolved: &'a ResolvedNames,
    ) -> io::Result<Self> {
        steps.rewind()?;
        Ok(Self { steps, resolved })
    }

    /// The next step, and where it begins; nothing at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, TransferStep)>> {
        loop {
            let begin = self.steps.position();
            if let Some(end) = self.resolved.ranges.get(&begin) {
                self.steps.skip_to(*end)?;
                continue;
            }
            let Some(step) = self.steps.next()? else {
                return Ok(None);
            };
            if !self.resolved.passed.contains(&begin) {
                return Ok(Some((begin, step)));
            }
        }
    }
}

/// Finds out what is open in a plan.
pub(super) struct Resolver<'a> {
    pub(super) source: &'a SyncSide,
    pub(super) target: &'a SyncSide,
    pub(super) digest: DigestKind,
    /// What a link at the source is.
    pub(super) links: Links,
}

/// Two files whose digests are to be compared.
#[derive(Debug, Clone)]
struct FilePair {
    source: RemotePath,
    target: RemotePath,
    /// Where the step of the file begins.
    begin: u64,
    size: u64,
    /// Whether the one at the target has another name.
    is_move: bool,
}

impl Resolver<'_> {
    /// Finds out what is open.
    pub(super) async fn run(
        &self,
        plan: &mut SyncPlan,
        steps: &mut SpoolReader<TransferStep>,
    ) -> Result<ResolvedNames, ClientError> {
        let mut resolved = ResolvedNames::default();
        self.directories(plan, steps, &mut resolved).await?;
        self.files(plan, steps, &mut resolved).await?;
        Ok(resolved)
    }

    /// Finds directories that have another name, the outer ones first.
    async fn directories(
        &self,
        plan: &mut SyncPlan,
        steps: &mut SpoolReader<TransferStep>,
        resolved: &mut ResolvedNames,
    ) -> Result<(), ClientError> {
        let found = std::mem::take(&mut plan.new_directories);
        // What is in the directory that was moved last comes right after it.
        let mut begin_of_last = u64::MAX;
        for new in found.into_iter().rev() {
            if new.begin >= begin_of_last {
                continue;
            }
            let gone = plan
                .gone
                .take_directory(new.fingerprint)
                .map_err(spooling)?;
            // One that something is moved out of isn't the same any more.
            let is_there = |gone: &PlannedDeletion| {
                !resolved.is_below_moved(&gone.path)
                    && !resolved.moved_below.contains_key(&gone.path)
            };
            let Some(gone) = gone.filter(is_there) else {
                continue;
            };
            let range = (new.begin, new.end);
            if let Some(moved) = self.same_directory(steps, range, &gone).await? {
                resolved.add(moved);
                resolved.ranges.insert(new.begin, new.end);
                begin_of_last = new.begin;
            }
        }
        Ok(())
    }

    /// Compares the contents of the files of a new directory and of one that is gone.
    async fn same_directory(
        &self,
        steps: &mut SpoolReader<TransferStep>,
        range: (u64, u64),
        gone: &PlannedDeletion,
    ) -> Result<Option<Move>, ClientError> {
        steps.skip_to(range.0).map_err(spooling)?;
        let mut top = None;
        let mut content = FileCount::default();
        let mut pairs = AtOnce::new(PAIRS_AT_ONCE);
        while steps.position() < range.1
            && let Some(step) = steps.next().map_err(spooling)?
        {
            match (&top, step) {
                (None, TransferStep::Enter(directory)) => top = Some(directory.path),
                (Some(top), TransferStep::File(file)) => {
                    content.add(file.size);
                    let below = file.path.strip_prefix(top).unwrap_or_default();
                    let target = joined_path(&gone.path, &below)?;
                    let pair = FilePair {
                        source: file.path,
                        target,
                        begin: 0,
                        size: file.size,
                        is_move: true,
                    };
                    let ended = pairs.add(self.compare(pair)).await;
                    if ended.is_some_and(|(_, is_same)| !is_same) {
                        return Ok(None);
                    }
                }
                _ => {}
            }
        }
        while let Some((_, is_same)) = pairs.next().await {
            if !is_same {
                return Ok(None);
            }
        }
        Ok(top.map(|to| Move {
            from: gone.path.clone(),
            to,
            is_directory: true,
            entries: 1 + gone.below,
            content,
        }))
    }

    /// Finds files that have another name, and compares those that may be the same.
    async fn files(
        &self,
        plan: &mut SyncPlan,
        steps: &mut SpoolReader<TransferStep>,
        resolved: &mut ResolvedNames,
    ) -> Result<(), ClientError> {
        if plan.gone.has_no_files() && !plan.has_unknown {
            return Ok(());
        }
        let mut reader = StepReader::new(steps, resolved).map_err(spooling)?;
        let mut pairs = AtOnce::new(PAIRS_AT_ONCE);
        let mut found = FoundFiles::default();
        while let Some((begin, step)) = reader.next().map_err(spooling)? {
            let TransferStep::File(file) = step else {
                continue;
            };
            if let Some(pair) = open_pair(plan, resolved, file, begin)? {
                found.add(pairs.add(self.compare(pair)).await);
            }
        }
        while let Some(pair) = pairs.next().await {
            found.add(Some(pair));
        }
        resolved.same = found.same;
        resolved.passed = found.passed;
        for moved in found.moves {
            resolved.add(moved);
        }
        Ok(())
    }
}

/// Files that aren't transferred.
#[derive(Debug, Default)]
struct FoundFiles {
    moves: Vec<Move>,
    passed: HashSet<u64>,
    same: FileCount,
}

impl FoundFiles {
    fn add(&mut self, ended: Option<(FilePair, bool)>) {
        let Some((pair, true)) = ended else {
            return;
        };
        if pair.is_move && self.moves.len() >= MOVES_MAX {
            return;
        }
        self.passed.insert(pair.begin);
        match pair.is_move {
            false => self.same.add(pair.size),
            true => self.moves.push(Move {
                from: pair.target,
                to: pair.source,
                is_directory: false,
                entries: 1,
                content: FileCount {
                    files: 1,
                    bytes: pair.size,
                },
            }),
        }
    }
}

/// The pair to be compared for a planned file, if there is one.
fn open_pair(
    plan: &mut SyncPlan,
    resolved: &ResolvedNames,
    file: PlannedFile,
    begin: u64,
) -> Result<Option<FilePair>, ClientError> {
    if file.other_of.is_some() {
        return Ok(None);
    }
    let is_move = file.state == PlannedState::New;
    let target = match file.state {
        PlannedState::Changed => None,
        PlannedState::Unknown => Some(file.path.clone()),
        PlannedState::New => {
            let gone = plan.gone.take_file(&file).map_err(spooling)?;
            let gone = gone.filter(|gone| !resolved.is_below_moved(&gone.path));
            gone.map(|gone| gone.path)
        }
    };
    Ok(target.map(|target| FilePair {
        source: file.path,
        target,
        begin,
        size: file.size,
        is_move,
    }))
}

impl Resolver<'_> {
    /// Compares the digests of two files.
    fn compare(&self, pair: FilePair) -> impl Future<Output = (FilePair, bool)> + Send + 'static {
        let (source, target, digest) = (self.source.clone(), self.target.clone(), self.digest);
        let links = self.links;
        async move {
            let (source, target) = tokio::join!(
                source.digest(&pair.source, digest, links),
                target.digest(&pair.target, digest, Links::Refuse)
            );
            // What can't be compared is transferred, and tells why it can't be.
            let is_same = matches!((source, target), (Ok(source), Ok(target)) if source == target);
            (pair, is_same)
        }
    }
}

/// The error if a list can't be read or written.
pub(super) fn spooling(error: io::Error) -> ClientError {
    ClientError::disk(&std::env::temp_dir(), "keep a list in", error)
}

/// Pairs that are compared at once: as many as hide the round trips of small files.
const PAIRS_AT_ONCE: usize = 32;

/// Renames in one run: their table takes some ten megabytes. What is beyond is transferred.
const MOVES_MAX: usize = 50_000;
