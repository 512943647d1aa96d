//! What one client may ask for, decided from the request alone.
//!
//! [`Access::admit`] takes a request in and hands the same one out, so that the path that was
//! judged is the path that is opened. It looks at nothing but the rules, before any lock or disk:
//! a refusal therefore says nothing of what is there. Where a client may not even know whether
//! something exists, it hears what it would hear if nothing did.

use std::fmt;

use quire_shared::RemotePath;
use quire_shared::protocol::{
    Copy, Delete, List, MakeDirectory, Precondition, Put, Rename, Request,
};

use crate::auth::rules::{Rules, ShownEntries, Verbs};
use crate::error::RequestError;
use crate::store::Parents;

/// What one client may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    rules: Rules,
}

impl Access {
    /// By these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules }
    }

    /// Whether there is nothing to ask for at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether anything may be changed anywhere.
    pub fn may_change(&self) -> bool {
        self.rules.grants_anywhere(Verbs::PUT.union(Verbs::DELETE))
    }

    /// The request, if the client may ask for it. A client that may create and not replace gets
    /// the precondition that there be nothing.
    ///
    /// # Errors
    /// The refusal.
    pub fn admit(&self, request: Request) -> Result<Request, RequestError> {
        // Whoever waits to be let in may ask for that alone.
        if self.is_empty() && !matches!(request, Request::Pair(_)) {
            return Err(RequestError::NotAuthorized);
        }
        match request {
            Request::Ping(_) | Request::ListCache(_) | Request::Pair(_) => Ok(request),
            Request::Get(get) => self.need(Verbs::GET, &get.path).map(|()| get.into()),
            Request::Hash(hash) => self.need(Verbs::GET, &hash.path).map(|()| hash.into()),
            Request::List(list) => self.list(list).map(Request::from),
            Request::Stat(stat) if self.may_know(&stat.path) => Ok(stat.into()),
            Request::Stat(_) => Err(RequestError::NotFound),
            Request::Put(put) => self.put(put).map(Request::from),
            Request::Rename(rename) => self.rename(rename).map(Request::from),
            Request::Delete(delete) => self.delete(delete).map(Request::from),
            Request::MakeDirectory(make) => self.make_directory(make).map(Request::from),
            Request::Copy(copy) => self.copy(copy).map(Request::from),
            Request::GetTree(get) => self.listed(&get.path).map(|_| get.into()),
            // Each of its items is judged by itself.
            Request::PutMany(put) if self.may_change() => Ok(put.into()),
            Request::PutMany(_) => Err(RequestError::NotAuthorized),
        }
    }

    /// Whether the path of something in the cache may be shown.
    pub fn may_list(&self, path: &RemotePath) -> bool {
        self.rules.verbs(path).contains(Verbs::LIST)
    }

    /// Which entries of the directory at `path` may be shown; `None` if all may.
    pub fn shown_entries(&self, path: &RemotePath) -> Option<ShownEntries> {
        self.rules.shown_entries(path)
    }

    /// Which entries of the directory at `path` may be shown, as [`shown_entries`].
    ///
    /// # Errors
    /// The refusal, if it may not be listed at all.
    ///
    /// [`shown_entries`]: Self::shown_entries
    pub fn listed(&self, path: &RemotePath) -> Result<Option<ShownEntries>, RequestError> {
        match self.rules.shown_entries(path) {
            Some(shown) if shown.is_empty() => Err(self.refusal(path)),
            shown => Ok(shown),
        }
    }

    /// Whether the content of `path` may be fetched.
    ///
    /// # Errors
    /// The refusal.
    pub fn fetched(&self, path: &RemotePath) -> Result<(), RequestError> {
        self.need(Verbs::GET, path)
    }

    /// Which of the directories above `path` may be made where they are missing.
    pub fn parents(&self, path: &RemotePath, make_parents: bool) -> Parents {
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

    fn list(&self, list: List) -> Result<List, RequestError> {
        self.listed(&list.path)?;
        Ok(list)
    }

    /// As [`admit`](Self::admit), for a file among many.
    ///
    /// # Errors
    /// The refusal.
    pub fn put(&self, mut put: Put) -> Result<Put, RequestError> {
        self.create(&put.path, &mut put.precondition)?;
        Ok(put)
    }

    /// As [`admit`](Self::admit), for a directory among many.
    ///
    /// # Errors
    /// The refusal.
    pub fn make_directory(&self, make: MakeDirectory) -> Result<MakeDirectory, RequestError> {
        // A directory that is there already is never replaced.
        self.create(&make.path, &mut Precondition::Any)?;
        Ok(make)
    }

    /// Whether times and permissions of the directory at `path` may be set: by whoever just made
    /// it, or may replace what is there.
    ///
    /// # Errors
    /// The refusal.
    pub fn set_attributes(&self, path: &RemotePath, is_own: bool) -> Result<(), RequestError> {
        self.create(path, &mut Precondition::Any)?;
        if is_own || self.rules.verbs(path).contains(Verbs::REPLACE) {
            Ok(())
        } else {
            Err(RequestError::NotAuthorized)
        }
    }

    fn delete(&self, delete: Delete) -> Result<Delete, RequestError> {
        self.take_away(&delete.path)?;
        Ok(delete)
    }

    fn rename(&self, mut rename: Rename) -> Result<Rename, RequestError> {
        self.take_away(&rename.from)?;
        self.create(&rename.to, &mut rename.target)?;
        // What is hidden where it is must not come to light by being moved.
        for verb in [Verbs::LIST, Verbs::GET] {
            let gains = self.rules.grants_below(&rename.to, verb)
                && !self.rules.allows_below(&rename.from, verb);
            if gains {
                return Err(self.refusal(&rename.from));
            }
        }
        Ok(rename)
    }

    fn copy(&self, mut copy: Copy) -> Result<Copy, RequestError> {
        if copy.recursive {
            if !self.rules.allows_below(&copy.from, Verbs::READ) {
                return Err(self.refusal(&copy.from));
            }
        } else {
            self.need(Verbs::GET, &copy.from)?;
        }
        self.create(&copy.to, &mut copy.target)?;
        Ok(copy)
    }

    fn need(&self, verb: Verbs, path: &RemotePath) -> Result<(), RequestError> {
        if self.rules.verbs(path).contains(verb) {
            return Ok(());
        }
        Err(self.refusal(path))
    }

    /// Whether something new may have the name `path`, whatever is below it; the precondition is
    /// narrowed for those who may not replace.
    fn create(&self, path: &RemotePath, target: &mut Precondition) -> Result<(), RequestError> {
        if !self.rules.allows_below(path, Verbs::CREATE) {
            return Err(RequestError::NotAuthorized);
        }
        if !self.rules.verbs(path).contains(Verbs::REPLACE) {
            match target {
                Precondition::Any | Precondition::Absent => *target = Precondition::Absent,
                Precondition::Match(_) => return Err(RequestError::NotAuthorized),
            }
        }
        Ok(())
    }

    /// Whether the name `path` may be taken away, with whatever is below it. It is a name of its
    /// directory, so the right is needed there as well: whoever may delete in a directory can't
    /// delete the directory itself.
    fn take_away(&self, path: &RemotePath) -> Result<(), RequestError> {
        let parent = path.parent().unwrap_or_default();
        if self.rules.allows_below(path, Verbs::DELETE)
            && self.rules.verbs(&parent).contains(Verbs::DELETE)
        {
            return Ok(());
        }
        Err(self.refusal(path))
    }

    fn refusal(&self, path: &RemotePath) -> RequestError {
        if self.may_know(path) {
            RequestError::NotAuthorized
        } else {
            RequestError::NotFound
        }
    }

    /// Whether the client may learn if there is something at `path`.
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
