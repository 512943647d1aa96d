//! `List`: the entries of a directory, page by page.

use quire_shared::Name;
use quire_shared::limits::{NAME_BYTES_MAX, PAGE_BYTES_MAX, RAW_NAMES_MAX};
use quire_shared::protocol::{List, Page, Reply};
use quire_transport::stream::Sender;

use crate::files::{Caller, Error, Files, PART_TARGETS_BYTES_MAX};
use crate::quic::error::RequestError;

/// Sends page after page; reads the next page only when the client has flow-control credit for it.
pub(crate) async fn serve(
    request: List,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let mut listing = files.list(caller, request).await?;
    loop {
        let mut bytes = PAGE_FRAME_BYTES;
        let fits = move |name: &Name| {
            bytes += entry_bytes(name);
            bytes <= PAGE_BYTES_MAX - PART_TARGETS_BYTES_MAX
        };
        let (part, rest) = listing.next(fits).await.map_err(Error::from)?;
        listing = rest;
        let last = part.is_last;
        if part.entries.is_empty() && !last {
            // All its names were removed since they were read. A client takes such pages for a server
            // that keeps it busy.
            continue;
        }
        let page = Page {
            entries: part.entries,
            last,
            unnameable: part.unnameable.count,
            raw_names: part.unnameable.names,
        };
        sender.send(&Reply::Ok(page)).await?;
        if last {
            sender.finish_and_wait().await?;
            return Ok(());
        }
    }
}

/// Upper bound of the bytes of an entry in a page.
fn entry_bytes(name: &Name) -> usize {
    name.as_str().len() + ENTRY_FRAME_BYTES
}

/// Upper bound of the bytes of an entry without its name. These are the heads of the maps and of
/// the name, kind, size, time, mode, the version, and the identity of a file with several names.
const ENTRY_FRAME_BYTES: usize = 132;

/// Upper bound of the bytes of a page without its entries.
const PAGE_FRAME_BYTES: usize = 64 + RAW_NAMES_MAX * (NAME_BYTES_MAX + 3);

#[cfg(test)]
mod tests {
    use quire_shared::codec;
    use quire_shared::limits::VERSION_BYTES_MAX;
    use quire_shared::path::RawName;
    use quire_shared::protocol::{Attributes, Entry, EntryKind, HardLinkId, Time, Version};

    use super::*;

    #[test]
    fn no_entry_is_longer_than_its_upper_bound() {
        let mut page = Page {
            unnameable: u64::MAX,
            raw_names: vec![RawName::new(&[0xff; NAME_BYTES_MAX]).unwrap(); RAW_NAMES_MAX],
            ..Page::default()
        };
        let empty = codec::encode(&Reply::Ok(page.clone())).unwrap().len();
        assert!(empty + 8 <= PAGE_FRAME_BYTES, "with the count of entries");
        let name = Name::new("x".repeat(NAME_BYTES_MAX)).unwrap();
        let estimate = entry_bytes(&name);
        page.entries.push(Entry {
            name,
            attributes: Attributes {
                kind: EntryKind::Other,
                size: u64::MAX,
                modified: Time {
                    seconds: i64::MIN,
                    nanoseconds: u32::MAX,
                },
                mode: u32::MAX,
                version: Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap(),
                target: None,
                details: None,
                hard_link: Some(HardLinkId::of(u128::MAX)),
            },
        });
        let full = codec::encode(&Reply::Ok(page)).unwrap().len();
        assert!(full - empty <= estimate, "{}", full - empty);
    }
}
