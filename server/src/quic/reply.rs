//! Replies to requests: one message, or an error code.

use quire_shared::ErrorCode;
use quire_shared::codec::{self, DecodeError};
use quire_shared::protocol::{Done, Failure, Message, Reply, Request};
use quire_transport::stream::{Receiver, SendError, Sender};
use tracing::{debug, error, warn};

use super::error::RequestError;
use crate::files::Error;

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
pub(crate) async fn refuse(
    mut sender: Sender,
    mut receiver: Receiver,
    error: &RequestError,
    request: Option<&Request>,
) {
    let code = report(error, request);
    if sender.has_sent() {
        // After a part of a reply, a failure message would be decoded as its next part. A reset
        // tells the client that all it got on this stream is invalid.
        sender.reset(code);
        return;
    }
    let sent = reply_failure(&mut sender, error.failure()).await;
    receiver.stop(code);
    if let Err(error) = sent {
        debug!(%error, "could not send the refusal");
    }
}

async fn reply_failure(sender: &mut Sender, failure: Failure) -> Result<(), SendError> {
    sender.send(&Reply::<Done>::Failed(failure)).await?;
    sender.finish()
}

/// Logs an error with the request that it ended, and returns its code for the client. What the
/// operator can do something about is logged at the default level, with what that is.
fn report(error: &RequestError, request: Option<&Request>) -> ErrorCode {
    let advice = error.advice();
    let request = request.map(tracing::field::debug);
    let code = error.code();
    let error_value = error as &dyn std::error::Error;
    if error.is_ours() {
        error!(error = error_value, request, advice, "failed");
    } else if advice.is_some() {
        warn!(error = error_value, request, advice, "refused");
    } else {
        debug!(error = error_value, request, "refused");
    }
    code
}

/// Logs `error`, and returns the failure message for the client.
pub(crate) fn failure(error: impl Into<RequestError>) -> Failure {
    let error = error.into();
    report(&error, None);
    error.failure()
}

/// As [`failure`], for one of many items of a request. Of errors with advice, only the first of a
/// request is logged at the default level: a full disk concerns all items that follow.
pub(crate) fn failure_of_item(error: Error, is_advised: &mut bool) -> Failure {
    let error = RequestError::from(error);
    if *is_advised && !error.is_ours() {
        debug!(error = &error as &dyn std::error::Error, "refused");
        return error.failure();
    }
    *is_advised |= error.advice().is_some();
    failure(error)
}

/// Appends an encoded message to `bytes`, which holds several messages that are sent together.
pub(crate) fn append<M: Message>(message: &M, bytes: &mut Vec<u8>) -> Result<(), RequestError> {
    let too_long = |error: DecodeError| RequestError::Send(SendError::Message(error));
    codec::append(message, bytes).map_err(too_long)
}
