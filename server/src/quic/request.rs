//! One request: read it, see whether the client may ask for it, carry it out, answer.
//!
//! `serve` is the one `match` over all requests, in the order of `protocol.rs`; what each does is
//! in the file of its name under `requests/`.

use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Failure, Message, Reply, Request};
use quire_transport::stream::{Receiver, SendError, Sender};
use tracing::{debug, error};

use crate::auth::access::Access;
use crate::error::RequestError;
use crate::files::quota::Holder;
use crate::quic::connection::Session;
use crate::quic::requests::{
    cache, copy, delete, get, get_tree, hash, list, make_directory, pair, ping, put, put_many,
    rename, stat,
};
use crate::state::State;

/// Serves the request of one stream.
pub(crate) async fn serve(send: SendStream, recv: RecvStream, session: Arc<Session>) -> Outcome {
    let flow = &session.flow;
    // What came before the handshake was over may be the recording of another time.
    let is_early = recv.is_0rtt();
    let mut sender = Sender::new(send, flow);
    let mut receiver = Receiver::new(recv, flow);
    sender.set_limits(session.pace.clone());
    receiver.set_limits(session.pace.clone());
    if let Some(requests) = &session.requests {
        requests.take(1).await;
    }
    let request = match read(&mut receiver, &session.state, is_early).await {
        Ok(request) => request,
        Err(error) => return refuse(sender, receiver, error, &session).await,
    };
    debug!(?request, "asked");
    let access = session.access();
    let outcome = match access.admit(request) {
        Ok(request) => {
            let state = &session.state;
            let client = Client {
                access: &access,
                holder: &session.holder,
                session: &session,
            };
            dispatch(request, client, state, &mut sender, &mut receiver).await
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {
            debug!("answered");
            Outcome::Answered
        }
        Err(error) => refuse(sender, receiver, error, &session).await,
    }
}

/// What became of a request, as far as the connection cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was carried out or refused.
    Answered,
    /// The client gave it up, or never sent one that could be read.
    GivenUp,
}

/// Who asks, as far as requests care.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    /// What it may ask for.
    pub(crate) access: &'a Access,
    /// What it shares with others of its key.
    pub(crate) holder: &'a Arc<Holder>,
    /// Its connection.
    session: &'a Session,
}

async fn read(
    receiver: &mut Receiver,
    state: &State,
    is_early: bool,
) -> Result<Request, RequestError> {
    let time = state.limits.request_time.0;
    let Ok(request) = tokio::time::timeout(time, receiver.receive::<Request>()).await else {
        state.counters.request_time.add_one();
        return Err(RequestError::Timeout);
    };
    match request? {
        request if is_early && !request.may_be_early() => Err(RequestError::TooEarly),
        request => Ok(request),
    }
}

async fn dispatch(
    request: Request,
    client: Client<'_>,
    state: &State,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let access = client.access;
    match request {
        Request::Ping(_) => answer(sender, ping::carry_out(access, state)).await,
        Request::Get(request) => get::serve(request, state, sender).await,
        Request::Put(request) => put::serve(request, client, state, sender, receiver).await,
        Request::List(request) => list::serve(request, access, state, sender).await,
        Request::Stat(request) => answer(sender, stat::carry_out(request, state).await?).await,
        Request::Rename(request) => answer(sender, rename::carry_out(request, state).await?).await,
        Request::Delete(request) => delete::serve(request, state, sender).await,
        Request::MakeDirectory(request) => {
            answer(
                sender,
                make_directory::carry_out(request, client, state).await?,
            )
            .await
        }
        Request::Copy(request) => copy::serve(request, client, state, sender).await,
        Request::Hash(request) => answer(sender, hash::carry_out(request, state).await?).await,
        Request::ListCache(_) => cache::serve(access, state, sender).await,
        Request::GetTree(request) => get_tree::serve(request, access, state, sender).await,
        Request::PutMany(_) => put_many::serve(client, state, sender, receiver).await,
        Request::Pair(pair) => answer(sender, pair::carry_out(pair, client.session).await?).await,
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
async fn refuse(
    mut sender: Sender,
    mut receiver: Receiver,
    error: RequestError,
    session: &Session,
) -> Outcome {
    let code = report(&error);
    if error.is_stall() {
        session.state.counters.stall_time.add_one();
    }
    let outcome = match code {
        ErrorCode::CANCELLED | ErrorCode::MALFORMED | ErrorCode::MESSAGE_TOO_LONG => {
            Outcome::GivenUp
        }
        _ => Outcome::Answered,
    };
    if sender.has_sent() {
        // Part of an answer is out already, so only the stream itself can say that it is void.
        sender.reset(code);
        return outcome;
    }
    let sent = reply_failure(&mut sender, code).await;
    receiver.stop(code);
    if let Err(error) = sent {
        debug!(%error, "the refusal did not arrive");
    }
    outcome
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
