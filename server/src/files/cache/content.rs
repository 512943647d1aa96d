//! The bytes of one cached file, and the budget they live on.
//!
//! A [`CachedContent`] grows piece by piece while its file is read, and readers follow it as it grows.
//! It owns its [`Permit`]: the budget gets the bytes back when the last holder of the content is
//! gone, be that the cache, a reader or a transport's send queue, and never before the memory
//! itself is free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_shared::protocol::Version;
use tokio::sync::Notify;

/// How many bytes may be live, and how many are.
#[derive(Debug)]
pub(super) struct CacheBudget {
    pub(super) limit: u64,
    live: AtomicU64,
}

impl CacheBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            live: AtomicU64::new(0),
        }
    }

    /// The bytes for which permits are out.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// A permit for `bytes`, if that many are left.
    pub(super) fn permit(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let mut live = self.live();
        loop {
            let with = live.checked_add(bytes).filter(|sum| *sum <= self.limit)?;
            let swapped =
                self.live
                    .compare_exchange_weak(live, with, Ordering::AcqRel, Ordering::Acquire);
            match swapped {
                Ok(_) => break,
                Err(current) => live = current,
            }
        }
        Some(Permit {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

/// The right to keep some bytes in memory; dropping it gives them back.
#[derive(Debug)]
pub(super) struct Permit {
    budget: Arc<CacheBudget>,
    bytes: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.live.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// One version of one file, whole or on its way.
#[derive(Debug)]
pub(super) struct CachedContent {
    pub(super) version: Version,
    pub(super) size: u64,
    /// Wakes the readers when a piece or the end has come.
    pub(super) grown: Notify,
    filled: Mutex<FillState>,
    /// The last field, so that it is dropped after the pieces.
    permit: Permit,
}

#[derive(Debug, Default)]
struct FillState {
    pieces: Vec<Piece>,
    bytes: u64,
    /// How the fill ended, once it has.
    end: Option<Result<(), FillFailed>>,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    bytes: Bytes,
}

impl CachedContent {
    pub(super) fn new(version: Version, size: u64, permit: Permit) -> Self {
        Self {
            version,
            size,
            grown: Notify::new(),
            filled: Mutex::default(),
            permit,
        }
    }

    /// What this content costs the budget.
    pub(super) fn charge(&self) -> u64 {
        self.permit.bytes
    }

    /// What there is from `position` to the end of its piece; `None` if that is still to come.
    pub(super) fn at(&self, position: u64) -> Result<Option<Bytes>, FillFailed> {
        let filled = self.filled();
        if let Some(Err(failed)) = filled.end {
            return Err(failed);
        }
        let after = filled
            .pieces
            .partition_point(|piece| piece.start <= position);
        let piece = after.checked_sub(1).and_then(|at| filled.pieces.get(at));
        Ok(piece.and_then(|piece| {
            let offset = usize::try_from(position - piece.start).ok()?;
            (offset < piece.bytes.len()).then(|| piece.bytes.slice(offset..))
        }))
    }

    /// Adds the next bytes of the file, or says that these can't be this file's.
    pub(super) fn push(&self, bytes: Vec<u8>) -> Result<(), FillFailed> {
        let mut filled = self.filled();
        if let Some(end) = filled.end {
            return end.and(Err(FillFailed::Changed));
        }
        let total = filled.bytes.saturating_add(bytes.len() as u64);
        if total > self.size {
            return Err(FillFailed::Changed);
        }
        if !bytes.is_empty() {
            let start = filled.bytes;
            // A boxed slice has no spare capacity that the budget doesn't know of.
            let bytes = Bytes::from(bytes.into_boxed_slice());
            filled.pieces.push(Piece { start, bytes });
            filled.bytes = total;
        }
        drop(filled);
        self.grown.notify_waiters();
        Ok(())
    }

    /// Ends the fill, unless it has ended already, and says how it did. What isn't whole ends as
    /// changed.
    pub(super) fn end(&self, end: Result<(), FillFailed>) -> Result<(), FillFailed> {
        let mut filled = self.filled();
        let whole = filled.bytes == self.size;
        let end = end.and(if whole {
            Ok(())
        } else {
            Err(FillFailed::Changed)
        });
        let end = *filled.end.get_or_insert(end);
        filled.pieces.shrink_to_fit();
        drop(filled);
        self.grown.notify_waiters();
        end
    }

    /// How the fill ended, once it has.
    pub(super) fn ended(&self) -> Option<Result<(), FillFailed>> {
        self.filled().end
    }

    fn filled(&self) -> MutexGuard<'_, FillState> {
        self.filled.lock()
    }
}

/// Why the bytes of a file stop coming. A reader that still wants the rest takes it from its own
/// open file, which tells whether what it has is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FillFailed {
    /// The file's version moved, or its size isn't what it was.
    #[error("the file changed while it was read into the cache")]
    Changed,
    /// Whoever read the file stopped before its end.
    #[error("the file was not read into the cache to its end")]
    Abandoned,
}
