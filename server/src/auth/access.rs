//! Access decisions for one client, made from its rules alone.
//!
//! `files` asks before every operation, with the same paths that it then opens, and before any lock
//! or disk access. A refusal therefore reveals nothing of what exists. Where a client may not learn
//! whether something exists, the refusal is [`Denial::Hidden`]. The client then gets the answer for
//! a name that doesn't exist.

use std::fmt;

use quire_shared::RemotePath;
use quire_shared::protocol::{Details, Precondition};

use crate::auth::rules::{Rules, Verbs};
use crate::files::scope::{EntryFilter, Parents};

/// Rights of one client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    rules: Rules,
}

/// Reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The client lacks the right.
    #[error("not authorized")]
    NotAuthorized,
    /// The client may not learn whether the path exists.
    #[error("not found")]
    Hidden,
}

impl Access {
    /// Makes the rights that these rules grant.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    /// Whether no right is granted on any path.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a right to change something is granted on any path.
    pub(crate) fn may_change(&self) -> bool {
        self.rules.grants_anywhere(Verbs::PUT.union(Verbs::DELETE))
    }

    /// Whether the client may see that `path` is in the cache.
    pub(crate) fn may_list(&self, path: &RemotePath) -> bool {
        self.rules.verbs(path).contains(Verbs::LIST)
    }

