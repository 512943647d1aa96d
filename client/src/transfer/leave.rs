//! Which files a transfer leaves as they are because something has their name.

use std::fs::Metadata;

use quire_shared::protocol::{Attributes, EntryKind, Time};

use crate::attributes;

/// Which files that exist at the target are left as they are. That is no failure. What becomes of
/// the others is for `overwrite` to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leave {
    /// None.
    #[default]
    Nothing,
    /// Those with the size and modification time of the source, as an earlier transfer made them.
    Same,
    /// Those as well that were modified later than the source.
    Newer,
    /// All.
    Existing,
}

impl Leave {
    /// As this, for a transfer that goes on.
    pub(super) fn for_another_pass(self) -> Self {
        match self {
            Self::Nothing => Self::Same,
            chosen => chosen,
        }
    }

    /// Whether what exists at the target has to be looked at.
    pub(super) fn looks(self) -> bool {
        self != Self::Nothing
    }

    /// Whether `target` is left, in whose place `source` would be.
    pub(super) fn leaves(self, source: &FileState, target: &FileState) -> bool {
        let is_file = target.kind == EntryKind::File;
        let is_newer = source.modified.is_some() && target.modified > source.modified;
        match self {
            Self::Nothing => false,
            Self::Same => is_file && source == target,
            Self::Newer => is_file && (source == target || is_newer),
            Self::Existing => target.kind != EntryKind::Directory,
        }
    }

    /// As [`leaves`](Self::leaves), where a symbolic link would be; `is_same` tells whether there is one
    /// with the same target.
    pub(super) fn leaves_for_link(self, found: EntryKind, is_same: impl FnOnce() -> bool) -> bool {
        match self {
            Self::Nothing => false,
            Self::Same | Self::Newer => is_same(),
            Self::Existing => found != EntryKind::Directory,
        }
    }
}

/// What is compared of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    kind: EntryKind,
    size: u64,
    modified: Option<Time>,
}

impl From<&Metadata> for FileState {
    fn from(local: &Metadata) -> Self {
        Self {
            kind: kind_of(local),
            size: local.len(),
            modified: attributes::modified(local),
        }
    }
}

/// The kind of a local entry.
pub(super) fn kind_of(local: &Metadata) -> EntryKind {
    match local {
        _ if local.is_file() => EntryKind::File,
        _ if local.is_dir() => EntryKind::Directory,
        _ if local.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

impl From<&Attributes> for FileState {
    fn from(remote: &Attributes) -> Self {
        Self {
            kind: remote.kind,
            size: remote.size,
            modified: Some(remote.modified),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, seconds: i64) -> FileState {
        FileState {
            kind: EntryKind::File,
            size,
            modified: Some(Time {
                seconds,
                nanoseconds: 0,
            }),
        }
    }

    #[test]
    fn what_is_left_depends_on_size_and_time() {
        use Leave::{Existing, Newer, Nothing, Same};
        let source = file(5, 10);
        let link = FileState {
            kind: EntryKind::Symlink,
            ..file(5, 10)
        };
        let directory = FileState {
            kind: EntryKind::Directory,
            ..file(5, 20)
        };
        for (target, left_by) in [
            (file(5, 10), &[Same, Newer, Existing][..]),
            (file(6, 10), &[Existing]),
            (file(5, 9), &[Existing]),
            (file(5, 11), &[Newer, Existing]),
            (link, &[Existing]),
            (directory, &[]),
        ] {
            for leave in [Nothing, Same, Newer, Existing] {
                let expected = left_by.contains(&leave);
                assert_eq!(
                    leave.leaves(&source, &target),
                    expected,
                    "{leave:?} {target:?}"
                );
            }
        }
    }
}
