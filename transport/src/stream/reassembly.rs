//! Reassembly of a stream from pieces in any order.
//!
//! Between the pieces are gaps, which lost packets left. The caller bounds the memory: see
//! `ReorderBudget` in `flow.rs`.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

/// Pieces that wait for an earlier one. They may overlap if their contents agree.
#[derive(Debug, Default)]
pub(crate) struct Reassembly {
    /// Offset of the first byte that hasn't been taken.
    next: u64,
    pieces: BTreeMap<u64, Bytes>,
    /// Memory of the pieces, in bytes.
    held: u64,
}

impl Reassembly {
    /// Starts with a stream of which `taken` bytes have already been read.
    pub(crate) fn after(taken: u64) -> Self {
        Self {
            next: taken,
            ..Self::default()
        }
    }

    /// Returns the offset of the first byte that hasn't been taken.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the memory of the pieces, in bytes.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// Adds a piece that begins at `offset` of the stream.
    pub(crate) fn add(&mut self, offset: u64, piece: Bytes) {
        let known = self.pieces.get(&offset).map_or(0, Bytes::len);
        if piece.len() <= known {
            return;
        }
        // Copied if it has to wait: a piece of one byte may keep the 64 KiB buffer alive that the
        // socket filled.
        let piece = match offset > self.next {
            true => Bytes::copy_from_slice(&piece),
            false => piece,
        };
        self.held += cost(&piece);
        if let Some(shorter) = self.pieces.insert(offset, piece) {
            self.held -= cost(&shorter);
        }
    }

    /// Takes the next bytes of the stream; `None` at a gap.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        loop {
            let first = self.pieces.first_entry()?;
            // `None` here means that the first piece begins behind a gap.
            let old = self.next.checked_sub(*first.key())?;
            let mut piece = first.remove();
            self.held -= cost(&piece);
            let old = usize::try_from(old).unwrap_or(usize::MAX);
            if old < piece.len() {
                piece.advance(old);
                self.next += piece.len() as u64;
                return Some(piece);
            }
        }
    }
}

/// Returns the memory of a piece, in bytes.
fn cost(piece: &Bytes) -> u64 {
    piece.len() as u64 + PIECE_OVERHEAD
}

/// Memory of a piece beyond its bytes: its map entry, in nodes that may be half empty, and what the
/// allocator rounds up. Without it, pieces of one byte would take a hundred times what is counted.
const PIECE_OVERHEAD: u64 = 256;

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;

    const LENGTH: u64 = 2_000;

    fn content(range: Range<u64>) -> Bytes {
        range.map(|at| (at * 7 % 251) as u8).collect()
    }

    fn taken(reassembly: &mut Reassembly) -> Vec<u8> {
        std::iter::from_fn(|| reassembly.take()).flatten().collect()
    }

    /// The stream from `start` on in pieces, partly repeated, in any order.
    fn pieces(start: u64) -> impl Strategy<Value = Vec<Range<u64>>> {
        let cuts = proptest::collection::btree_set(start + 1..LENGTH, 1..40);
        let again = proptest::collection::vec((0..LENGTH, 1..300_u64), 0..10);
        (cuts, again)
            .prop_map(move |(cuts, again)| {
                let ends = cuts.iter().copied().chain([LENGTH]);
                let starts = [start].into_iter().chain(cuts.iter().copied());
                let once = starts.zip(ends).map(|(from, to)| from..to);
                let again = again
                    .into_iter()
                    .map(|(from, length)| from..(from + length).min(LENGTH));
                once.chain(again).collect::<Vec<_>>()
            })
            .prop_shuffle()
    }

    proptest! {
        #[test]
        fn any_order_gives_the_stream((start, pieces) in (0..100_u64).prop_flat_map(|start| (Just(start), pieces(start)))) {
            let mut reassembly = Reassembly::after(start);
            let mut bytes = Vec::new();
            for piece in pieces {
                reassembly.add(piece.start, content(piece));
                bytes.extend(taken(&mut reassembly));
                prop_assert!(reassembly.take().is_none());
            }
            prop_assert_eq!(bytes, content(start..LENGTH));
            prop_assert_eq!((reassembly.next(), reassembly.held()), (LENGTH, 0));
        }

        #[test]
        fn nothing_behind_a_gap_is_taken(mut pieces in pieces(0), lost in 0..LENGTH) {
            pieces.retain(|piece| !piece.contains(&lost));
            let mut reassembly = Reassembly::default();
            for piece in &pieces {
                reassembly.add(piece.start, content(piece.clone()));
            }
            let gap = (0..=lost).find(|at| !pieces.iter().any(|piece| piece.contains(at)));
            prop_assert_eq!(taken(&mut reassembly), content(0..gap.unwrap()));
            let behind = pieces.iter().any(|piece| piece.start > gap.unwrap());
            prop_assert_eq!(reassembly.held() > 0, behind);
        }
    }

    #[test]
    fn memory_is_counted_once_for_each_offset_and_includes_overhead() {
        let mut reassembly = Reassembly::default();
        for end in [20, 30, 25, 30] {
            reassembly.add(10, content(10..end));
        }
        assert_eq!(reassembly.held(), 20 + PIECE_OVERHEAD);
        for at in 0..100 {
            reassembly.add(40 + 2 * at, content(0..1));
        }
        assert_eq!(reassembly.held(), 120 + 101 * PIECE_OVERHEAD);
        reassembly.add(0, content(0..10));
        assert_eq!(taken(&mut reassembly), content(0..30));
        assert_eq!(reassembly.held(), 100 + 100 * PIECE_OVERHEAD);
    }

    #[test]
    fn a_waiting_piece_keeps_no_larger_buffer_in_memory() {
        let mut reassembly = Reassembly::default();
        let mut buffer = content(0..LENGTH);
        reassembly.add(1000, buffer.split_off(1000).split_to(1));
        assert!(buffer.try_into_mut().is_ok(), "no piece refers to it");
        assert!(reassembly.take().is_none());
    }
}
