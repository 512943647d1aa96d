//! `GetTree`: a directory with all that is below it, on one stream.
//!
//! A blocking thread walks ahead of the network and packs what it finds into batches: small files
//! whole, the rest described. A lock covers the opening of each file alone. A lock that isn't free
//! ends the batch, because only the asynchronous side can wait for it. The cache is left alone: a
//! walk would throw out of it what single requests come back for.

use std::io::Read;

use bytes::Bytes;
use quire_shared::codec::{self, DecodeError};
use quire_shared::digest::DigestKind;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    Entry, EntryKind, Failure, GetTree, Left, Message, Missed, Reply, Trailer, TreeItem,
};
use quire_shared::{Name, RemotePath};
use quire_transport::stream::{Priority, SendError, Sender};

use crate::auth::access::Access;
use crate::error::RequestError;
use crate::files::locks::{LockGuard, LockTable};
use crate::quic::request::report;
use crate::state::State;
use crate::store::{OpenFile, Root, Step, Visited, Walk};

/// Sends what is known of the directory, then batch after batch, one of which is always under way
/// in memory while another is being sent.
pub(crate) async fn serve(
    request: GetTree,
    access: &Access,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let guard = state.locks.shared(&request.path).await?;
    let path = request.path.clone();
    let shown = access.listed(&path)?;
    let (walk, attributes) = state.read(move |root| root.walk(&path, shown)).await?;
    drop(guard);
    sender.send(&Reply::Ok(attributes)).await?;
    sender.set_priority(Priority::Bulk);
    let packer = Packer {
        walk,
        root: state.root.clone(),
        locks: state.locks.clone(),
        access: access.clone(),
        digest: request.digest,
        enclose_max: request.enclose_max.min(ENCLOSED_BYTES_MAX as u64),
        bytes: Vec::new(),
    };
    let (mut batch, mut packer) = pack(packer, None, state).await?;
    loop {
        let bytes = Bytes::from(batch.bytes);
        match batch.end {
            End::Full => {
                let (sent, packed) =
                    tokio::join!(sender.send_bytes(bytes), pack(packer, None, state));
                sent?;
                (batch, packer) = packed?;
            }
            End::Locked(name, path) => {
                sender.send_bytes(bytes).await?;
                let guard = state.locks.shared(&path).await.map_err(RequestError::from);
                let locked = Locked { name, path, guard };
                (batch, packer) = pack(packer, Some(locked), state).await?;
            }
            End::Last => {
                sender.send_bytes(bytes).await?;
                sender.finish_and_wait().await?;
                return Ok(());
            }
        }
    }
}

/// Packs the next batch in a blocking thread.
async fn pack(
    mut packer: Packer,
    locked: Option<Locked>,
    state: &State,
) -> Result<(Batch, Packer), RequestError> {
    state
        .read(move |_| {
            let batch = packer.batch(locked)?;
            Ok((batch, packer))
        })
        .await
}

/// What has been found and not sent yet.
struct Batch {
    bytes: Vec<u8>,
    end: End,
}

/// Why a batch is at its end.
enum End {
    Full,
    /// This is locked by another request.
    Locked(Name, RemotePath),
    /// The walk is over.
    Last,
}

/// A name whose lock had to be waited for, in vain or not.
struct Locked {
    name: Name,
    path: RemotePath,
    guard: Result<LockGuard, RequestError>,
}

/// Turns the walk into bytes.
struct Packer {
    walk: Walk,
    root: Root,
    locks: LockTable,
    access: Access,
    digest: DigestKind,
    enclose_max: u64,
    /// The batch at hand.
    bytes: Vec<u8>,
}

