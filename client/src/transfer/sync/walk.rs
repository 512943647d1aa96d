//! A walk through one side of a sync, in the order of the names' bytes: both sides go in step.

mod local;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use quire_shared::path::Unnameable;
use quire_shared::protocol::{
    Attributes, Details, Entry, EntryKind, LinkTarget, Time, TreeItem, Version,
};
use quire_shared::{ErrorCode, Name, RemotePath};
use tokio::runtime::Handle;

use super::filter::Filter;
use super::side::SyncSide;
use crate::details::Keep;
use crate::error::ClientError;
use crate::transfer::description::Description;
use crate::transfer::first_names::FileKey;
use crate::transfer::links::LinkPolicy;

/// A step of a walk.
#[derive(Debug)]
pub(super) enum WalkItem {
    /// A file, or another entry that is no directory.
    Entry(Name, WalkedEntry),
    /// A directory: what follows is in it, up to its `Left`.
    Entered(Name, WalkedEntry),
    /// An entry that can't be looked at.
    Missed(Name, ClientError),
    /// The end of the current directory.
    Left(LeftDirectory),
}

/// What is compared of a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WalkedEntry {
    pub(super) kind: EntryKind,
    /// The size of a file, in bytes; 0 for everything else.
    pub(super) size: u64,
    pub(super) modified: Time,
    pub(super) mode: u32,
    /// The version on a server.
    pub(super) version: Option<Version>,
    /// The details that are kept. What can't be told of them is absent.
    pub(super) details: Option<Box<Details>>,
    /// The target of a symbolic link, as far as the walk tells it.
    pub(super) target: Option<LinkTarget>,
    /// What tells a file with several names from others.
    pub(super) key: Option<FileKey>,
}

impl WalkedEntry {
    /// What a server has told, of which `keep` says what counts.
    fn told(attributes: Attributes, keep: Keep) -> Self {
        let details = attributes.details;
        Self {
            details: details.and_then(|details| keep.pick(*details).boxed()),
            kind: attributes.kind,
            size: attributes.size,
            modified: attributes.modified,
            mode: attributes.mode,
            version: Some(attributes.version),
            target: attributes.target,
            key: attributes.hard_link.map(FileKey::Server),
        }
    }

    /// A hash of the details, equal where they are the same. Accounts count by name, if they have one.
    pub(super) fn details_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Some(details) = &self.details {
            for account in [&details.owner, &details.group] {
                let name = account.as_ref().map(|account| &account.name);
                let id = account.as_ref().map(|account| account.id);
                (name, id.filter(|_| name.is_none_or(Option::is_none))).hash(&mut hasher);
            }
            details.xattrs.hash(&mut hasher);
        }
        hasher.finish()
    }
}

/// What is known at the end of a directory.
#[derive(Debug, Default)]
pub(super) struct LeftDirectory {
    /// Why the rest of it is missing, if it is.
    pub(super) failure: Option<ClientError>,
    /// Entries that can't be named.
    pub(super) unnameable: Unnameable,
    /// Whether it has entries that the filter keeps out of the walk.
    pub(super) has_excluded: bool,
}

impl WalkItem {
    /// The name of what was found; none at the end of the directory.
    pub(super) fn name(&self) -> Option<&Name> {
        match self {
            Self::Entry(name, _) | Self::Entered(name, _) | Self::Missed(name, _) => Some(name),
            Self::Left(_) => None,
        }
    }
}

/// A walk through the directory of one side, which must not be used in an asynchronous thread.
#[derive(Debug)]
pub(super) struct Walk {
    source: WalkSource,
    ready: VecDeque<WalkItem>,
    filter: Arc<Filter>,
    keep: Keep,
    /// Left out whatever the filter says.
    hidden: Option<RemotePath>,
    /// The directory at hand.
    path: RemotePath,
    /// For each directory that was entered, whether something in it was left out.
    has_excluded: Vec<bool>,
}

#[derive(Debug)]
enum WalkSource {
    /// Nothing: the directory doesn't exist.
    Nothing,
    Local(Receiver<Vec<WalkItem>>),
    Server(Box<Description>, Handle),
}

