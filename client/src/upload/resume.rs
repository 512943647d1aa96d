//! Uploads of large files that go on where an earlier one was interrupted.
//!
//! The server says how much it has. The client reads as much of its file for the digest of the whole,
//! which decides in the end, and sends the rest. What it costs is a round trip for each large file.

use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::ErrorCode;
use quire_shared::codec::DecodeError;
use quire_shared::protocol::{Put, PutOffset, Request, ResumePut};

use super::{Outgoing, Stored};
use crate::blocking::blocking;
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::local_file::LocalFile;

/// Uploads `file`, whose size `put` has.
pub(super) async fn put(
    connection: &Connection,
    put: Put,
    file: LocalFile,
    moved: &AtomicU64,
) -> Result<Stored, ClientError> {
    let looking = blocking(move || {
        let outside_holes = file.outside_holes();
        Ok((file, outside_holes))
    });
    let (file, outside_holes) = looking.await?;
    let upload = Resumable {
        connection,
        put: &put,
        file: &file,
        outside_holes,
        moved,
    };
    match upload.go_on().await {
        // A server of an earlier version keeps nothing.
        Err(error) if error.code() == Some(ErrorCode::UNSUPPORTED) => {
            super::put(connection, put, file.into_content(), moved).await
        }
        // The server has discarded what it had.
        Ok(Attempt::Damaged) => match upload.go_on().await? {
            Attempt::Stored(stored) => Ok(Stored {
                part: PartUse::Discarded,
                ..stored
            }),
            Attempt::Damaged => Err(ClientError::Damaged),
        },
        Ok(Attempt::Stored(stored)) => Ok(stored),
        Err(error) => Err(error),
    }
}

struct Resumable<'a> {
    connection: &'a Connection,
    put: &'a Put,
    file: &'a LocalFile,
    /// Bytes of a file with holes that are outside them.
    outside_holes: Option<u64>,
    moved: &'a AtomicU64,
}

enum Attempt {
    Stored(Stored),
    /// What the server had wasn't the beginning of the file.
    Damaged,
}

impl Resumable<'_> {
    async fn go_on(&self) -> Result<Attempt, ClientError> {
        let Self {
            connection,
            put,
            file,
            outside_holes,
            moved,
        } = self;
        let (mut sender, mut receiver) = connection.open().await?;
        let request = Request::from(ResumePut {
            put: (*put).clone(),
            in_extents: *outside_holes,
        });
        // A server that refuses stops reading, and says why in its reply.
        let _ = sender.send(&request).await;
        let answer = connection.answer(&mut receiver).await?;
        let PutOffset { offset, in_extents } = answer;
        let rest = file.size().checked_sub(offset);
        let rest = rest.filter(|_| !in_extents || outside_holes.is_some());
        let rest = rest.ok_or(ClientError::Unexpected(DecodeError::Malformed))?;
        moved.fetch_add(offset, Ordering::Relaxed);
        let (before, hasher) = ((*file).clone(), put.digest.hasher());
        // The server reads the same bytes meanwhile, for the same reason.
        let hasher = blocking(move || before.add_to(hasher, offset)).await?;
        let outgoing = Outgoing {
            request: None,
            length: Some(rest),
            digest_kind: put.digest,
            extents: in_extents.then(|| file.extents(offset, hasher.clone())),
            hasher,
            known_digest: None,
            content: (*file).clone().into_content_from(offset),
        };
        let sent = outgoing.send(connection, sender, receiver, moved).await;
        match sent {
            Err(ClientError::Damaged) if offset > 0 => Ok(Attempt::Damaged),
            Ok(stored) if offset > 0 => Ok(Attempt::Stored(Stored {
                bytes: offset + stored.bytes,
                part: PartUse::Continued(offset),
                ..stored
            })),
            sent => sent.map(Attempt::Stored),
        }
    }
}
