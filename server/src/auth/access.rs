//! What one client may do, decided from its rules alone.
//!
//! `files` asks before every operation, with the very paths that it then opens, and before any lock
//! or disk access: a refusal therefore reveals nothing of what exists. Where a client may not even
//! know whether something exists, the refusal is [`Denial::Hidden`], and the answer is the one for
//! a name that doesn't exist.

use std::fmt;

use quire_shared::RemotePath;
use quire_shared::protocol::Precondition;

use crate::auth::rules::{Rules, Verbs};
use crate::files::scope::{EntryFilter, Parents};

/// What one client may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    rules: Rules,
}

/// Why a client may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It lacks the right.
    #[error("not authorized")]
    NotAuthorized,
    /// It may not learn whether the path exists.
    #[error("not found")]
    Hidden,
}

impl Access {
    /// By these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    /// Whether nothing is allowed anywhere.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether anything may be changed anywhere.
    pub fn may_change(&self) -> bool {
        self.rules.grants_anywhere(Verbs::PUT.union(Verbs::DELETE))
    }

    /// Whether the path of something in the cache may be shown.
    pub(crate) fn may_list(&self, path: &RemotePath) -> bool {
        self.rules.verbs(path).contains(Verbs::LIST)
    }

    /// Allows what any client with a right may ask.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn any(&self) -> Result<(), Denial> {
        match self.is_empty() {
            true => Err(Denial::NotAuthorized),
            false => Ok(()),
        }
    }

    /// Allows to read the content of `path`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn get(&self, path: &RemotePath) -> Result<(), Denial> {
        self.need(Verbs::GET, path)
    }

    /// Allows to list the directory at `path`, and says which of its entries may be shown; `None`
    /// if all may.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn list(&self, path: &RemotePath) -> Result<Option<EntryFilter>, Denial> {
        match self.rules.entry_filter(path) {
            Some(filter) if filter.is_empty() => Err(self.refusal(path)),
            filter => Ok(filter),
        }
    }

    /// Allows to look at the attributes of `path`.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn stat(&self, path: &RemotePath) -> Result<(), Denial> {
        match self.may_know(path) {
            true => Ok(()),
            false => Err(self.refusal(path)),
        }
    }

    /// Allows to give the name `path` to something new, with whatever is below it, and gives the
    /// precondition for it: a client that may create and not replace gets `Absent`.
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

    /// Allows to make a directory at `path`. One that exists is never replaced, so that the right
    /// to create is enough.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn make_directory(&self, path: &RemotePath) -> Result<(), Denial> {
        self.create(path, &Precondition::Any).map(drop)
    }

    /// Allows to set times and permissions of the directory at `path`: to a client that just made
    /// it, or that may replace what is there.
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

    /// Allows to remove the name `path`, with whatever is below it. It is a name of its directory,
    /// so the right is needed there as well: a client that may delete in a directory can't delete
    /// the directory itself.
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

    /// Allows to rename `from` to `to`, and gives the precondition for the new name.
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
        // What is hidden where it is must not come to light by being moved.
        for verb in [Verbs::LIST, Verbs::GET] {
            let gains = self.rules.grants_below(to, verb) && !self.rules.allows_below(from, verb);
            if gains {
                return Err(self.refusal(from));
            }
        }
        Ok(target)
    }

    /// Allows to copy `from` to `to`, and gives the precondition for the copy.
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

    /// Which of the directories above `path` may be made where they are missing.
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
        // A client without any right hears so, whatever it asks for.
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

/// The rules as people write them.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.rules, f)
    }
}

#[cfg(test)]
mod tests;
