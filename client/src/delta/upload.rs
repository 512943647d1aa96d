//! Uploads that send what the server lacks, and name the ranges that it has.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use quire_shared::chunks::{Chunk, ChunkId};
use quire_shared::codec;
use quire_shared::digest::{Digest, DigestKind};
use quire_shared::protocol::{
    ChunkHead, Chunks, CopyStep, DataStep, DeltaStep, Put, PutDelta, Version,
};

use super::chunk_list::RemoteChunks;
use super::local_chunks::LocalChunks;
use super::{Delta, compare, is_enough, leads_to_whole};
use crate::download::PartUse;
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::local_file::{FromStart, LocalFile};
use crate::upload::{Outgoing, Stored, UploadBody};

/// Uploads `file` as `put` says, which has its size. `None` if the whole file has to be sent, which
/// nothing stands in the way of.
///
/// # Errors
/// As an upload of the whole file.
pub(crate) async fn put(
    connection: &Connection,
    put: &Put,
    file: &LocalFile,
    delta: Delta,
    moved: &AtomicU64,
) -> Result<Option<Stored>, ClientError> {
    if !delta.is_worth(connection, file.size()) {
        return Ok(None);
    }
    let put_delta = async {
        match plan(connection, put, file, delta).await? {
            Some(plan) => plan.send(connection, put, file, moved).await.map(Some),
            None => Ok(None),
        }
    };
    match put_delta.await {
        Err(error) if leads_to_whole(&error) => Ok(None),
        stored => stored,
    }
}

/// What is sent of a file.
struct DeltaUploadPlan {
    base: Version,
    steps: Vec<UploadStep>,
    /// Digest of the whole file.
    digest: Digest,
}

/// A part of the file, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadStep {
    /// What the server has at an offset.
    Copy(CopyStep),
    /// What is sent: an offset in the local file, and a length.
    Data(u64, u64),
}

/// Compares the file with the one on the server.
async fn plan(
    connection: &Connection,
    put: &Put,
    file: &LocalFile,
    delta: Delta,
) -> Result<Option<DeltaUploadPlan>, ClientError> {
    let request = Chunks {
        path: put.path.clone(),
        // Nobody needs it.
        digest: DigestKind::default(),
        precondition: put.precondition.clone(),
    };
    let opened = match RemoteChunks::open(connection, request).await {
        // What is wrong shows again, or is none of the upload's business.
        Err(error) if error.code().is_some() => return Ok(None),
        opened => opened?,
    };
    let Some(mut list) = opened else {
        return Ok(None);
    };
    let ChunkHead {
        version: base,
        size,
        parameters,
    } = list.head().clone();
    if !delta.is_worth(connection, size) {
        return Ok(None);
    }
    let mut local = LocalChunks::start(file.clone(), parameters, put.digest.hasher());
    let compared = async {
        let index = index(&mut list).await?;
        let mut steps = Vec::new();
        let is_common = |chunk: Chunk, offset| {
            let there = index.get(&chunk.id).copied();
            add(&mut steps, chunk, offset, there);
            there.is_some()
        };
        let common = compare(&mut local, is_common).await;
        let is_enough = common.is_some_and(|common| is_enough(common, file.size()));
        Ok::<_, ClientError>(is_enough.then_some(steps))
    };
    let compared = compared.await;
    // In any case before something else reads the file.
    let digest = local.end().await;
    let (Some(steps), Some(digest)) = (compared?, digest?) else {
        return Ok(None);
    };
    Ok(Some(DeltaUploadPlan {
        base,
        steps,
        digest,
    }))
}

/// Where the server has which chunk.
async fn index(list: &mut RemoteChunks) -> Result<HashMap<ChunkId, u64>, ClientError> {
    let mut index = HashMap::new();
    let mut offset = 0;
    while let Some(chunks) = list.next().await? {
        for chunk in chunks {
            index.entry(chunk.id).or_insert(offset);
            offset += u64::from(chunk.length);
        }
    }
    Ok(index)
}

