//! How slow a stream may be, and how fast.
//!
//! [`StallTimer`] ends what the other side keeps waiting: only time spent waiting for it counts, and
//! every byte that moves pays some of it back, so that neither a slow disk of our own nor a slow
//! network is taken for a peer that stalls. [`RateLimiter`] spreads what may move over time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

/// How long the other side of a stream may keep us waiting.
#[derive(Debug, Clone)]
pub struct StallTimer {
    limit: Duration,
    left: Duration,
    bytes_per_second: u64,
}

impl StallTimer {
    /// Bears a wait of `limit` in all, of which `bytes_per_second` bytes pay back a second.
    pub fn new(limit: Duration, bytes_per_second: u64) -> Self {
        Self {
            limit,
            left: limit,
            bytes_per_second: bytes_per_second.max(1),
        }
    }

    /// Pays back for bytes that have moved.
    pub fn moved(&mut self, bytes: usize) {
        if self.left < self.limit {
            let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
            let paid = Duration::from_nanos(nanoseconds);
            self.left = self.left.saturating_add(paid).min(self.limit);
        }
    }

    /// Waits for `future` as long as there is patience left.
    ///
    /// # Errors
    /// If it is at its end.
    pub async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Stalled> {
        let mut future = pin!(future);
        // What is there already costs no look at the clock: chunks come by the ten thousand in a
        // second.
        let ready = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(value) = ready {
            return Ok(value);
        }
        let start = Instant::now();
        let waited = tokio::time::timeout(self.left, future).await;
        self.spend(start.elapsed());
        waited.map_err(|_| Stalled)
    }

    /// Waits for `future` as long as there is patience left, which what is added to `moved` in the
    /// meantime pays back.
    async fn watch<T>(
        &mut self,
        future: impl Future<Output = T>,
        moved: &AtomicU64,
    ) -> Result<T, Stalled> {
        let mut future = pin!(future);
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            let start = Instant::now();
            let pause = self.left.min(LOOK_INTERVAL);
            if let Ok(value) = tokio::time::timeout(pause, future.as_mut()).await {
                return Ok(value);
            }
            self.spend(start.elapsed());
            let now = moved.load(Ordering::Relaxed);
            self.moved(usize::try_from(now - before).unwrap_or(usize::MAX));
            before = now;
            if self.left.is_zero() {
                return Err(Stalled);
            }
        }
    }

    fn spend(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
    }
}

/// The other side kept us waiting for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side took too long to go on")]
pub struct Stalled;

/// Spreads units (bytes, requests) evenly over time, but for a burst. All who take from one share
/// its rate, in the order in which they ask.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u64,
    burst: Duration,
    /// When what has been taken is paid for.
    paid_at: Mutex<Instant>,
}

impl RateLimiter {
    /// Lets `per_second` units through, and after a pause what would have gone in `burst`.
    pub fn new(per_second: u64, burst: Duration) -> Self {
        let now = Instant::now();
        Self {
            per_second: per_second.max(1),
            burst,
            paid_at: Mutex::new(now.checked_sub(burst).unwrap_or(now)),
        }
    }

    /// Takes `units`, and waits until they are due.
    pub async fn take(&self, units: u64) {
        let now = Instant::now();
        let due = self.book(units, now);
        if due > now {
            tokio::time::sleep_until(due).await;
        }
    }

    /// Takes `units` if they are due now.
    pub fn try_take(&self, units: u64) -> bool {
        self.try_book(units, Instant::now())
    }

    fn try_book(&self, units: u64, now: Instant) -> bool {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = self.after(*paid_at, units, now);
        if due > now {
            return false;
        }
        *paid_at = due;
        true
    }

    fn book(&self, units: u64, now: Instant) -> Instant {
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_at = self.after(*paid_at, units, now);
        *paid_at
    }

    fn after(&self, paid_at: Instant, units: u64, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst).unwrap_or(paid_at);
        let nanoseconds = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        paid_at.max(earliest) + cost
    }
}

/// What holds for one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamLimits {
    /// How long the other side may keep it waiting; for as long as it likes if absent.
    pub patience: Option<StallTimer>,
    /// What the bytes of its bodies wait for.
    pub throttles: Vec<Arc<RateLimiter>>,
}

