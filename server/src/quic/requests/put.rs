//! `Put`: a body, and a trailer with its digest.

use std::sync::atomic::AtomicU64;

use quire_shared::protocol::{Changed, Put, Trailer};
use quire_transport::body::{self, Length};
use quire_transport::stream::{Receiver, Sender};

use crate::files::{Caller, Files};
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
    let mut upload = files.put(caller, request).await?;
    let moved = AtomicU64::new(0);
    body::receive_into(receiver, &mut upload, Length::from(size), &moved).await?;
    let Trailer { digest, .. } = receiver.receive().await?;
    receiver.expect_end().await?;
    let version = upload.commit(&digest).await?;
    answer(sender, Changed { version }).await
}