    /// Allows requests that any client with at least one right may make.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn any(&self) -> Result<(), Denial> {
        match self.is_empty() {
            true => Err(Denial::NotAuthorized),
            false => Ok(()),
        }
    }

    /// Allows reading the content of `path`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn get(&self, path: &RemotePath) -> Result<(), Denial> {
        self.need(Verbs::GET, path)
    }

    /// Allows listing the directory at `path`, and returns the filter for its entries; `None` if
    /// all of them may be shown.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn list(&self, path: &RemotePath) -> Result<Option<EntryFilter>, Denial> {
        match self.rules.entry_filter(path) {
            Some(filter) if filter.is_empty() => Err(self.refusal(path)),
            filter => Ok(filter),
        }
    }

    /// Allows reading the attributes of `path`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn stat(&self, path: &RemotePath) -> Result<(), Denial> {
        match self.may_know(path) {
            true => Ok(()),
            false => Err(self.refusal(path)),
        }
    }

    /// Allows creating `path` and everything below it, and returns the precondition for that: a
    /// client that may create but not replace gets `Absent`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn create(
        &self,
        path: &RemotePath,
        target: &Precondition,
    ) -> Result<Precondition, Denial> {
        if !self.rules.allows_below(path, Verbs::CREATE) {
            return Err(Denial::NotAuthorized);
        }
        if self.rules.verbs(path).contains(Verbs::REPLACE) {
            return Ok(target.clone());
        }
        match target {
            Precondition::Any | Precondition::Absent => Ok(Precondition::Absent),
            Precondition::Match(_) => Err(Denial::NotAuthorized),
        }
    }

    /// Allows making a symbolic link at `path`, and returns the precondition for that, as
    /// [`create`](Self::create) does.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn link(
        &self,
        path: &RemotePath,
        target: &Precondition,
    ) -> Result<Precondition, Denial> {
        match self.rules.verbs(path).contains(Verbs::LINK) {
            true => self.create(path, target),
            false => Err(Denial::NotAuthorized),
        }
    }

    /// Whether what is changed through another name of the file at `path` may change there.
    pub(crate) fn may_share(&self, path: &RemotePath) -> bool {
        self.rules.verbs(path).contains(Verbs::REPLACE)
    }

    /// Allows making a directory at `path`. An existing directory is never replaced, so the right
    /// to create is enough.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn make_directory(&self, path: &RemotePath) -> Result<(), Denial> {
        self.create(path, &Precondition::Any).map(drop)
    }

    /// Allows setting times and permissions of the directory at `path`, to a client that just made
    /// it or may replace it.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn set_attributes(&self, path: &RemotePath, is_own: bool) -> Result<(), Denial> {
        self.make_directory(path)?;
        if is_own || self.rules.verbs(path).contains(Verbs::REPLACE) {
            Ok(())
        } else {
            Err(Denial::NotAuthorized)
        }
    }

    /// Allows changing the permissions of `path`, which may keep others from everything below it.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn chmod(&self, path: &RemotePath) -> Result<(), Denial> {
        match self.rules.allows_below(path, Verbs::REPLACE) {
            true => Ok(()),
            false => Err(self.refusal(path)),
        }
    }

    /// Allows setting those of `details` that need a right of their own: owner and group.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn own(&self, path: &RemotePath, details: Option<&Details>) -> Result<(), Denial> {
        match details.is_some_and(Details::has_owner) {
            true => self.set_owner(path),
            false => Ok(()),
        }
    }

    /// Allows setting the owner and group of `path`, and of everything below it.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn set_owner(&self, path: &RemotePath) -> Result<(), Denial> {
        match self.rules.allows_below(path, Verbs::OWNER) {
            true => Ok(()),
            false => Err(Denial::NotAuthorized),
        }
    }

    /// Allows deleting `path` and everything below it. The name is an entry of its parent
    /// directory, so the right is needed there as well. A client that may delete in a directory
    /// therefore can't delete the directory itself.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn delete(&self, path: &RemotePath) -> Result<(), Denial> {
        let parent = path.parent().unwrap_or_default();
        if self.rules.allows_below(path, Verbs::DELETE)
            && self.rules.verbs(&parent).contains(Verbs::DELETE)
        {
            return Ok(());
        }
        Err(self.refusal(path))
    }

    /// Allows renaming `from` to `to`, and returns the precondition for the new name.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn rename(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        target: &Precondition,
    ) -> Result<Precondition, Denial> {
        self.delete(from)?;
        let target = self.create(to, target)?;
        // A rename must not make readable at `to` what the client can't read at `from`.
        for verb in [Verbs::LIST, Verbs::GET] {
            let gains = self.rules.grants_below(to, verb) && !self.rules.allows_below(from, verb);
            if gains {
                return Err(self.refusal(from));
            }
        }
        Ok(target)
    }

    /// Allows copying `from` to `to`, and returns the precondition for the copy.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn copy(
        &self,
        from: &RemotePath,
        to: &RemotePath,
        recursive: bool,
        target: &Precondition,
    ) -> Result<Precondition, Denial> {
        if !recursive {
            self.get(from)?;
        } else if !self.rules.allows_below(from, Verbs::READ) {
            return Err(self.refusal(from));
        }
        self.create(to, target)
    }

    /// Tells which missing directories above `path` may be made.
    pub(crate) fn parents(&self, path: &RemotePath, make_parents: bool) -> Parents {
        if !make_parents {
            return Parents::MustExist;
        }
        let mut above = path.parent();
        while let Some(directory) = above {
            if !self.rules.verbs(&directory).contains(Verbs::CREATE) {
                return Parents::MadeBelow(directory.names().len());
            }
            above = directory.parent();
        }
        Parents::MadeBelow(0)
    }

    fn need(&self, verb: Verbs, path: &RemotePath) -> Result<(), Denial> {
        if self.rules.verbs(path).contains(verb) {
            return Ok(());
        }
        Err(self.refusal(path))
    }

    fn refusal(&self, path: &RemotePath) -> Denial {
        // A client without any right always gets `NotAuthorized`: it then knows to ask for rights.
        if self.is_empty() || self.may_know(path) {
            Denial::NotAuthorized
        } else {
            Denial::Hidden
        }
    }

    /// Whether the client may learn if something exists at `path`.
    fn may_know(&self, path: &RemotePath) -> bool {
        self.rules.verbs(path).intersects(Verbs::READ) || self.rules.leads_somewhere(path)
    }
}

/// Formats the rules as they are written in the configuration.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.rules, f)
    }
}

#[cfg(test)]
mod tests;
