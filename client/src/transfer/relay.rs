//! A file of one server that goes to another through this client, without being kept here.

use std::io::{self, PipeReader, Read, pipe};
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, channel};

use quire_shared::RemotePath;
use quire_shared::protocol::{Get, Put};

use crate::client::Client;
use crate::details::Keep;
use crate::download::WriteToError;
use crate::error::ClientError;
use crate::upload::{Stored, UploadBody};

/// Copies the file `from` of `source` to what `put` says on `target`, with its time and permissions as far
/// as `put` preserves them, and the details that `keep` says. The target publishes it only if what came from the source
/// was verified. `moved` counts the bytes once.
///
/// # Errors
/// The refusal of either server, a broken connection, or content that changed or was damaged.
pub async fn relay(
    (source, from): (&Client, &RemotePath),
    (target, put): (&Client, Put),
    keep: Keep,
    moved: &AtomicU64,
) -> Result<Stored, ClientError> {
    let get = Get {
        path: from.clone(),
        digest: put.digest,
        details: keep.kinds,
        ..Get::default()
    };
    let download = source.get(get).await?;
    let header = download.header();
    let put = Put {
        // Without a size the body ends where the reader says so, after the digest was compared.
        size: None,
        modified: Some(header.modified),
        mode: Some(header.mode),
        details: keep.told(header.details.clone())?,
        ..put
    };
    let piping = |error| ClientError::disk("a pipe".as_ref(), "make", error);
    let (reader, writer) = pipe().map_err(piping)?;
    let (verified, is_verified) = channel();
    let receiving = async {
        let uncounted = AtomicU64::new(0);
        let received = download.write_to(writer, &uncounted).await;
        // Fails only if the other end is gone, which has its own reason.
        let _ = verified.send(received.is_ok());
        received.map(drop)
    };
    let body = VerifiedPipe {
        reader,
        is_verified,
        has_ended: false,
    };
    let sending = target.put(put, UploadBody::stream(body, &from.to_string()), moved);
    let (received, stored) = tokio::join!(receiving, sending);
    match (received, stored) {
        (Err(WriteToError::Client(error)), _) => Err(error),
        // The pipe breaks where the target stops reading.
        (Err(WriteToError::Sink(_)) | Ok(()), stored) => stored,
    }
}

/// The end of a pipe, which is an end of the content only if that was verified.
struct VerifiedPipe {
    reader: PipeReader,
    is_verified: Receiver<bool>,
    has_ended: bool,
}

impl Read for VerifiedPipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.has_ended {
            match self.is_verified.recv() {
                Ok(true) => self.has_ended = true,
                Ok(false) | Err(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(read)
    }
}
