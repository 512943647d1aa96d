//! `ListCache`: the entries of the content cache, page by page.

use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::protocol::{CacheEntry, CachePage, Reply};
use quire_transport::stream::Sender;

use crate::files::{Caller, Files};
use crate::quic::error::RequestError;

/// Sends a snapshot of the cache, with the entries that the client may list.
pub(crate) async fn serve(
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let cached = files.cached(caller)?;
    let new_page = || CachePage {
        limit: cached.limit,
        ..CachePage::default()
    };
    let mut page = new_page();
    let mut bytes = PAGE_FRAME_BYTES;
    for entry in cached.entries {
        let needed = encoded_bytes(&entry);
        if bytes + needed > PAGE_BYTES_MAX {
            let full = std::mem::replace(&mut page, new_page());
            sender.send(&Reply::Ok(full)).await?;
            bytes = PAGE_FRAME_BYTES;
        }
        bytes += needed;
        page.entries.push(entry);
    }
    page.last = true;
    sender.send(&Reply::Ok(page)).await?;
    sender.finish_and_wait().await?;
    Ok(())
}

/// Upper bound of the bytes of an entry in a page.
fn encoded_bytes(entry: &CacheEntry) -> usize {
    let names = entry.path.names().iter();
    let path: usize = names.map(|name| name.as_str().len() + 3).sum();
    path + ENTRY_FRAME_BYTES
}

/// Upper bound of the bytes of a page without its entries: reply, map and array heads, the limit.
const PAGE_FRAME_BYTES: usize = 64;

/// Upper bound of the bytes of an entry without its names: a map of four keys, and three numbers of
/// nine bytes.
const ENTRY_FRAME_BYTES: usize = 48;
