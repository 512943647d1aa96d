//! A policer: a token bucket that drops what exceeds a rate, without a queue.

use super::BITS_TIMES_NANOS;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policer {
    /// Bits per second that fill the bucket.
    pub rate: u64,
    /// Size of the bucket.
    pub burst_bytes: u64,
}

/// The bucket as a virtual clock: `full_at` is the moment at which it would be full again.
pub struct Bucket {
    policer: Policer,
    full_at: u64,
}

impl Bucket {
    pub fn new(policer: Policer) -> Self {
        Bucket {
            policer,
            full_at: 0,
        }
    }

    /// Takes the tokens of a packet, or leaves them if there are too few.
    pub fn admits(&mut self, now: u64, bytes: u64) -> bool {
        let full_at = self.full_at.max(now) + self.nanos(bytes);
        let admitted = full_at - now <= self.nanos(self.policer.burst_bytes);
        if admitted {
            self.full_at = full_at;
        }
        admitted
    }

    fn nanos(&self, bytes: u64) -> u64 {
        let work = u128::from(bytes) * u128::from(BITS_TIMES_NANOS);
        (work / u128::from(self.policer.rate)) as u64
    }
}
