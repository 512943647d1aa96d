//! `PutMany`: many files and directories on one stream.
//!
//! What has arrived is carried out in batches, one at a time, in blocking threads, while the next
//! is being received: the files of a batch are written and synced without a lock, then all of them
//! get their names under their locks, and share the syncs of their directories. An outcome leaves
//! when its change is durable.

use std::collections::HashSet;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;

use bytes::Bytes;
use quire_shared::RemotePath;
use quire_shared::codec::{self, DecodeError};
use quire_shared::digest::Digest;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    Changed, Failure, MakeDirectory, Outcome, Put, PutItem, Reply, SetAttributes, Trailer,
};
use quire_transport::stream::message_buffer::MessageBuffer;
use quire_transport::stream::{ReceiveError, Receiver, SendError, Sender};

use crate::error::RequestError;
use crate::files::cache::Cache;
use crate::files::locks::LockGuard;
use crate::files::quota::Charge;
use crate::quic::request::{Client, report};
use crate::state::State;
use crate::store::{CarriedOut, Change, Parents, Root, StagedFile};

/// Takes items in and answers each, until the client says that no more come.
pub(crate) async fn serve(
    client: Client<'_>,
    state: &State,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    if state.root.read_only().is_some() {
        return Err(RequestError::ReadOnly);
    }
    let mut work = None;
    let taken = take_in(&mut work, (client, state), sender, receiver).await;
    if let Some(work) = work {
        // What is under way comes to its end under its locks, though nobody hears of it.
        let _ = work.await;
    }
    taken?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// A batch that is being carried out.
type Work<'state> = Pin<Box<dyn Future<Output = Result<Outcomes, RequestError>> + Send + 'state>>;

/// What comes of a batch.
#[derive(Default)]
struct Outcomes {
    /// As they travel.
    bytes: Vec<u8>,
    /// The directories that weren't there before.
    made: Vec<RemotePath>,
}

async fn take_in<'state>(
    work: &mut Option<Work<'state>>,
    (client, state): (Client<'_>, &'state State),
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let mut intake = Intake::new(client);
    let mut goes_on = true;
    loop {
        if work.is_none() && !intake.items.is_empty() {
            *work = Some(Box::pin(carry_out(intake.take(), state)));
        }
        // What was left over when the last batch was full.
        intake.parse()?;
        if !goes_on && work.is_none() && intake.items.is_empty() {
            return intake.end();
        }
        tokio::select! {
            received = receiver.receive_into(&mut intake.inbox), if goes_on && intake.has_room() => {
                goes_on = received?;
                intake.parse()?;
            }
            outcomes = ended(work) => {
                *work = None;
                let Outcomes { bytes, made } = outcomes?;
                intake.remember(made);
                sender.send_bytes(Bytes::from(bytes)).await?;
            }
        }
    }
}

/// The end of the work at hand; never, if there is none.
async fn ended(work: &mut Option<Work<'_>>) -> Result<Outcomes, RequestError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// What arrives, on its way from bytes to items.
struct Intake<'client> {
    client: Client<'client>,
    /// Directories that this request has made, and whose attributes it may therefore set.
    made: HashSet<RemotePath>,
    inbox: MessageBuffer,
    awaited: Awaited,
    /// How many items have come.
    count: u64,
    /// The next batch.
    items: Vec<Item>,
    /// The bytes of content in it.
    bytes: usize,
}

/// One item, whole.
struct Item {
    index: u64,
    content: Content,
    /// What it takes of the client's quota.
    charge: Option<Charge>,
}

enum Content {
    File(Put, Parents, Bytes, Digest),
    Directory(MakeDirectory, Parents),
    Attributes(SetAttributes),
    /// Something that the client has no right to.
    Refused(RequestError),
}

/// What comes next on the stream.
#[derive(Default)]
enum Awaited {
    #[default]
    Item,
    Body(Put, usize),
    Trailer(Put, Bytes),
    /// The end of the stream.
    Nothing,
}

impl<'client> Intake<'client> {
    fn new(client: Client<'client>) -> Self {
        Self {
            client,
            made: HashSet::new(),
            inbox: MessageBuffer::default(),
            awaited: Awaited::Item,
            count: 0,
            items: Vec::new(),
            bytes: 0,
        }
    }

    /// Notes directories that were made, but not without bound.
    fn remember(&mut self, made: Vec<RemotePath>) {
        let room = MADE_MAX.saturating_sub(self.made.len());
        self.made.extend(made.into_iter().take(room));
    }

    /// Whether the next batch may become larger.
    fn has_room(&self) -> bool {
        self.bytes < BATCH_BYTES && self.items.len() < BATCH_ITEMS
    }

