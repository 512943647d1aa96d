//! `Hash`: the digest of a file, computed by the server unless it is known from before.

use std::fs::File;
use std::io::Read;

use quire_shared::digest::Hasher;
use quire_shared::protocol::{Hash, Hashed};

use crate::error::RequestError;
use crate::state::State;

/// Reads the file in pieces, between which a client that is gone ends the work.
pub(crate) async fn carry_out(request: Hash, state: &State) -> Result<Hashed, RequestError> {
    let Hash { path, digest } = request;
    let guard = state.locks.shared(&path).await?;
    let open = state.read(move |root| root.open_file(&path)).await?;
    drop(guard);
    let before = open.attributes;
    if let Some(known) = state.digests.get(&before.version, digest) {
        return Ok(Hashed {
            digest: known,
            size: before.size,
            version: before.version,
        });
    }
    let mut work = (open.file, digest.hasher());
    loop {
        let (file, mut hasher) = work;
        let (rest, ended) = state
            .read(move |_| {
                let ended = hash_piece(&file, &mut hasher)?;
                Ok(((file, hasher), ended))
            })
            .await?;
        work = rest;
        if ended {
            break;
        }
    }
    let (file, hasher) = work;
    let after = state.read(move |root| root.attributes_of(&file)).await?;
    if (after.size, after.modified) != (before.size, before.modified) {
        return Err(RequestError::Changed);
    }
    let (kind, digest) = (digest, hasher.finish());
    // A rename meanwhile makes another version of the same content.
    state.digests.put(&after.version, kind, &digest);
    Ok(Hashed {
        digest,
        size: after.size,
        version: after.version,
    })
}

/// Hashes the next piece of `file`; says whether it was the last.
fn hash_piece(mut file: &File, hasher: &mut Hasher) -> Result<bool, RequestError> {
    let mut buffer = vec![0; READ_BYTES];
    for _ in 0..READS_PER_PIECE {
        let read = file
            .read(&mut buffer)
            .map_err(RequestError::system("reading"))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(true);
        };
        hasher.update(bytes);
    }
    Ok(false)
}

/// Bytes per read: large enough for every digest to run at full speed.
const READ_BYTES: usize = 512 * 1024;

/// Reads between two chances to stop: some tens of milliseconds of work.
const READS_PER_PIECE: usize = 64;
