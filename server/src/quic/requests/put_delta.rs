//! `PutDelta`: steps that make a file from an older version of it, and a trailer with the digest.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quire_shared::codec::DecodeError;
use quire_shared::digest::Digest;
use quire_shared::protocol::{Changed, CopyStep, DataStep, DeltaStep, PutDelta, Trailer};
use quire_transport::body::{self, BodySink, Length};
use quire_transport::stream::{ReceiveError, Receiver, Sender};

use super::put::READ_BYTES_PER_SECOND;
use crate::files::{Caller, DeltaUpload, Files};
use crate::quic::error::RequestError;
use crate::quic::reply::answer;

/// Receives the steps, and replies when the file is durable under its name.
pub(crate) async fn serve(
    request: PutDelta,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let size = request.put.size;
    let size = size.ok_or(ReceiveError::Decode(DecodeError::Malformed))?;
    let mut upload = files.put_delta(caller, request).await?;
    // The client may still be comparing what it has.
    receiver.allow_stall(Duration::from_secs(size / READ_BYTES_PER_SECOND));
    match receive(&mut upload, receiver).await {
        Ok(digest) => {
            let version = upload.commit(&digest).await?;
            answer(sender, Changed { version }).await
        }
        Err(error) => {
            // So that nothing writes to what is removed now. The first error is the one to report.
            let _ = upload.settle().await;
            Err(error)
        }
    }
}

async fn receive(
    upload: &mut DeltaUpload,
    receiver: &mut Receiver,
) -> Result<Digest, RequestError> {
    let moved = AtomicU64::new(0);
    while upload.left() > 0 {
        match receiver.receive().await? {
            // Steps without a byte would never end.
            DeltaStep::Copy(CopyStep { length: 0, .. })
            | DeltaStep::Data(DataStep { length: 0 }) => {
                return Err(ReceiveError::Decode(DecodeError::Malformed).into());
            }
            DeltaStep::Copy(step) => receiver.disk(upload.copy(step)).await?,
            DeltaStep::Data(DataStep { length }) => {
                upload.expect(length)?;
                body::receive_into(receiver, upload, Length::Declared(length), &moved).await?;
            }
        }
    }
    let Trailer { digest, .. } = receiver.receive().await?;
    receiver.expect_end().await?;
    Ok(digest)
}