    fn take(&mut self) -> Vec<Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }

    /// Takes all items that are whole, as far as there is room.
    fn parse(&mut self) -> Result<(), RequestError> {
        while self.has_room() {
            let arrived = match std::mem::take(&mut self.awaited) {
                Awaited::Item => match self.inbox.message().map_err(broken)? {
                    Some(item) => self.item(item).map_err(broken)?,
                    None => return Ok(()),
                },
                Awaited::Body(put, size) => match self.inbox.body(size) {
                    Some(body) => {
                        self.awaited = Awaited::Trailer(put, body);
                        None
                    }
                    None => {
                        self.awaited = Awaited::Body(put, size);
                        return Ok(());
                    }
                },
                Awaited::Trailer(put, body) => match self.inbox.message().map_err(broken)? {
                    Some(Trailer { digest }) => {
                        self.bytes += body.len();
                        Some(self.file(put, body, digest))
                    }
                    None => {
                        self.awaited = Awaited::Trailer(put, body);
                        return Ok(());
                    }
                },
                Awaited::Nothing => {
                    self.awaited = Awaited::Nothing;
                    return match self.inbox.is_empty() {
                        true => Ok(()),
                        false => Err(broken(DecodeError::TrailingBytes)),
                    };
                }
            };
            if let Some(content) = arrived {
                let index = self.count;
                self.count += 1;
                let (content, charge) = self.charge(content);
                self.items.push(Item {
                    index,
                    content,
                    charge,
                });
            }
        }
        Ok(())
    }

    /// Charges an item to the client's quota, or refuses it.
    fn charge(&self, content: Content) -> (Content, Option<Charge>) {
        let (bytes, files) = match &content {
            Content::File(_, _, body, _) => (body.len() as u64, 1),
            Content::Directory(..) => (0, 1),
            Content::Attributes(_) | Content::Refused(_) => return (content, None),
        };
        match self.client.holder.charge(bytes, files) {
            Ok(charge) => (content, Some(charge)),
            Err(refusal) => (Content::Refused(refusal), None),
        }
    }

    fn item(&mut self, item: PutItem) -> Result<Option<Content>, DecodeError> {
        match item {
            PutItem::File(put) => {
                let size = put.size.ok_or(DecodeError::Malformed)?;
                let (bytes, limit) = (
                    usize::try_from(size).unwrap_or(usize::MAX),
                    ENCLOSED_BYTES_MAX,
                );
                if bytes > limit {
                    return Err(DecodeError::TooLong { bytes, limit });
                }
                self.awaited = Awaited::Body(put, bytes);
                Ok(None)
            }
            PutItem::Directory(make) => Ok(Some(match self.client.access.make_directory(make) {
                Ok(make) => {
                    let parents = self.client.access.parents(&make.path, make.make_parents);
                    Content::Directory(make, parents)
                }
                Err(refusal) => Content::Refused(refusal),
            })),
            PutItem::Attributes(set) => {
                let is_own = self.made.remove(&set.path);
                Ok(Some(
                    match self.client.access.set_attributes(&set.path, is_own) {
                        Ok(()) => Content::Attributes(set),
                        Err(refusal) => Content::Refused(refusal),
                    },
                ))
            }
            PutItem::Last(_) => {
                self.awaited = Awaited::Nothing;
                Ok(None)
            }
        }
    }

    fn file(&self, put: Put, body: Bytes, digest: Digest) -> Content {
        match self.client.access.put(put) {
            Ok(put) => {
                let parents = self.client.access.parents(&put.path, put.make_parents);
                Content::File(put, parents, body, digest)
            }
            Err(refusal) => Content::Refused(refusal),
        }
    }

    /// Whether the stream ended where it may.
    fn end(&self) -> Result<(), RequestError> {
        match self.awaited {
            Awaited::Nothing => Ok(()),
            Awaited::Item | Awaited::Body(..) | Awaited::Trailer(..) => {
                Err(RequestError::Receive(ReceiveError::Truncated))
            }
        }
    }
}

fn broken(error: DecodeError) -> RequestError {
    RequestError::Receive(ReceiveError::Decode(error))
}

/// A change that is ready to be made, or what was wrong before.
struct Ready {
    index: u64,
    change: Result<Change, RequestError>,
    charge: Option<Charge>,
}

/// Carries out a batch.
async fn carry_out(items: Vec<Item>, state: &State) -> Result<Outcomes, RequestError> {
    let ready = state.change(move |root| Ok(prepare(items, root))).await?;
    let paths: Vec<_> = ready.iter().filter_map(Ready::path).collect();
    if let Some(guard) = state.locks.try_exclusive(&paths) {
        return publish(ready, guard, state).await;
    }
    // Whatever is in use delays no more than itself.
    let mut outcomes = Outcomes::default();
    for ready in ready {
        match state.locks.exclusive(ready.path().as_slice()).await {
            Ok(guard) => {
                let more = publish(vec![ready], guard, state).await?;
                outcomes.bytes.extend(more.bytes);
                outcomes.made.extend(more.made);
            }
            Err(busy) => append(ready.index, Err(busy.into()), &mut outcomes.bytes)?,
        }
    }
    Ok(outcomes)
}

