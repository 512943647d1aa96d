//! `Put`: a new content for a file.
//!
//! The body goes into a staged file that has no name yet, without a lock; only publishing it under
//! its name takes one. The client hears of success when the content is durable.

use std::sync::atomic::AtomicU64;

use quire_shared::protocol::{Changed, Put, Trailer};
use quire_transport::body::{self, Length, Received};
use quire_transport::stream::{Receiver, Sender};

use crate::error::RequestError;
use crate::files::quota::Charged;
use crate::quic::request::{Client, answer};
use crate::state::State;
use crate::store::{Parents, StagedFile};

/// Takes the body in, and publishes it once length and digest agree.
pub(crate) async fn serve(
    request: Put,
    client: Client<'_>,
    state: &State,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<(), RequestError> {
    let parents = client.access.parents(&request.path, request.make_parents);
    let ahead = request.size.unwrap_or(0);
    let charge = client.holder.charge(ahead, 1)?;
    receiver.expect_body(request.size);
    let sink = stage(&request, parents, state).await?;
    let charged = Charged {
        sink,
        charge,
        ahead,
    };
    let Charged { sink, charge, .. } = receive(&request, charged, receiver).await?;
    let version = publish(request, parents, state, sink).await?;
    charge.keep();
    answer(sender, Changed { version }).await
}

/// Refuses what can be refused before any of the body has come, and makes room for it.
async fn stage(request: &Put, parents: Parents, state: &State) -> Result<StagedFile, RequestError> {
    let Put {
        path,
        size,
        precondition,
        ..
    } = request.clone();
    let _guard = state.locks.shared(&path).await?;
    state
        .change(move |root| {
            root.check(&path, &precondition, parents, size)?;
            root.stage(size)
        })
        .await
}

async fn receive(
    request: &Put,
    staged: Charged<StagedFile>,
    receiver: &mut Receiver,
) -> Result<Charged<StagedFile>, RequestError> {
    let (length, hasher) = (Length::from(request.size), request.digest.hasher());
    let body = body::receive(receiver, staged, length, hasher, &AtomicU64::new(0)).await?;
    let Received {
        sink,
        digest,
        length: _,
    } = body;
    let trailer: Trailer = receiver.receive().await?;
    receiver.expect_end().await?;
    if trailer.digest == digest {
        Ok(sink)
    } else {
        Err(RequestError::Damaged)
    }
}

async fn publish(
    request: Put,
    parents: Parents,
    state: &State,
    mut staged: StagedFile,
) -> Result<quire_shared::protocol::Version, RequestError> {
    let Put {
        path,
        modified,
        mode,
        precondition,
        ..
    } = request;
    let staged = state
        .change(move |_| {
            staged.seal(modified, mode)?;
            Ok(staged)
        })
        .await?;
    let _guard = state.locks.exclusive(&[&path]).await?;
    let name = path.clone();
    let version = state
        .change(move |root| root.publish(staged, &path, &precondition, parents))
        .await?;
    state.cache.forget(&name);
    Ok(version)
}
