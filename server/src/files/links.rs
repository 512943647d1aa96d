//! Symbolic links, and copies that are further names of a file.

use quire_shared::protocol::{Copy, MakeSymlink, Version};

use super::Files;
use super::caller::Caller;
use super::commit::Pending;
use super::error::Error;
use super::scope::Parents;
use super::store::{self, Change, Destination};

impl Files {
    /// Makes a symbolic link, and its missing parents if the request asks for them. The target of the
    /// link is never opened, so it need not exist.
    ///
    /// # Errors
    /// If it is refused, the quota is used up, the target would lead out of the root, or what exists
    /// at the path conflicts.
    pub async fn make_symlink(
        &self,
        caller: &Caller,
        request: MakeSymlink,
    ) -> Result<Version, Error> {
        let precondition = caller.access.link(&request.path, &request.precondition)?;
        let reservation = caller.quota.reserve(0, 1)?;
        let paths = [&request.path];
        let guard = self.locks().exclusive(caller.owner, &paths).await?;
        let target = Destination {
            parents: caller.access.parents(&request.path, request.make_parents),
            path: request.path,
            precondition,
        };
        let pending = Pending::new(Change::Symlink {
            target,
            text: request.target,
            modified: request.modified,
        });
        self.commit_version(pending.charged(reservation), guard)
            .await
    }

    /// Gives the original of a copy the name of the copy as well, if the request asks for that;
    /// `None` if it has to be copied.
    ///
    /// What is changed through one name shows under the other. So a client that may not replace the
    /// original gets a copy: else it could change the permissions of the original by way of the copy.
    ///
    /// # Errors
    /// As for a copy.
    pub(super) async fn link(
        &self,
        caller: &Caller,
        request: &Copy,
    ) -> Result<Option<Version>, Error> {
        let Copy { from, to, .. } = request;
        if !request.hard_link || request.recursive || !caller.access.may_share(from) {
            return Ok(None);
        }
        let precondition = caller.access.copy(from, to, false, &request.target)?;
        let reservation = caller.quota.reserve(0, 1)?;
        let guard = self.locks().exclusive(caller.owner, &[from, to]).await?;
        let target = Destination {
            path: to.clone(),
            precondition,
            parents: Parents::MustExist,
        };
        let change = Change::Link {
            from: from.clone(),
            source: request.source.clone(),
            target,
        };
        let pending = Pending::new(change).charged(reservation);
        match self.commit_version(pending, guard).await {
            Err(Error::Store(store::Error::Unsupported(_))) => Ok(None),
            linked => linked.map(Some),
        }
    }
}
