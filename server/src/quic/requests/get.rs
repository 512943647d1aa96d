//! `Get`: a header, the body, and a trailer that tells whether the body is one whole version.

use quire_shared::ErrorCode;
use quire_shared::protocol::{Attributes, Failure, Get, GetHeader, Reply, Trailer};
use quire_transport::stream::{Priority, Sender};
use tracing::info;

use crate::files::{Caller, Content, Files};
use crate::quic::error::RequestError;

/// Sends the content of a file. The digest goes into a trailer, so that the file is read only once.
pub(crate) async fn serve(
    request: Get,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
    is_early: bool,
) -> Result<(), RequestError> {
    let mut content = files.get(caller, &request).await?;
    if is_early && content.is_in_extents() {
        // The holes are read for the digest and not sent: too much work for what may be a replay.
        return Err(RequestError::TooEarly);
    }
    let header = GetHeader {
        in_extents: content.is_in_extents(),
        ..header(content.attributes(), content.length())
    };
    sender.send(&Reply::Ok(header)).await?;
    sender.set_priority(Priority::of_body(Some(content.length())));
    if content.is_in_extents() {
        while let Some(extent) = sender.disk(content.extent()).await? {
            sender.send_bytes(extent.header()).await?;
            send_pieces(&mut content, sender).await?;
        }
    } else {
        send_pieces(&mut content, sender).await?;
    }
    let finished = content.finish().await?;
    if content.grew() {
        info!(path = %request.path, "the file grew while it was sent; sent what it had before");
    }
    let trailer = match finished {
        Some(digest) => Reply::Ok(Trailer {
            digest,
            grew: content.grew(),
        }),
        None => Reply::Failed(Failure::new(ErrorCode::CHANGED)),
    };
    sender.send(&trailer).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

async fn send_pieces(content: &mut Content, sender: &mut Sender) -> Result<(), RequestError> {
    while let Some(piece) = sender.disk(content.next(sender.piece_max())).await? {
        sender.send_bytes(piece).await?;
    }
    Ok(())
}

/// Announces `length` bytes of the content of a file.
pub(super) fn header(attributes: &Attributes, length: u64) -> GetHeader {
    GetHeader {
        version: attributes.version.clone(),
        size: attributes.size,
        length,
        modified: attributes.modified,
        mode: attributes.mode,
        in_extents: false,
        details: attributes.details.clone(),
    }
}
