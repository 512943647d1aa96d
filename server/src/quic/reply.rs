//! Answers to requests: one reply, or the code of a refusal.

use quire_shared::ErrorCode;
use quire_shared::codec::{self, DecodeError};
use quire_shared::protocol::{Done, Failure, Message, Reply};
use quire_transport::stream::{Receiver, SendError, Sender};
use tracing::{debug, error};

use super::error::RequestError;

/// Sends the one reply of a request that was carried out, and waits until it has arrived.
pub(crate) async fn answer<M: Message>(
    sender: &mut Sender,
    message: M,
) -> Result<(), RequestError> {
    sender.send(&Reply::Ok(message)).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// Tells the client why its request was not carried out; the log keeps the details.
pub(crate) async fn refuse(mut sender: Sender, mut receiver: Receiver, error: &RequestError) {
    let code = report(error);
    if sender.has_sent() {
        // Part of an answer is out already, so only the stream itself can say that it is void.
        sender.reset(code);
        return;
    }
    let sent = reply_failure(&mut sender, code).await;
    receiver.stop(code);
    if let Err(error) = sent {
        debug!(%error, "the refusal did not arrive");
    }
}

async fn reply_failure(sender: &mut Sender, code: ErrorCode) -> Result<(), SendError> {
    let failure = Failure::new(code);
    sender.send(&Reply::<Done>::Failed(failure)).await?;
    sender.finish()
}

/// Logs why something was not carried out, and gives the code that the client hears.
pub(crate) fn report(error: &RequestError) -> ErrorCode {
    if error.is_ours() {
        error!(error = error as &dyn std::error::Error, "failed");
    } else {
        debug!(error = error as &dyn std::error::Error, "refused");
    }
    error.code()
}

/// The failure to send for `error`, which is logged.
pub(crate) fn failure(error: impl Into<RequestError>) -> Failure {
    Failure::new(report(&error.into()))
}

/// Encodes a message behind others that are sent together.
pub(crate) fn append<M: Message>(message: &M, bytes: &mut Vec<u8>) -> Result<(), RequestError> {
    let too_long = |error: DecodeError| RequestError::Send(SendError::Message(error));
    codec::append(message, bytes).map_err(too_long)
}