impl StreamLimits {
    /// Waits for `future`, which waits for the other side.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Stalled> {
        match &mut self.patience {
            Some(patience) => patience.wait(future).await,
            None => Ok(future.await),
        }
    }

    /// Waits for `future`, which waits until the other side has all that was written. How much of
    /// that is still to go can't be seen, so what the whole connection has `acknowledged` pays
    /// back; because that may be of other streams, there is an end to it as well.
    pub(crate) async fn wait_for_end<T>(
        &mut self,
        future: impl Future<Output = T>,
        acknowledged: &AtomicU64,
    ) -> Result<T, Stalled> {
        let Some(patience) = &mut self.patience else {
            return Ok(future.await);
        };
        let waited = tokio::time::timeout(END_LIMIT, patience.watch(future, acknowledged));
        waited.await.unwrap_or(Err(Stalled))
    }

    /// Notes that bytes of a message or a body have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(patience) = &mut self.patience {
            patience.moved(bytes);
        }
    }

    /// The most bytes of a body to move at once, lest one piece take all of a low rate.
    pub(crate) fn piece(&self) -> usize {
        if self.throttles.is_empty() {
            usize::MAX
        } else {
            THROTTLED_PIECE
        }
    }

    /// Waits until `bytes` of a body are due.
    pub(crate) async fn take(&self, bytes: usize) {
        for throttle in &self.throttles {
            throttle.take(bytes as u64).await;
        }
    }
}

/// How long the last window of a stream may take: 16 MiB at the lowest rate at which anybody would
/// still wait for a file, 18 KiB/s.
const END_LIMIT: Duration = Duration::from_secs(15 * 60);

/// How often what was acknowledged is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that move at once where a rate is limited: smooth for rates from a megabyte per second on.
const THROTTLED_PIECE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_add_up_and_bytes_pay_them_back() {
        let mut patience = StallTimer::new(seconds(30), 1024);
        patience.spend(seconds(14));
        patience.spend(seconds(14));
        assert_eq!(patience.left, seconds(2));
        patience.moved(10 * 1024);
        assert_eq!(patience.left, seconds(12));
        patience.moved(usize::MAX);
        assert_eq!(patience.left, seconds(30));
    }

    #[test]
    fn a_trickle_is_no_progress() {
        let mut patience = StallTimer::new(seconds(30), 1024);
        for _ in 0..31 {
            patience.spend(seconds(1));
            patience.moved(10);
        }
        assert!(patience.left < seconds(1), "{:?}", patience.left);
    }

    #[tokio::test]
    async fn who_has_no_patience_left_waits_for_nothing() {
        let mut patience = StallTimer::new(Duration::ZERO, 1);
        patience.wait(ready(())).await.unwrap();
        assert_eq!(patience.wait(pending::<()>()).await, Err(Stalled));
    }

    #[tokio::test]
    async fn an_end_is_waited_for_as_long_as_something_is_acknowledged() {
        let mut pace = StreamLimits {
            patience: Some(StallTimer::new(Duration::from_millis(5), 1024)),
            throttles: Vec::new(),
        };
        let acknowledged = AtomicU64::new(0);
        let mut polls = 0;
        let end = poll_fn(|_| {
            polls += 1;
            acknowledged.fetch_add(1024, Ordering::Relaxed);
            match polls {
                50.. => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        pace.wait_for_end(end, &acknowledged).await.unwrap();
        let end = pace.wait_for_end(pending::<()>(), &acknowledged).await;
        assert_eq!(end, Err(Stalled));
    }

    #[test]
    fn a_throttle_lets_its_rate_through_after_a_burst() {
        let throttle = RateLimiter::new(1000, seconds(1));
        let now = Instant::now() + seconds(100);
        for _ in 0..10 {
            assert!(throttle.book(100, now) <= now);
        }
        assert_eq!(throttle.book(500, now), now + Duration::from_millis(500));
        assert_eq!(throttle.book(500, now), now + seconds(1));
        assert!(!throttle.try_book(1, now));
        let later = now + seconds(100);
        assert!(throttle.try_book(1000, later));
        assert!(!throttle.try_book(1, later));
        assert!(throttle.try_book(1, later + Duration::from_millis(1)));
    }
}
