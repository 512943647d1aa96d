//! Request of one stream: read, dispatch, reply.
//!
//! [`dispatch`] has the `match` over all requests, in the order of the protocol. A request is
//! decoded, carried out by [`Files`](crate::files::Files) and answered. A request with more than one
//! message for that has a file under `requests/`.

use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Changed, DetailKinds, Done, Hashed, Ping, Pong, Request};
use quire_transport::stream::{Receiver, Sender};
use tracing::debug;

use super::Shared;
use super::error::RequestError;
use super::reply::{answer, refuse};
use super::requests::{
    chunks, get, get_many, get_tree, list, list_cache, put, put_delta, put_many, uploads,
};
use super::session::Session;

/// Outcome of a request, as far as it matters to the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The request was carried out or refused.
    Answered,
    /// The client cancelled the request, or sent one that can't be decoded.
    Cancelled,
}

/// Serves the request of one stream, until the client cancels it or is gone.
///
/// Whatever a request does or waits for is then dropped, which also stops its work on blocking
/// threads. Only a commit that has begun runs to its end: it is owned by
/// [`Files`](crate::files::Files).
pub(crate) async fn serve(send: SendStream, recv: RecvStream, session: Arc<Session>) -> RequestEnd {
    let flow = &session.flow;
    // 0-RTT data can be a replay by an attacker (RFC 9001, section 9.2).
    let is_early = recv.is_0rtt();
    let mut sender = Sender::new(send, flow);
    let mut receiver = Receiver::new(recv, flow);
    sender.set_limits(session.limits.clone());
    receiver.set_limits(session.limits.clone());
    let given_up = sender.given_up();
    // For the log.
    let mut asked = None;
    let serving = async {
        if let Some(requests) = &session.requests {
            requests.take(1).await;
        }
        let request = read(&mut receiver, &session.shared, is_early).await?;
        debug!(?request, "asked");
        asked = Some(request.clone());
        dispatch(request, &session, &mut sender, &mut receiver, is_early).await
    };
    let served = tokio::select! {
        // In this order, so that a request that is done counts as done.
        biased;
        served = serving => served,
        () = given_up => Err(RequestError::Cancelled),
    };
    let Err(error) = served else {
        debug!("answered");
        return RequestEnd::Answered;
    };
    if error.is_stall() {
        session.shared.metrics.stall_time.add_one();
    }
    refuse(sender, receiver, &error, asked.as_ref()).await;
    match error.code() {
        ErrorCode::CANCELLED | ErrorCode::MALFORMED | ErrorCode::MESSAGE_TOO_LONG => {
            RequestEnd::Cancelled
        }
        _ => RequestEnd::Answered,
    }
}

async fn read(
    receiver: &mut Receiver,
    shared: &Shared,
    is_early: bool,
) -> Result<Request, RequestError> {
    let time = shared.limits.request_time.0;
    let Ok(request) = tokio::time::timeout(time, receiver.receive::<Request>()).await else {
        shared.metrics.request_time.add_one();
        return Err(RequestError::Timeout);
    };
    match request? {
        // A replayed request that changes something would change it twice. The client sends the
        // request again once the handshake is complete.
        request if is_early && !request.may_be_early() => Err(RequestError::TooEarly),
        request => Ok(request),
    }
}

async fn dispatch(
    request: Request,
    session: &Session,
    sender: &mut Sender,
    receiver: &mut Receiver,
    is_early: bool,
) -> Result<(), RequestError> {
    let files = &session.shared.files;
    let caller = &*session.caller();
    let changed = |version| Changed { version };
    match request {
        Request::Ping(ping) => answer(sender, pong(&ping, session)?).await,
        Request::Get(get) => get::serve(get, files, caller, sender, is_early).await,
        Request::Put(put) => put::serve(put, files, caller, sender, receiver).await,
        Request::List(list) => list::serve(list, files, caller, sender).await,
        Request::Stat(stat) => answer(sender, files.stat(caller, &stat).await?).await,
        Request::Rename(rename) => {
            answer(sender, changed(files.rename(caller, rename).await?)).await
        }
        Request::Delete(delete) => {
            files.delete(caller, delete).await?;
            answer(sender, Done {}).await
        }
        Request::MakeDirectory(make) => {
            answer(sender, changed(files.make_directory(caller, make).await?)).await
        }
        Request::Copy(copy) => answer(sender, files.copy(caller, copy).await?).await,
        Request::Hash(hash) => {
            let hashed = files.hash(caller, &hash.path, hash.digest).await?;
            let hashed = Hashed {
                digest: hashed.digest,
                size: hashed.attributes.size,
                version: hashed.attributes.version,
                grew: hashed.grew,
            };
            answer(sender, hashed).await
        }
        Request::ListCache(_) => list_cache::serve(files, caller, sender).await,
        Request::GetTree(get) => get_tree::serve(get, files, caller, sender).await,
        Request::PutMany(_) => put_many::serve(files, caller, sender, receiver).await,
        Request::ResumePut(resume) => put::resume(resume, files, caller, sender, receiver).await,
        Request::Uploads(request) => uploads::serve(request, files, caller, sender).await,
        Request::GetMany(get) => get_many::serve(get, files, caller, sender, receiver).await,
        Request::Chunks(request) => chunks::serve(request, files, caller, sender).await,
        Request::MakeSymlink(link) => {
            answer(sender, changed(files.make_symlink(caller, link).await?)).await
        }
        Request::PutDelta(put) => put_delta::serve(put, files, caller, sender, receiver).await,
        Request::Chmod(chmod) => answer(sender, changed(files.chmod(caller, chmod).await?)).await,
        Request::Pair(pair) => {
            let Session {
                shared,
                peer,
                connection,
                ..
            } = session;
            answer(sender, shared.gate.pair(pair, peer, connection).await?).await
        }
    }
}

/// Makes the reply to `Ping`: the server's software, whether the client may change anything, and
/// what was measured of its transfer.
fn pong(ping: &Ping, session: &Session) -> Result<Pong, RequestError> {
    let measured = |transfer| session.meters.lock().measured(transfer);
    let files = &session.shared.files;
    let caller = session.caller();
    let writable = files.is_writable(&caller)?;
    Ok(Pong {
        software: concat!("quire-server ", env!("CARGO_PKG_VERSION")).to_owned(),
        writable,
        measured: ping.transfer.map(measured),
        details: DetailKinds::ALL,
        remembers: files.remembers(&caller).filter(|_| writable),
    })
}
