//! Content of one cached file, and the budget of the cache.
//!
//! A [`CachedContent`] grows piece by piece during its fill, and readers follow it. It owns its
//! [`Permit`]: the budget gets the bytes back when the last reference to the content is dropped.
//! That may be the cache's, a reader's or that of a transport's send queue. So the budget never
//! counts memory as free that is still in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use quire_shared::protocol::Version;
use tokio::sync::Notify;

/// Budget of live bytes: a limit, and the bytes in use.
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

    /// Bytes of all permits.
    pub(super) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// Grants a permit for `bytes`, if that many are left.
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

/// Share of the budget; dropping it returns the bytes.
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

/// Content of one version of a file, complete or still being filled.
#[derive(Debug)]
pub(super) struct CachedContent {
    pub(super) version: Version,
    pub(super) size: u64,
    /// Wakes the readers when a piece was pushed or the fill has ended.
    pub(super) grown: Notify,
    filled: Mutex<FillState>,
    /// The last field, so that it is dropped after the pieces: first memory, then budget.
    permit: Permit,
}

#[derive(Debug, Default)]
struct FillState {
    pieces: Vec<Piece>,
    bytes: u64,
    /// Result of the fill, once it has ended.
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

    /// Charge of this content to the budget, in bytes.
    pub(super) fn charge(&self) -> u64 {
        self.permit.bytes
    }

    /// Bytes from `position` to the end of its piece; `None` if they aren't filled yet.
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

    /// Appends the next bytes of the file.
    ///
    /// # Errors
    /// If they exceed the file's size, or the fill has ended.
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
            // A vector may have spare capacity that the budget doesn't count; a boxed slice has
            // none.
            let bytes = Bytes::from(bytes.into_boxed_slice());
            filled.pieces.push(Piece { start, bytes });
            filled.bytes = total;
        }
        drop(filled);
        self.grown.notify_waiters();
        Ok(())
    }

    /// Ends the fill unless it has ended already, and returns how it ended. Content that isn't
    /// complete ends as changed.
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

    /// Result of the fill, once it has ended.
    pub(super) fn ended(&self) -> Option<Result<(), FillFailed>> {
        self.filled().end
    }

    fn filled(&self) -> MutexGuard<'_, FillState> {
        self.filled.lock()
    }
}

/// Failure of a fill. A reader that still needs the rest reads it from its own open file, and
/// checks there whether the earlier bytes are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FillFailed {
    /// The file's version or size changed.
    #[error("the file changed while it was read into the cache")]
    Changed,
    /// The fill was dropped before the end of the file.
    #[error("the file was not read into the cache to its end")]
    Abandoned,
}
