//! One request: read it, see whether the client may ask for it, carry it out, answer.
//!
//! `serve` is the one `match` over all requests, in the order of `protocol.rs`; what each does is
//! in the file of its name under `requests/`.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Failure, Message, Reply, Request};
use quire_shared::stream::{Receiver, SendError, Sender};
use tracing::{debug, error};

use crate::access::Access;
use crate::connection::Session;
use crate::error::RequestError;
use crate::requests::{
    cache, copy, delete, get, get_tree, hash, list, make_directory, ping, put, put_many, rename,
    stat,
};
use crate::state::State;

/// Serves the request of one stream.
pub(crate) async fn serve(send: SendStream, recv: RecvStream, session: Arc<Session>) {
    let traffic = &session.traffic;
    let mut sender = Sender::new(send, traffic);
    let mut receiver = Receiver::new(recv, traffic);
    let request = match read(&mut receiver).await {
        Ok(request) => request,
        Err(error) => return refuse(sender, receiver, error).await,
    };
    debug!(?request, "asked");
    let access = session.access();
    let outcome = match access.admit(request) {
        Ok(request) => {
            let state = &session.state;
            dispatch(request, &access, state, &mut sender, &mut receiver).await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => debug!("answered"),
        Err(error) => refuse(sender, receiver, error).await,
    }
}

async fn read(receiver: &mut Receiver) -> Result<Request, RequestError> {
    match tokio::time::timeout(REQUEST_LIMIT, receiver.receive()).await {
        Ok(request) => Ok(request?),
        Err(_) => Err(RequestError::Timeout),
    }
}

async fn dispatch(
    request: Request,
    access: &Access,
    state: &State,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    match request {
        Request::Ping(_) => answer(sender, ping::carry_out(access, state)).await,
        Request::Get(request) => get::serve(request, state, sender).await,
        Request::Put(request) => put::serve(request, access, state, sender, receiver).await,
        Request::List(request) => list::serve(request, access, state, sender).await,
        Request::Stat(request) => answer(sender, stat::carry_out(request, state).await?).await,
        Request::Rename(request) => answer(sender, rename::carry_out(request, state).await?).await,
        Request::Delete(request) => delete::serve(request, state, sender).await,
        Request::MakeDirectory(request) => {
            answer(
                sender,
                make_directory::carry_out(request, access, state).await?,
            )
            .await
        }
        Request::Copy(request) => copy::serve(request, state, sender).await,
        Request::Hash(request) => answer(sender, hash::carry_out(request, state).await?).await,
        Request::Cache(_) => cache::serve(access, state, sender).await,
        Request::GetTree(request) => get_tree::serve(request, access, state, sender).await,
        Request::PutMany(_) => put_many::serve(access, state, sender, receiver).await,
    }
}

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
async fn refuse(mut sender: Sender, mut receiver: Receiver, error: RequestError) {
    let code = report(&error);
    if sender.has_sent() {
        // Part of an answer is out already, so only the stream itself can say that it is void.
        return sender.reset(code);
    }
    let sent = reply_failure(&mut sender, code).await;
    receiver.stop(code);
    if let Err(error) = sent {
        debug!(%error, "the refusal did not arrive");
    }
}

/// Tells the log why something was not carried out, and gives the code that the client hears.
pub(crate) fn report(error: &RequestError) -> ErrorCode {
    if error.is_ours() {
        error!(error = error as &dyn std::error::Error, "failed");
    } else {
        debug!(error = error as &dyn std::error::Error, "refused");
    }
    error.code()
}

async fn reply_failure(sender: &mut Sender, code: ErrorCode) -> Result<(), SendError> {
    sender
        .send(&Reply::<quire_shared::protocol::Done>::Failed(
            Failure::new(code),
        ))
        .await?;
    sender.finish()
}

/// How long a client may take from opening a stream to the end of its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
