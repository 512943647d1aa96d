//! The download of a file to a local one: from where an earlier one was interrupted, as what changed of
//! the file that is replaced, or whole.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::protocol::{Get, Precondition};

use super::{PartUse, ReceivedFile, get};
use crate::blocking::blocking;
use crate::delta::{self, Delta};
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::save::{self, Part, PartSource, SaveOptions, SaveStart, SaveTarget};
use crate::upload::Links;

/// A file that is fetched to a local one, from where an earlier fetch of it was interrupted.
#[derive(Debug)]
pub(crate) struct FileFetch<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) get: Get,
    pub(crate) target: &'a Path,
    pub(crate) options: SaveOptions,
    pub(crate) delta: Delta,
    pub(crate) links: Links,
}

impl FileFetch<'_> {
    /// Looks at the target before the content is asked for.
    pub(crate) async fn open(&self) -> Result<SaveTarget, ClientError> {
        let (target, options, links) = (self.target.to_owned(), self.options, self.links);
        blocking(move || SaveTarget::open(&target, options, links)).await
    }

    /// Receives the content, without giving it its name. `expect` is told how much will be moved.
    pub(crate) async fn receive(
        &self,
        target: SaveTarget,
        moved: &AtomicU64,
        expect: impl Fn(u64),
    ) -> Result<ReceivedFile, ClientError> {
        let is_whole = self.get.offset == 0 && self.get.length.is_none();
        let path = self.get.path.clone();
        let place = target.file_path().map(Path::to_owned);
        let (mut target, part) = blocking(move || {
            let part = target.find_part(&path).filter(|_| is_whole);
            Ok((target, part))
        })
        .await?;
        let mut is_anew = false;
        if let Some(part) = part {
            match self.go_on(target, part, moved, &expect).await {
                Err(error) if !error.leaves_a_part() => {
                    // The file has changed since, or the part isn't what it should be. What else
                    // is wrong shows again.
                    discard_part(place.clone()).await?;
                    target = self.open().await?;
                    is_anew = true;
                }
                received => return received,
            }
        }
        if is_whole
            && !is_anew
            && let Some(plan) = delta::plan(self, target.replaced()).await?
        {
            expect(plan.size());
            if let Some(received) = plan.receive(self, target, moved).await? {
                return Ok(received);
            }
            let target = self.open().await?;
            return self.start(target, moved, &|_| {}).await;
        }
        let mut received = self.start(target, moved, &expect).await;
        match &mut received {
            Ok(received) if is_anew => received.fetched.part = PartUse::Discarded,
            Err(error) if !error.leaves_a_part() => discard_part(place).await?,
            _ => {}
        }
        received
    }

    async fn start(
        &self,
        target: SaveTarget,
        moved: &AtomicU64,
        expect: &impl Fn(u64),
    ) -> Result<ReceivedFile, ClientError> {
        let download = get(self.connection, self.get.clone()).await?;
        expect(download.header.length);
        let is_whole = download.header.length == download.header.size;
        let source = is_whole.then(|| PartSource {
            path: self.get.path.clone(),
            version: download.header.version.clone(),
            size: download.header.size,
        });
        let mode = download.header.mode;
        let unfinished = blocking(move || target.create(mode, SaveStart::Nothing(source)));
        let (unfinished, hasher) = (unfinished.await?, self.get.digest.hasher());
        download
            .receive_to(unfinished, hasher, self.target, moved)
            .await
    }

    async fn go_on(
        &self,
        target: SaveTarget,
        part: Part,
        moved: &AtomicU64,
        expect: &impl Fn(u64),
    ) -> Result<ReceivedFile, ClientError> {
        let length = part.length();
        let rest = Get {
            offset: length,
            precondition: Precondition::Match(part.version().clone()),
            digest_from_start: true,
            ..self.get.clone()
        };
        let download = get(self.connection, rest).await?;
        expect(length + download.header.length);
        moved.fetch_add(length, Ordering::Relaxed);
        let hasher = self.get.digest.hasher();
        let (mode, path) = (download.header.mode, self.target.to_owned());
        // The server reads the same bytes meanwhile, for the same reason.
        let (unfinished, hasher) = blocking(move || {
            let hasher = part.add_to(hasher);
            let hasher = hasher.map_err(|error| ClientError::disk(&path, "read", error))?;
            Ok((target.create(mode, SaveStart::Part(part))?, hasher))
        })
        .await?;
        let received = download.receive_to(unfinished, hasher, self.target, moved);
        let mut received = received.await?;
        received.fetched.part = PartUse::Continued(length);
        received.fetched.bytes += length;
        Ok(received)
    }
}

/// Removes what interrupted fetches to the file `place` have left.
async fn discard_part(place: Option<PathBuf>) -> Result<(), ClientError> {
    blocking(move || {
        if let Some(place) = place {
            save::discard_part(&place);
        }
        Ok(())
    })
    .await
}
