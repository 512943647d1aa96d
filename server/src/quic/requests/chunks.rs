//! `Chunks`: the list of a file's chunks, page by page, while the file is read.

use quire_shared::chunks::PACKED_BYTES;
use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::protocol::{ChunkPage, Chunks, Reply};
use quire_transport::stream::Sender;

use crate::files::{Caller, ChunkListPart, Files};
use crate::quic::error::RequestError;

/// Sends what the list is of at once, and then each page when it is known. Reads on only when the
/// client has taken the page before.
pub(crate) async fn serve(
    request: Chunks,
    files: &Files,
    caller: &Caller,
    sender: &mut Sender,
) -> Result<(), RequestError> {
    let mut listing = files.chunks(caller, &request).await?;
    let head = ChunkPage {
        head: Some(listing.head()),
        ..ChunkPage::default()
    };
    sender.send(&Reply::Ok(head)).await?;
    loop {
        let part = sender.disk(listing.next(CHUNKS_PER_PAGE)).await?;
        let ChunkListPart { chunks, digest } = part;
        let is_last = digest.is_some();
        let page = ChunkPage {
            head: None,
            chunks: chunks.into_iter().collect(),
            digest,
        };
        sender.send(&Reply::Ok(page)).await?;
        if is_last {
            sender.finish_and_wait().await?;
            return Ok(());
        }
    }
}

/// Chunks of a page: as many as fit beside a digest.
const CHUNKS_PER_PAGE: usize = (PAGE_BYTES_MAX - PAGE_FRAME_BYTES) / PACKED_BYTES;

/// Upper bound of the bytes of a page without its chunks.
const PAGE_FRAME_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use quire_shared::chunks::{Chunk, ChunkId};
    use quire_shared::codec;
    use quire_shared::digest::DigestKind;

    use super::*;

    #[test]
    fn a_full_page_is_within_its_limit() {
        let chunk = Chunk {
            length: u32::MAX,
            id: ChunkId::of(b""),
        };
        let page = ChunkPage {
            head: None,
            chunks: std::iter::repeat_n(chunk, CHUNKS_PER_PAGE).collect(),
            digest: Some(DigestKind::Blake3.of(b"")),
        };
        let bytes = codec::encode(&Reply::Ok(page)).unwrap();
        assert!(bytes.len() > PAGE_BYTES_MAX - 2 * PAGE_FRAME_BYTES);
    }
}