impl Packer {
    fn batch(&mut self, locked: Option<Locked>) -> Result<Batch, RequestError> {
        self.bytes = Vec::with_capacity(BATCH + BATCH / 8);
        if let Some(Locked { name, path, guard }) = locked {
            match guard {
                Ok(guard) => self.visit(name, path, guard)?,
                Err(error) => self.append(&missed(name, &error))?,
            }
        }
        let end = loop {
            if self.bytes.len() >= BATCH {
                break End::Full;
            }
            match self.walk.step() {
                Step::Name(name, Ok(path)) => match self.locks.try_shared(&path) {
                    Some(guard) => self.visit(name, path, guard)?,
                    None => break End::Locked(name, path),
                },
                Step::Name(name, Err(code)) => {
                    let failure = Failure::new(code);
                    self.append(&TreeItem::Missed(Missed { name, failure }))?;
                }
                Step::Left {
                    unnameable,
                    failure,
                } => {
                    let failure = failure.map(|error| Failure::new(report(&error)));
                    self.append(&TreeItem::Left(Left {
                        unnameable,
                        failure,
                    }))?;
                }
                Step::End => break End::Last,
            }
        };
        let bytes = std::mem::take(&mut self.bytes);
        Ok(Batch { bytes, end })
    }

    /// Adds what has `name`; the lock is held until that is open.
    fn visit(
        &mut self,
        name: Name,
        path: RemotePath,
        guard: LockGuard,
    ) -> Result<(), RequestError> {
        let fetched = self.access.fetched(&path);
        let enclose_max = fetched.is_ok().then_some(self.enclose_max);
        let access = &self.access;
        let visited = self
            .walk
            .visit(&name, path, enclose_max, |path| access.listed(path));
        drop(guard);
        let item = match visited {
            Ok(None) => return Ok(()),
            Ok(Some(Visited::File(file))) => return self.enclose(name, file),
            Ok(Some(Visited::Directory(attributes))) => {
                TreeItem::Entered(Entry { name, attributes })
            }
            Ok(Some(Visited::Other(attributes))) => match fetched {
                Err(refusal) if attributes.kind == EntryKind::File => missed(name, &refusal),
                _ => TreeItem::Described(Entry { name, attributes }),
            },
            Err(error) => missed(name, &error),
        };
        self.append(&item)
    }

    /// Adds a file whole. One that changes meanwhile is described instead: whoever asks for it by
    /// itself gets it, or hears that it changes all the time.
    fn enclose(&mut self, name: Name, file: OpenFile) -> Result<(), RequestError> {
        let OpenFile { file, attributes } = file;
        let (size, modified) = (attributes.size, attributes.modified);
        let entry = Entry { name, attributes };
        let start = self.bytes.len();
        self.append(&TreeItem::Enclosed(entry.clone()))?;
        let body = self.bytes.len();
        self.bytes.reserve(usize::try_from(size).unwrap_or(0));
        let read = (&file)
            .take(size)
            .read_to_end(&mut self.bytes)
            .map_err(RequestError::system("reading"))
            .and_then(|read| Ok((read as u64, self.root.attributes_of(&file)?)));
        let instead = match read {
            Ok((read, after)) if (read, after.size, after.modified) == (size, size, modified) => {
                let mut hasher = self.digest.hasher();
                hasher.update(self.bytes.get(body..).unwrap_or_default());
                let digest = hasher.finish();
                return self.append(&Reply::Ok(Trailer { digest }));
            }
            Ok(_) => TreeItem::Described(entry),
            Err(error) => missed(entry.name, &error),
        };
        self.bytes.truncate(start);
        self.append(&instead)
    }

    fn append<M: Message>(&mut self, message: &M) -> Result<(), RequestError> {
        let too_long = |error: DecodeError| RequestError::Send(SendError::Message(error));
        codec::append(message, &mut self.bytes).map_err(too_long)
    }
}

/// Tells that what has `name` can't be sent.
fn missed(name: Name, error: &RequestError) -> TreeItem {
    let failure = Failure::new(report(error));
    TreeItem::Missed(Missed { name, failure })
}

/// Bytes per batch, not counting the end of its last file: handing one over costs about 30 µs,
/// while sixty files of 4 KiB take some ten times that to open and read.
const BATCH: usize = 256 * 1024;
