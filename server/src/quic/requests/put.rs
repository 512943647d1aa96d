//! `Put` and `ResumePut`: a body, and a trailer with the digest of the file.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quire_shared::ErrorCode;
use quire_shared::codec::DecodeError;
use quire_shared::protocol::{Changed, Put, PutOffset, Reply, ResumePut, Trailer};
use quire_transport::body::extents::receive_extents_into;
use quire_transport::body::{self, Length};
use quire_transport::stream::{ReceiveError, Receiver, Sender};

use crate::files::{Caller, Files, Upload};
use crate::quic::error::RequestError;
use crate::quic::reply::answer;

/// Receives the content of a file, and replies when it is durable under its name.
pub(crate) async fn serve(
    request: Put,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let size = request.size;
    receiver.expect_body(size);
    let upload = files.put(caller, request).await?;
    receive(upload, Framing::Plain(Length::from(size)), sender, receiver).await
}

/// Says how much of a file is there, receives the rest, and replies when it is durable under its
/// name.
pub(crate) async fn resume(
    ResumePut {
        put: request,
        in_extents: data,
    }: ResumePut,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let (Some(size), Some(_)) = (request.size, request.modified) else {
        return Err(ReceiveError::Decode(DecodeError::Malformed).into());
    };
    let upload = files.resume_put(caller, request, data).await?;
    let offset = upload.offset();
    receiver.expect_body(Some(size - offset));
    // The client reads what is there as well before it sends more.
    receiver.allow_stall(Duration::from_secs(offset / READ_BYTES_PER_SECOND));
    let in_extents = upload.takes_extents();
    let answer = PutOffset { offset, in_extents };
    sender.send(&Reply::Ok(answer)).await?;
    let framing = match in_extents {
        true => Framing::Extents(size - offset),
        false => Framing::Plain(Length::Declared(size - offset)),
    };
    receive(upload, framing, sender, receiver).await
}

/// How a body comes.
enum Framing {
    Plain(Length),
    /// In extents of so many bytes together.
    Extents(u64),
}

async fn receive(
    mut upload: Upload,
    framing: Framing,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let superseded = upload.superseded();
    let moved = AtomicU64::new(0);
    let receiving = async {
        match framing {
            Framing::Plain(length) => {
                body::receive_into(receiver, &mut upload, length, &moved).await?;
            }
            Framing::Extents(length) => {
                receive_extents_into(receiver, &mut upload, length, &moved).await?;
            }
        }
        let Trailer { digest, .. } = receiver.receive().await?;
        receiver.expect_end().await?;
        Ok(digest)
    };
    let received = tokio::select! {
        received = receiving => received,
        () = superseded.cancelled() => Err(RequestError::Superseded),
    };
    match received {
        Ok(digest) => {
            let version = upload.commit(&digest).await?;
            answer(sender, Changed { version }).await
        }
        Err(error) => {
            // The client's file isn't what it was: this is the part of none.
            if error.is_reset_with(ErrorCode::CHANGED) {
                upload.discard().await;
            }
            Err(error)
        }
    }
}

/// Bytes that a client reads in a second at least, to prove what the server has already: as a disk
/// that isn't the fastest.
pub(super) const READ_BYTES_PER_SECOND: u64 = 50 * 1024 * 1024;
