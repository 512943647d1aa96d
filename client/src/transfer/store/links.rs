//! Links on the server: symbolic ones, and further names of files that were stored.

use quire_shared::protocol::{
    Copy, EntryKind, LinkTarget, MakeSymlink, Precondition, Preserve, Stat, Time, Version,
};
use quire_shared::{ErrorCode, RemotePath};

use crate::client::Client;
use crate::error::ClientError;
use crate::transfer::engine::Transfer;
use crate::transfer::first_names::{FirstName, OtherName};
use crate::transfer::job::{FileUpload, StoreOptions};
use crate::transfer::links::{LinkKind, Linked};

impl FileUpload {
    /// Has a symbolic link made; `None` if it is there already, as after an earlier pass whose answer
    /// was lost.
    pub(super) async fn make_link(
        &self,
        client: &Client,
        (target, modified): (&LinkTarget, Option<Time>),
        preserve: Preserve,
    ) -> Result<Option<Linked>, ClientError> {
        let link = MakeSymlink {
            path: self.to.clone(),
            target: target.clone(),
            make_parents: false,
            precondition: self.precondition.clone(),
            modified: modified.filter(|_| preserve != Preserve::Nothing),
        };
        if let Err(error) = client.make_symlink(link).await {
            let path = self.to.clone();
            let is_taken = matches!(error.code(), Some(ErrorCode::EXISTS | ErrorCode::CONFLICT));
            if is_taken
                && let Ok(found) = client.stat(Stat::of(path)).await
                && found.target.as_ref() == Some(target)
            {
                return Ok(None);
            }
            return Err(error);
        }
        Ok(Some(Linked {
            local: self.from.local(),
            remote: self.to.clone(),
            kind: LinkKind::Symbolic(target.clone()),
        }))
    }

    /// Gives a file that has arrived this name as well. Returns whether that is done, or reported to
    /// have failed with the connection; if not, the file is sent under this name.
    pub(super) async fn link_to(
        &self,
        other: &OtherName,
        client: &Client,
        options: StoreOptions,
        transfer: &Transfer,
    ) -> bool {
        let OtherName { first, replaces } = other;
        first.known().await;
        // Each name gives the file another version, which is the condition for the next.
        let _turn = first.turn.lock().await;
        let Some(version) = version_of(first, client).await else {
            return false;
        };
        let mut copy = Copy {
            from: first.remote.clone(),
            to: self.to.clone(),
            source: Precondition::Match(version),
            target: self.precondition.clone(),
            preserve: options.preserve,
            hard_link: true,
            details: options.keep.kinds,
            ..Copy::default()
        };
        let mut copied = client.copy(copy.clone()).await;
        if let Err(error) = &copied
            && error.code() == Some(ErrorCode::CONFLICT)
            && let Some(seen) = replaces
            && let Some(now) = version_if_same(client, &self.to, seen).await
        {
            // It was another name of what the first name has replaced, and so has another version.
            copy.target = Precondition::Match(now);
            copied = client.copy(copy).await;
        }
        let name = || (&first.remote).into();
        let kind = match copied {
            Ok(copied) if copied.is_hard_link => {
                first.set_version(copied.version);
                LinkKind::Hard(name())
            }
            Ok(_) => LinkKind::Copy(name()),
            Err(error) if error.is_connection_lost() => {
                transfer.fail(&self.to, error);
                return true;
            }
            Err(_) => return false,
        };
        let linked = Linked {
            local: self.from.local(),
            remote: self.to.clone(),
            kind,
        };
        transfer.end_link(&self.to, Ok(linked));
        true
    }
}

/// The version of the file that gets another name.
async fn version_of(first: &FirstName, client: &Client) -> Option<Version> {
    match first.version() {
        None if first.is_standing => {
            let path = first.remote.clone();
            let found = client.stat(Stat::of(path)).await.ok()?;
            first.set_version(found.version.clone());
            Some(found.version)
        }
        version => version,
    }
}

/// The version of the file `path`, if it has the size and time that were seen.
pub(in crate::transfer) async fn version_if_same(
    client: &Client,
    path: &RemotePath,
    seen: &(u64, Time),
) -> Option<Version> {
    let path = path.clone();
    let found = client.stat(Stat::of(path)).await.ok()?;
    let is_same = found.kind == EntryKind::File && (found.size, found.modified) == *seen;
    is_same.then_some(found.version)
}