impl Walk {
    /// Begins a walk, and returns the attributes of the directory; none if it doesn't exist. `hidden` is
    /// left out. `links` says whether local links are followed.
    pub(super) fn begin(
        side: &SyncSide,
        filter: Arc<Filter>,
        links: LinkPolicy,
        hidden: Option<RemotePath>,
        keep: Keep,
    ) -> Result<(Self, Option<WalkedEntry>), ClientError> {
        let (source, top) = match side {
            SyncSide::Local(path) => local_source(path.clone(), &filter, links, keep)?,
            SyncSide::Server(client, path) => {
                let runtime = Handle::current();
                let opening = Description::open(client.connection(), path.clone(), keep.kinds);
                match runtime.block_on(opening) {
                    Ok((description, attributes)) => {
                        let source = WalkSource::Server(Box::new(description), runtime);
                        (source, Some(WalkedEntry::told(attributes, keep)))
                    }
                    Err(error) if error.code() == Some(ErrorCode::NOT_FOUND) => {
                        (WalkSource::Nothing, None)
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        let mut ready = VecDeque::new();
        if top.is_none() {
            ready.push_back(WalkItem::Left(LeftDirectory::default()));
        }
        let walk = Self {
            source,
            ready,
            filter,
            keep,
            hidden,
            path: RemotePath::ROOT,
            has_excluded: vec![false],
        };
        Ok((walk, top))
    }

    /// A walk through these items.
    #[cfg(test)]
    pub(super) fn of_items(items: Vec<WalkItem>) -> Self {
        Self {
            source: WalkSource::Nothing,
            ready: items.into(),
            filter: Arc::default(),
            keep: Keep::default(),
            hidden: None,
            path: RemotePath::ROOT,
            has_excluded: vec![false],
        }
    }

    /// The next step, without going on.
    pub(super) fn peek(&mut self) -> Result<&WalkItem, ClientError> {
        self.fill()?;
        self.ready.front().ok_or(ClientError::Truncated)
    }

    /// Goes on by a step.
    pub(super) fn next(&mut self) -> Result<WalkItem, ClientError> {
        self.fill()?;
        let mut item = self.ready.pop_front().ok_or(ClientError::Truncated)?;
        match &mut item {
            WalkItem::Entry(..) | WalkItem::Missed(..) => {}
            WalkItem::Entered(name, _) => {
                let path = self.path.join(name.clone());
                self.path = path.map_err(ClientError::RemotePath)?;
                self.has_excluded.push(false);
            }
            WalkItem::Left(left) => {
                left.has_excluded |= self.has_excluded.pop().unwrap_or_default();
                self.path = self.path.parent().unwrap_or_default();
            }
        }
        Ok(item)
    }

    /// Passes over a directory that was just entered.
    pub(super) fn skip_directory(&mut self) -> Result<(), ClientError> {
        let depth = self.has_excluded.len();
        while self.has_excluded.len() >= depth {
            self.next()?;
        }
        Ok(())
    }

    /// Makes the next step that isn't left out ready.
    fn fill(&mut self) -> Result<(), ClientError> {
        loop {
            let Some(item) = self.ready.front() else {
                self.ready = self.source.next(self.keep)?.into();
                if self.ready.is_empty() {
                    return Err(ClientError::Truncated);
                }
                continue;
            };
            let is_directory = matches!(item, WalkItem::Entered(..));
            let name = match item {
                WalkItem::Entry(name, _) | WalkItem::Entered(name, _) => name.clone(),
                WalkItem::Missed(..) | WalkItem::Left(_) => return Ok(()),
            };
            let instead = match self.path.join(name.clone()) {
                Ok(path) if self.leaves_out(&path, is_directory) => {
                    tracing::debug!(%path, "excluded");
                    if let Some(excluded) = self.has_excluded.last_mut() {
                        *excluded = true;
                    }
                    None
                }
                Ok(_) => return Ok(()),
                Err(rule) => Some(WalkItem::Missed(name, ClientError::RemotePath(rule))),
            };
            self.ready.pop_front();
            if is_directory {
                self.drop_directory()?;
            }
            if let Some(missed) = instead {
                self.ready.push_front(missed);
            }
        }
    }

    fn leaves_out(&self, path: &RemotePath, is_directory: bool) -> bool {
        self.hidden.as_ref() == Some(path) || self.filter.excludes(path, is_directory)
    }

    /// Drops what is in a directory whose entry was taken.
    fn drop_directory(&mut self) -> Result<(), ClientError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match self.ready.pop_front() {
                Some(WalkItem::Entered(..)) => depth += 1,
                Some(WalkItem::Left(_)) => depth -= 1,
                Some(WalkItem::Entry(..) | WalkItem::Missed(..)) => {}
                None => {
                    self.ready = self.source.next(self.keep)?.into();
                    if self.ready.is_empty() {
                        return Err(ClientError::Truncated);
                    }
                }
            }
        }
        Ok(())
    }
}

impl WalkSource {
    /// The next items, none at the end.
    fn next(&mut self, keep: Keep) -> Result<Vec<WalkItem>, ClientError> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Local(items) => Ok(items.recv().unwrap_or_default()),
            Self::Server(description, runtime) => {
                let items = runtime.block_on(description.next())?;
                let items = items.into_iter().map(|item| of_server(item, keep));
                Ok(items.collect())
            }
        }
    }
}

