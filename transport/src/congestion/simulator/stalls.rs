//! Stalls: a process that isn't scheduled, or a link that pauses.
//!
//! A stall loses nothing. What should have happened meanwhile happens at its end, all at once and
//! in order.

use super::{MILLISECOND, draw};

/// The part of the network that stalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StalledPart {
    /// The process that sends.
    Sender,
    /// The process that receives, and acknowledges.
    Receiver,
    /// The link, in both directions: packets enter its queue and leave it no more.
    Link,
}

impl StalledPart {
    pub(super) const ALL: [Self; 3] = [Self::Sender, Self::Receiver, Self::Link];
}

/// A stall of one part from `at` until `end`.
#[derive(Debug, Clone, Copy)]
struct Stall {
    part: StalledPart,
    at: u64,
    end: u64,
}

/// All stalls of a network, in order of time.
#[derive(Debug, Clone, Default)]
pub(super) struct Stalls(Vec<Stall>);

impl Stalls {
    /// Creates random stalls of 10 to 50 ms until `end`, with an average distance of `gap`.
    pub(super) fn random(part: StalledPart, gap: u64, end: u64, seed: u64) -> Self {
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut stalls = Vec::new();
        let mut at = 0;
        loop {
            at += (-(1.0 - draw(&mut random)).ln() * gap as f64) as u64;
            if at >= end {
                return Self(stalls);
            }
            let length = (10.0 + 40.0 * draw(&mut random)) * MILLISECOND as f64;
            let ends = at + length as u64;
            stalls.push(Stall {
                part,
                at,
                end: ends,
            });
            at = ends;
        }
    }

    /// Returns the time at which an event at `part` that is due at `now` can happen.
    pub(super) fn release(&self, part: StalledPart, now: u64) -> u64 {
        self.0
            .iter()
            .find(|stall| stall.part == part && stall.at <= now && now < stall.end)
            .map_or(now, |stall| stall.end)
    }
}
