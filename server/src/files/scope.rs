//! Scope of an operation: the entries that its caller may see, and the parents that it may make.
//!
//! The rules of `auth` make these values and the store applies them; neither knows the other.

use std::collections::BTreeMap;

use quire_shared::Name;

/// Filter of the directory entries that a caller may see. Listings and walks answer as if the
/// others didn't exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryFilter {
    others: bool,
    exceptions: BTreeMap<Name, bool>,
}

impl EntryFilter {
    /// Creates a filter that shows or hides each name in `exceptions`, and all others as `others`
    /// says.
    pub(crate) fn new(others: bool, exceptions: BTreeMap<Name, bool>) -> Self {
        Self { others, exceptions }
    }

    /// Whether the filter shows the entry `name`.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.exceptions.get(name).copied().unwrap_or(self.others)
    }

    /// Whether the filter shows entries that it doesn't name.
    pub(crate) fn has_others(&self) -> bool {
        self.others
    }

    /// Whether the filter hides every entry.
    pub(crate) fn is_empty(&self) -> bool {
        !self.others && self.exceptions.values().all(|is_shown| !is_shown)
    }
}

/// Policy for directories that are missing above the path of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parents {
    /// Fail if a directory is missing.
    MustExist,
    /// Create missing directories below the directory at this depth, which itself has to exist. The
    /// root is at depth 0.
    MadeBelow(usize),
}

impl Parents {
    /// Whether a directory may be created whose path has `names` names.
    pub(super) fn may_make(self, names: usize) -> bool {
        match self {
            Self::MustExist => false,
            Self::MadeBelow(depth) => names > depth,
        }
    }
}
