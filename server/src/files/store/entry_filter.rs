//! Filter of the directory entries that a caller may see.

use std::collections::BTreeMap;

use quire_shared::Name;

/// Filter of the directory entries that a caller may see. Listings and walks answer as if the
/// others didn't exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFilter {
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