/// Adds a chunk of the local file, which the server has at `there`, and joins it with the one before
/// where both are.
fn add(steps: &mut Vec<UploadStep>, chunk: Chunk, offset: u64, there: Option<u64>) {
    let more = u64::from(chunk.length);
    match (steps.last_mut(), there) {
        (Some(UploadStep::Data(_, length)), None) => *length += more,
        (Some(UploadStep::Copy(step)), Some(there)) if step.offset + step.length == there => {
            step.length += more;
        }
        (_, None) => steps.push(UploadStep::Data(offset, more)),
        (_, Some(offset)) => steps.push(UploadStep::Copy(CopyStep {
            offset,
            length: more,
        })),
    }
}

impl DeltaUploadPlan {
    async fn send(
        self,
        connection: &Connection,
        put: &Put,
        file: &LocalFile,
        moved: &AtomicU64,
    ) -> Result<Stored, ClientError> {
        let (mut length, mut copied) = (0, 0);
        for step in &self.steps {
            length += encoded(step).len() as u64;
            match step {
                UploadStep::Copy(step) => copied += step.length,
                UploadStep::Data(_, data) => length += data,
            }
        }
        let (sender, receiver) = connection.open().await?;
        let content = file.clone().into_content();
        let request = PutDelta {
            put: put.clone(),
            base: self.base,
        };
        let outgoing = Outgoing {
            request: Some(request.into()),
            length: Some(length),
            digest_kind: put.digest,
            hasher: put.digest.hasher(),
            known_digest: Some(self.digest),
            extents: None,
            content: UploadBody {
                source: DeltaStepReader::new(self.steps, content.source),
                path: content.path,
                snapshot: content.snapshot,
            },
        };
        moved.fetch_add(copied, Ordering::Relaxed);
        let stored = outgoing.send(connection, sender, receiver, moved).await?;
        Ok(Stored {
            bytes: file.size(),
            part: PartUse::Copied(copied),
            ..stored
        })
    }
}

/// A step as it travels, without its bytes.
fn encoded(step: &UploadStep) -> Vec<u8> {
    let step = match *step {
        UploadStep::Copy(step) => DeltaStep::Copy(step),
        UploadStep::Data(_, length) => DeltaStep::Data(DataStep { length }),
    };
    // A few numbers are never too long.
    codec::encode(&step).unwrap_or_default()
}

/// Reads the steps as they travel, with their bytes from the local file.
#[derive(Debug)]
struct DeltaStepReader {
    steps: std::vec::IntoIter<UploadStep>,
    file: FromStart,
    /// What comes next: a step, and then so many bytes of the file.
    head: io::Cursor<Vec<u8>>,
    data: u64,
}

impl DeltaStepReader {
    fn new(steps: Vec<UploadStep>, file: FromStart) -> Self {
        Self {
            steps: steps.into_iter(),
            file,
            head: io::Cursor::default(),
            data: 0,
        }
    }
}

impl Read for DeltaStepReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.head.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if self.data > 0 {
                let read = (&mut self.file).take(self.data).read(buffer)?;
                self.data -= read as u64;
                // None if the file has become shorter.
                return Ok(read);
            }
            let Some(step) = self.steps.next() else {
                return Ok(0);
            };
            self.head = io::Cursor::new(encoded(&step));
            if let UploadStep::Data(offset, length) = step {
                self.file.seek_to(offset);
                self.data = length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_joined_where_both_files_go_on() {
        let chunk = |length| Chunk {
            length,
            id: ChunkId::of(b""),
        };
        let mut steps = Vec::new();
        let mut offset = 0;
        for (length, there) in [
            (5, None),
            (6, None),
            (7, Some(100)),
            (8, Some(107)),
            (9, Some(0)),
            (1, None),
        ] {
            add(&mut steps, chunk(length), offset, there);
            offset += u64::from(length);
        }
        let copy = |offset, length| UploadStep::Copy(CopyStep { offset, length });
        let expected = [
            UploadStep::Data(0, 11),
            copy(100, 15),
            copy(0, 9),
            UploadStep::Data(35, 1),
        ];
        assert_eq!(steps, expected);
    }
}
