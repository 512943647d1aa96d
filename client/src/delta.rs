//! Transfers of large files that move only what changed.
//!
//! Both ends cut their versions of a file into chunks where the content says so, and chunks that both
//! have don't travel. What is made of old and new bytes is proved by the digest of the whole, as any
//! transfer is. Whatever speaks against it, such as an older server or files with little in common,
//! leads to a transfer of the whole file. See PROTOCOL.md, "Delta transfers".

mod chunk_list;
mod download;
mod local_chunks;
mod upload;

use quire_shared::ErrorCode;
use quire_shared::chunks::Chunk;

use crate::error::ClientError;
use crate::exchange::Connection;

pub(crate) use download::plan;
pub(crate) use upload::put;

use local_chunks::LocalChunks;

/// Whether only what changed of a large file is moved, where another version of it is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delta {
    /// If both versions have 8 MiB or more, and the server isn't so close that the network is faster
    /// than the comparison.
    #[default]
    Auto,
    /// Also on a local network, and for smaller files that travel by themselves.
    Always,
    /// Never.
    Never,
}

impl Delta {
    /// Whether versions of that size at one end are compared over `connection`.
    pub(crate) fn is_worth(self, connection: &Connection, size: u64) -> bool {
        match self {
            Self::Auto => size >= DELTA_BYTES_MIN && !connection.flow().is_local(),
            Self::Always => size > 0,
            Self::Never => false,
        }
    }
}

/// Passes the chunks of a local file with their offsets to `is_common`, which says whether the server
/// has them. Returns how many bytes are common; `None` if the first ones show that it isn't enough.
async fn compare(
    local: &mut LocalChunks,
    mut is_common: impl FnMut(Chunk, u64) -> bool,
) -> Option<u64> {
    let (mut offset, mut common) = (0, 0);
    let mut is_probed = false;
    while let Some(chunks) = local.next().await {
        for chunk in chunks {
            let length = u64::from(chunk.length);
            if is_common(chunk, offset) {
                common += length;
            }
            offset += length;
        }
        if !is_probed && offset >= PROBE_BYTES {
            is_probed = true;
            if !is_enough(common, offset) {
                return None;
            }
        }
    }
    Some(common)
}

/// Whether a transfer of the rest is worth the comparison, if `common` of `all` bytes are common.
fn is_enough(common: u64, all: u64) -> bool {
    common >= all / COMMON_SHARE_MIN
}

/// Whether the whole file may be transferred after this error of a comparison, which the server's
/// version or a change on the way explains.
fn leads_to_whole(error: &ClientError) -> bool {
    match error {
        ClientError::Changed | ClientError::Damaged => true,
        error => error.code().is_some_and(|code| {
            [
                ErrorCode::UNSUPPORTED,
                ErrorCode::NOT_FOUND,
                ErrorCode::CONFLICT,
                ErrorCode::RANGE,
                ErrorCode::LIMIT,
            ]
            .contains(&code)
        }),
    }
}

/// Smallest file that is compared, in bytes. Below it, the round trips cost as much as the content.
const DELTA_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// Bytes of the local file after which files with little in common are found out.
const PROBE_BYTES: u64 = 64 * 1024 * 1024;

/// The share that has to be common: one of so many bytes. Less isn't worth that an interrupted
/// transfer begins anew.
const COMMON_SHARE_MIN: u64 = 8;
