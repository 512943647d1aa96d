//! Which entries of a directory a caller may see.

use std::collections::BTreeMap;

use quire_shared::Name;

/// Which entries of a directory a caller may see. The store answers as if the others didn't exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFilter {
    others: bool,
    exceptions: BTreeMap<Name, bool>,
}

impl EntryFilter {
    /// Shows or hides each name in `exceptions`, and shows all others if `others` says so.
    pub(crate) fn new(others: bool, exceptions: BTreeMap<Name, bool>) -> Self {
        Self { others, exceptions }
    }

    /// Whether the entry `name` may be shown.
    pub fn contains(&self, name: &Name) -> bool {
        self.exceptions.get(name).copied().unwrap_or(self.others)
    }

    /// Whether entries that aren't named in the filter may be shown.
    pub fn has_others(&self) -> bool {
        self.others
    }

    /// Whether no entry may be shown, whatever its name.
    pub fn is_empty(&self) -> bool {
        !self.others && self.exceptions.values().all(|is_shown| !is_shown)
    }
}
