//! `Uploads`: what interrupted uploads of the client have left, page by page.

use quire_shared::limits::{PAGE_BYTES_MAX, PATH_BYTES_MAX};
use quire_shared::protocol::{Reply, UploadPage, Uploads};
use quire_transport::stream::Sender;

use crate::files::{Caller, Files};
use crate::quic::error::RequestError;

/// Sends the list, after removing what is in it if the client asks for that.
pub(crate) async fn serve(
    request: Uploads,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let Uploads { path, remove } = request;
    let mut entries = files.unfinished_uploads(caller, path, remove).await?;
    loop {
        let rest = entries.split_off(entries.len().min(ENTRIES_PER_PAGE));
        let last = rest.is_empty();
        let page = UploadPage { entries, last };
        sender.send(&Reply::Ok(page)).await?;
        if last {
            sender.finish_and_wait().await?;
            return Ok(());
        }
        entries = rest;
    }
}

/// Entries of a page: as many as fit, however long their paths are.
const ENTRIES_PER_PAGE: usize = PAGE_BYTES_MAX / (2 * PATH_BYTES_MAX);

const _: () = assert!(ENTRIES_PER_PAGE > 0);
