//! One-way synchronization of two directories.

mod between_servers;
mod refusals;
mod trees;
mod word_for_word;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use quire_client::transfer::sync::{
    Filter, FilterBuilder, SyncDeletion, SyncJob, SyncOptions, SyncReport, SyncSide, SyncStep,
};
use quire_client::transfer::{GiveUp, Transfer, TransferEvent};
use quire_client::{Client, RemotePath};
use quire_shared::protocol::EntryKind;

/// What is compared of an entry: kind, permission bits, modification time, and content.
type State = (&'static str, u32, (i64, i64), Vec<u8>);

/// All that is below a directory, by its path.
fn snapshot(directory: &Path) -> BTreeMap<String, State> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
            let (kind, content) = match &metadata {
                _ if metadata.is_dir() => ("directory", Vec::new()),
                _ if metadata.is_file() => ("file", fs::read(&path).unwrap()),
                _ => ("other", Vec::new()),
            };
            let time = (metadata.mtime(), metadata.mtime_nsec());
            let state = (kind, metadata.mode() & 0o777, time, content);
            found.insert(name.to_owned(), state);
            if metadata.is_dir() {
                waiting.push(path);
            }
        }
    }
    found
}

/// The paths of a snapshot.
fn paths(snapshot: &BTreeMap<String, State>) -> Vec<&str> {
    snapshot.keys().map(String::as_str).collect()
}

/// How a sync of a test ended.
#[derive(Debug)]
pub(crate) struct Synced {
    pub(crate) steps: Vec<SyncStep>,
    pub(crate) failures: Vec<String>,
    pub(crate) moved: u64,
    report: Arc<SyncReport>,
}

impl Synced {
    /// The steps as they are shown.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |step: &SyncStep| {
            let (action, path) = (step.action.name(), step.path.to_relative());
            let slash = match step.kind {
                EntryKind::Directory => "/",
                _ => "",
            };
            match &step.from {
                Some(from) => format!("{action} {}{slash} {path}{slash}", from.to_relative()),
                None => format!("{action} {path}{slash}"),
            }
        };
        self.steps.iter().map(line).collect()
    }
}

/// Options of a sync that deletes.
pub(crate) fn deleting() -> SyncOptions {
    SyncOptions {
        deletion: Some(SyncDeletion::default()),
        ..SyncOptions::default()
    }
}

/// A filter of these rules.
fn rules(lines: &[&str]) -> Arc<Filter> {
    let mut builder = FilterBuilder::default();
    for line in lines {
        builder.add(line).unwrap();
    }
    Arc::new(builder.build().unwrap())
}

pub(crate) fn local(path: &Path) -> SyncSide {
    SyncSide::Local(path.to_owned())
}

pub(crate) fn server(client: &Client, path: &str) -> SyncSide {
    SyncSide::Server(client.clone(), RemotePath::parse(path).unwrap())
}

pub(crate) async fn sync(source: SyncSide, target: SyncSide, options: SyncOptions) -> Synced {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&failures);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            log.lock().unwrap().push(format!("{name}: {error}"));
        }
    });
    let steps = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&steps);
    let report = SyncReport::new(Arc::clone(&transfer), move |step| {
        log.lock().unwrap().push(step.clone());
    });
    let job = SyncJob {
        source,
        target,
        options,
    };
    job.run(&GiveUp, &report).await;
    transfer.give_up();
    let failures = failures.lock().unwrap().clone();
    let steps = steps.lock().unwrap().clone();
    Synced {
        steps,
        failures,
        moved: transfer.moved(),
        report,
    }
}

/// As [`sync`], which must succeed.
pub(crate) async fn succeed(source: SyncSide, target: SyncSide, options: SyncOptions) -> Synced {
    let synced = sync(source, target, options).await;
    assert_eq!(synced.failures, Vec::<String>::new());
    synced
}
