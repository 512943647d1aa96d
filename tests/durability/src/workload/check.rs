//! Compares the state after the end with the states that are allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Node, NodesByName, Plan, PlannedStep, SHARED, below};
use quire_test_harness::content::{content, seed_of};

/// Violations found on a disk.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files that are no complete version of any content.
    pub(crate) torn: Vec<String>,
    /// Names that differ from the state after the acknowledged steps.
    pub(crate) missing: Vec<String>,
    /// Unanswered renames that left both names.
    pub(crate) two_names: Vec<String>,
}

impl Found {
    /// Whether there is no violation.
    pub(crate) fn is_nothing(&self) -> bool {
        self.torn.is_empty() && self.missing.is_empty() && self.two_names.is_empty()
    }
}

impl Plan {
    /// Compares the files below `root` with the state after `acknowledged` steps.
    pub(crate) fn check(&self, root: &Path, acknowledged: u64, found: &mut Found) {
        let before = usize::try_from(acknowledged).unwrap();
        self.compare(root, before, (before + 1).min(self.steps.len()), found);
    }

    /// Compares the files below `root` with the state before the first step.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn check_untouched(&self, root: &Path, found: &mut Found) {
        self.compare(root, 0, 0, found);
    }

    /// Compares the files below `root` with the state after `before` steps, or that after `after`.
    fn compare(&self, root: &Path, before: usize, after: usize, found: &mut Found) {
        let mut there = BTreeMap::new();
        read(root, "", &mut there);
        let prefixes = [
            format!("{SHARED}/w{}-", self.worker),
            format!("w{}", self.worker),
        ];
        there.retain(|name, _| {
            name.starts_with(&prefixes[0])
                || *name == prefixes[1]
                || name.starts_with(&format!("{}/", prefixes[1]))
        });
        let (old, new) = (&self.states[before], &self.states[after]);
        let names: BTreeSet<_> = old.keys().chain(new.keys()).chain(there.keys()).collect();
        let wrong = |state: &NodesByName| -> Vec<&String> {
            let is_wrong = |name: &&&String| !same(there.get(**name), state.get(**name));
            names.iter().filter(is_wrong).copied().collect()
        };
        let wrong = match self.steps.get(before) {
            Some(step) if !step.is_atomic() => {
                let (old, new) = (wrong(old), wrong(new));
                old.into_iter().filter(|name| new.contains(name)).collect()
            }
            _ if wrong(new).is_empty() => Vec::new(),
            _ if wrong(old).is_empty() => Vec::new(),
            Some(step @ PlannedStep::Rename(from, _))
                if wrong(&both(old, new, from)).is_empty() =>
            {
                found
                    .two_names
                    .push(format!("{step:?} after {before} steps"));
                Vec::new()
            }
            _ => wrong(old),
        };
        for name in wrong {
            let (last, next) = (before.checked_sub(1), self.steps.get(before));
            let last = last.and_then(|last| self.steps.get(last));
            let is_there = there.contains_key(name);
            let text = format!(
                "{name} (is there: {is_there}) after {before} steps, the last {last:?}, perhaps {next:?}"
            );
            match there.get(name) {
                Some(Some(bytes)) if !self.is_whole(bytes) => {
                    found.torn.push(format!("{text}: {} bytes", bytes.len()));
                }
                _ => found.missing.push(text),
            }
        }
    }

    /// Whether these bytes are a content of one of the steps.
    fn is_whole(&self, bytes: &[u8]) -> bool {
        match seed_of(bytes) {
            Some(seed) => self.lengths.get(&seed) == Some(&bytes.len()),
            // Too short for its seed.
            None => self
                .lengths
                .iter()
                .any(|(seed, len)| *len == bytes.len() && content(*seed, *len) == bytes),
        }
    }
}

/// `new`, with the nodes at and below `from` in `old` still there.
fn both(old: &NodesByName, new: &NodesByName, from: &str) -> NodesByName {
    let left = below(old, from).into_iter();
    let left = left.map(|(below, node)| (format!("{from}{below}"), node));
    new.clone().into_iter().chain(left).collect()
}

/// The names below `directory`, with the bytes of files. Staged files don't count, because no client
/// knows of them.
fn read(directory: &Path, above: &str, there: &mut BTreeMap<String, Option<Vec<u8>>>) {
    let entries = std::fs::read_dir(directory);
    let entries = match entries.and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) => {
            // As with a file, see below: a node that no step stored.
            let name = format!("{above}what can't be read");
            there.insert(name, Some(error.to_string().into()));
            return;
        }
    };
    for entry in entries {
        let name = entry.file_name().into_string().unwrap();
        if name == quire_test_harness::server::STAGING || name == "lost+found" {
            continue;
        }
        let name = format!("{above}{name}");
        if entry.file_type().unwrap().is_dir() {
            read(&entry.path(), &format!("{name}/"), there);
            there.insert(name, None);
        } else {
            // An unreadable file is no complete version either.
            let bytes =
                std::fs::read(entry.path()).unwrap_or_else(|error| error.to_string().into());
            there.insert(name, Some(bytes));
        }
    }
}

fn same(there: Option<&Option<Vec<u8>>>, wanted: Option<&Node>) -> bool {
    match (there, wanted) {
        (None, None) | (Some(None), Some(Node::Directory)) => true,
        (Some(Some(bytes)), Some(Node::File { len, .. })) if bytes.len() != *len => false,
        (Some(Some(bytes)), Some(node @ Node::File { .. })) => *bytes == node.content(),
        _ => false,
    }
}
