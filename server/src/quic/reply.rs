//! Replies to requests: one message, or an error code.

use quire_shared::ErrorCode;
use quire_shared::codec::{self, DecodeError};
use quire_shared::protocol::{Done, Failure, Message, Reply};
use quire_transport::stream::{Receiver, SendError, Sender};
use tracing::{debug, error};

use super::error::RequestError;

/// Sends the reply of a successful request, and waits until the client has acknowledged it.
pub(crate) async fn answer<M: Message>(
    sender: &mut Sender,
    message: M,
) -> Result<(), RequestError> {
    sender.send(&Reply::Ok(message)).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// Sends the error code of a failed request to the client, and logs the details.
pub(crate) async fn refuse(mut sender: Sender, mut receiver: Receiver, error: &RequestError) {
    let code = report(error);
    if sender.has_sent() {
        // After a part of a reply, a failure message would be decoded as its next part. A reset
        // tells the client that all it got on this stream is invalid.
        sender.reset(code);
        return;
    }
    let sent = reply_failure(&mut sender, code).await;
    receiver.stop(code);
    if let Err(error) = sent {
        debug!(%error, "could not send the refusal");
    }
}

async fn reply_failure(sender: &mut Sender, code: ErrorCode) -> Result<(), SendError> {
    let failure = Failure::new(code);
    sender.send(&Reply::<Done>::Failed(failure)).await?;
    sender.finish()
}

/// Logs an error, and returns its code for the client.
pub(crate) fn report(error: &RequestError) -> ErrorCode {
    if error.is_ours() {
        error!(error = error as &dyn std::error::Error, "failed");
    } else {
        debug!(error = error as &dyn std::error::Error, "refused");
    }
    error.code()
}

/// Logs `error`, and returns the failure message for the client.
pub(crate) fn failure(error: impl Into<RequestError>) -> Failure {
    Failure::new(report(&error.into()))
}

/// Appends an encoded message to `bytes`, which holds several messages that are sent together.
pub(crate) fn append<M: Message>(message: &M, bytes: &mut Vec<u8>) -> Result<(), RequestError> {
    let too_long = |error: DecodeError| RequestError::Send(SendError::Message(error));
    codec::append(message, bytes).map_err(too_long)
}