/// Begins to walk through a local directory in a thread of its own.
fn local_source(
    path: PathBuf,
    filter: &Arc<Filter>,
    links: LinkPolicy,
    keep: Keep,
) -> Result<(WalkSource, Option<WalkedEntry>), ClientError> {
    let Some(top) = local::directory(&path, keep)? else {
        return Ok((WalkSource::Nothing, None));
    };
    let items = local::begin(path, Arc::clone(filter), links, keep);
    Ok((WalkSource::Local(items), Some(top)))
}

fn of_server(item: TreeItem, keep: Keep) -> WalkItem {
    let told = |attributes| WalkedEntry::told(attributes, keep);
    match item {
        TreeItem::Described(Entry { name, attributes })
        | TreeItem::Enclosed(Entry { name, attributes }) => WalkItem::Entry(name, told(attributes)),
        TreeItem::Entered(Entry { name, attributes }) => WalkItem::Entered(name, told(attributes)),
        TreeItem::Missed(missed) => {
            WalkItem::Missed(missed.name, ClientError::of_failure(missed.failure))
        }
        TreeItem::Left(left) => WalkItem::Left(LeftDirectory {
            failure: left.failure.map(ClientError::of_failure),
            unnameable: Unnameable {
                count: left.unnameable,
                names: left.raw_names,
            },
            has_excluded: false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use quire_shared::limits::PATH_COMPONENTS_MAX;

    use super::*;

    #[test]
    fn what_is_too_deep_for_a_path_is_missed_and_the_rest_goes_on() {
        let top = tempfile::tempdir().unwrap();
        let deepest = "d/".repeat(PATH_COMPONENTS_MAX);
        std::fs::create_dir_all(top.path().join(&deepest)).unwrap();
        std::fs::write(top.path().join(&deepest).join("f"), "").unwrap();
        std::fs::write(top.path().join("z"), "").unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        let side = SyncSide::Local(top.path().to_owned());
        let (links, keep) = (LinkPolicy::Skip, Keep::default());
        let (mut walk, _) = Walk::begin(&side, Arc::default(), links, None, keep).unwrap();
        let mut missed = Vec::new();
        let mut last = None;
        loop {
            match walk.next().unwrap() {
                WalkItem::Missed(name, _) => missed.push(name.as_str().to_owned()),
                WalkItem::Entry(name, _) => last = Some(name.as_str().to_owned()),
                WalkItem::Entered(..) => {}
                WalkItem::Left(_) if walk.has_excluded.is_empty() => break,
                WalkItem::Left(_) => {}
            }
        }
        assert_eq!((missed, last), (vec!["f".to_owned()], Some("z".to_owned())));
    }
}
