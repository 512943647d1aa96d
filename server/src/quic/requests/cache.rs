//! `Cache`: what the memory cache holds.

use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::protocol::{CacheEntry, CachePage, Reply};
use quire_transport::stream::Sender;

use crate::auth::access::Access;
use crate::error::RequestError;
use crate::files::cache::Snapshot;
use crate::state::State;

/// Sends a snapshot of the cache, as far as the client may see the names in it, page by page.
pub(crate) async fn serve(
    access: &Access,
    state: &State,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let Snapshot {
        entries,
        limit,
        live: _,
    } = state.cache.list();
    let mut page = CachePage {
        limit,
        ..CachePage::default()
    };
    let mut bytes = PAGE_FRAME_BYTES;
    let shown = entries
        .into_iter()
        .filter(|entry| access.may_list(&entry.path));
    for entry in shown {
        let needed = encoded_bytes(&entry);
        if bytes + needed > PAGE_BYTES_MAX {
            let full = std::mem::replace(
                &mut page,
                CachePage {
                    limit,
                    ..CachePage::default()
                },
            );
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

/// The most bytes that an entry takes in a page.
fn encoded_bytes(entry: &CacheEntry) -> usize {
    let path: usize = entry
        .path
        .names()
        .iter()
        .map(|name| name.as_str().len() + 3)
        .sum();
    path + ENTRY_FRAME_BYTES
}

/// What a page takes beside its entries: reply, map and array heads, the limit.
const PAGE_FRAME_BYTES: usize = 64;

/// What an entry takes beside its names: a map of four keys and three numbers of nine bytes.
const ENTRY_FRAME_BYTES: usize = 48;