impl Ready {
    fn path(&self) -> Option<&RemotePath> {
        self.change.as_ref().ok().map(Change::path)
    }
}

/// Puts the files of a batch on disk without their names: first all are written, then synced, for
/// then they share what the disk does to keep them. Blocks.
fn prepare(items: Vec<Item>, root: &Root) -> Vec<Ready> {
    let mut ready: Vec<_> = items
        .into_iter()
        .map(|item| Ready {
            index: item.index,
            charge: item.charge,
            change: match item.content {
                Content::File(put, parents, body, digest) => write(&put, &body, &digest, root)
                    .map(|staged| Change::File(put, parents, staged)),
                Content::Directory(make, parents) => Ok(Change::Directory(make, parents)),
                Content::Attributes(set) => Ok(Change::Attributes(set)),
                Content::Refused(refusal) => Err(refusal),
            },
        })
        .collect();
    for Ready { change, .. } in &ready {
        if let Ok(Change::File(.., staged)) = change {
            staged.start_writing();
        }
    }
    for Ready { change, .. } in &mut ready {
        if let Ok(Change::File(.., staged)) = change
            && let Err(error) = staged.sync()
        {
            *change = Err(error);
        }
    }
    ready
}

fn write(put: &Put, body: &[u8], digest: &Digest, root: &Root) -> Result<StagedFile, RequestError> {
    let mut hasher = put.digest.hasher();
    hasher.update(body);
    if hasher.finish() != *digest {
        return Err(RequestError::Damaged);
    }
    let mut staged = root.stage(Some(body.len() as u64))?;
    staged
        .write_all(body)
        .map_err(RequestError::system("writing"))?;
    staged.set_attributes(put.modified, put.mode)?;
    Ok(staged)
}

/// Makes the changes in a blocking thread, which keeps the locks until they are durable.
async fn publish(
    ready: Vec<Ready>,
    guard: LockGuard,
    state: &State,
) -> Result<Outcomes, RequestError> {
    let cache = state.cache.clone();
    state
        .change(move |root| {
            let outcomes = publish_now(ready, root, &cache);
            drop(guard);
            outcomes
        })
        .await
}

fn publish_now(ready: Vec<Ready>, root: &Root, cache: &Cache) -> Result<Outcomes, RequestError> {
    let mut outcomes = Outcomes::default();
    let (mut asked, mut changes) = (Vec::new(), Vec::new());
    for ready in ready {
        let Ready {
            index,
            change,
            charge,
        } = ready;
        match change {
            Ok(change) => {
                asked.push((index, change.path().clone(), Kind::of(&change), charge));
                changes.push(change);
            }
            Err(error) => append(index, Err(error), &mut outcomes.bytes)?,
        }
    }
    for ((index, path, kind, charge), result) in asked.into_iter().zip(root.carry_out(changes)) {
        if let (Ok(_), Some(charge)) = (&result, charge) {
            charge.keep();
        }
        match (kind, &result) {
            (Kind::File, _) => cache.forget(&path),
            (Kind::Directory, Ok(done)) if !done.existed => outcomes.made.push(path),
            (Kind::Directory | Kind::Attributes, _) => {}
        }
        append(index, result, &mut outcomes.bytes)?;
    }
    Ok(outcomes)
}

enum Kind {
    File,
    Directory,
    Attributes,
}

impl Kind {
    fn of(change: &Change) -> Self {
        match change {
            Change::File(..) => Self::File,
            Change::Directory(..) => Self::Directory,
            Change::Attributes(_) => Self::Attributes,
        }
    }
}

fn append(
    index: u64,
    result: Result<CarriedOut, RequestError>,
    outcomes: &mut Vec<u8>,
) -> Result<(), RequestError> {
    let (result, existed) = match result {
        Ok(CarriedOut { version, existed }) => (Reply::Ok(Changed { version }), existed),
        Err(error) => (Reply::Failed(Failure::new(report(&error))), false),
    };
    let outcome = Outcome {
        index,
        result,
        existed,
    };
    let too_long = |error: DecodeError| RequestError::Send(SendError::Message(error));
    codec::append(&Reply::Ok(outcome), outcomes).map_err(too_long)
}

/// Bytes of content in a batch, not counting the end of its last file.
const BATCH_BYTES: usize = 512 * 1024;

/// Items in a batch: each of its files is open until it has its name.
const BATCH_ITEMS: usize = 128;

/// Directories remembered as made by a request: far more than are being filled at once. Of one that
/// is not remembered the attributes can be set only with the right to replace.
const MADE_MAX: usize = 4096;
