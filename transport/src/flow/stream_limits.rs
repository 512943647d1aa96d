//! Per-stream stall timeout and rate limit.
//!
//! [`StallTimer`] aborts a stream whose peer stalls. Only time spent waiting for the peer counts,
//! and every byte that moves earns some of it back. So neither a slow disk of this end nor a slow
//! network looks like a stall. [`RateLimiter`] spreads bytes or requests evenly over time.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The time that a stream may still wait for its peer.
#[derive(Debug, Clone)]
pub struct StallTimer {
    limit: Duration,
    left: Duration,
    bytes_per_second: u64,
}

impl StallTimer {
    /// Allows `limit` of waiting in total. Every `bytes_per_second` bytes of progress earn one
    /// second back.
    pub fn new(limit: Duration, bytes_per_second: u64) -> Self {
        Self {
            limit,
            left: limit,
            bytes_per_second: bytes_per_second.max(1),
        }
    }

    /// Earns time back for bytes that have moved.
    pub fn moved(&mut self, bytes: usize) {
        if self.left < self.limit {
            let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
            let paid = Duration::from_nanos(nanoseconds);
            self.left = self.left.saturating_add(paid).min(self.limit);
        }
    }

    /// Waits for `future` as long as time is left.
    ///
    /// # Errors
    /// [`Stalled`] if the time is used up.
    pub async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Stalled> {
        let mut future = pin!(future);
        // Polled without a timer first: data that is ready must not cost a look at the clock,
        // because chunks arrive at tens of thousands per second.
        let ready = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        if let Poll::Ready(value) = ready {
            return Ok(value);
        }
        let start = Instant::now();
        let waited = tokio::time::timeout(self.left, future).await;
        self.spend(start.elapsed());
        waited.map_err(|_| Stalled)
    }

    /// Waits for `future` as long as time is left, and earns time back for what is added to `moved`
    /// in the meantime.
    async fn wait_while_moving<T>(
        &mut self,
        future: impl Future<Output = T>,
        moved: &AtomicU64,
    ) -> Result<T, Stalled> {
        let mut future = pin!(future);
        let mut before = moved.load(Ordering::Relaxed);
        loop {
            let start = Instant::now();
            let pause = self.left.min(PROGRESS_INTERVAL);
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

/// The peer of a stream stalled for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the other side took too long to go on")]
pub struct Stalled;

/// A token bucket for units such as bytes or requests. All users of one limiter share its rate, in
/// the order of their calls.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u64,
    burst: Duration,
    /// The time at which all units taken so far are due.
    due_at: Mutex<Instant>,
}

impl RateLimiter {
    /// Limits to `per_second` units per second, with bursts of as many as are due in `burst`.
    pub fn new(per_second: u64, burst: Duration) -> Self {
        let now = Instant::now();
        Self {
            per_second: per_second.max(1),
            burst,
            due_at: Mutex::new(now.checked_sub(burst).unwrap_or(now)),
        }
    }

    /// Takes `units` and waits until they are due.
    pub async fn take(&self, units: u64) {
        let now = Instant::now();
        let due = self.reserve(units, now);
        if due > now {
            tokio::time::sleep_until(due).await;
        }
    }

    /// Takes `units` if they are due now.
    pub fn try_take(&self, units: u64) -> bool {
        self.try_reserve(units, Instant::now())
    }

    fn try_reserve(&self, units: u64, now: Instant) -> bool {
        let mut due_at = self.due_at.lock();
        let due = self.after(*due_at, units, now);
        if due > now {
            return false;
        }
        *due_at = due;
        true
    }

    fn reserve(&self, units: u64, now: Instant) -> Instant {
        let mut due_at = self.due_at.lock();
        *due_at = self.after(*due_at, units, now);
        *due_at
    }

    fn after(&self, due_at: Instant, units: u64, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.burst).unwrap_or(due_at);
        let nanoseconds = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        due_at.max(earliest) + cost
    }
}

/// Limits of one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamLimits {
    /// The stall timeout; none if absent.
    pub stall_timer: Option<StallTimer>,
    /// Rate limits for the bytes of bodies; all of them apply.
    pub rate_limiters: Vec<Arc<RateLimiter>>,
}

impl StreamLimits {
    /// Waits for `future`, which depends on the peer.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Stalled> {
        match &mut self.stall_timer {
            Some(timer) => timer.wait(future).await,
            None => Ok(future.await),
        }
    }

    /// Waits for `future`, which completes when the peer has acknowledged the whole stream.
    ///
    /// quinn doesn't report how much of a stream is acknowledged. So progress is what the whole
    /// connection has `acknowledged`. That may be of other streams, therefore the total time is
    /// limited as well.
    pub(crate) async fn wait_for_finish<T>(
        &mut self,
        future: impl Future<Output = T>,
        acknowledged: &AtomicU64,
    ) -> Result<T, Stalled> {
        let Some(timer) = &mut self.stall_timer else {
            return Ok(future.await);
        };
        let waited = tokio::time::timeout(
            FINISH_TIME_MAX,
            timer.wait_while_moving(future, acknowledged),
        );
        waited.await.unwrap_or(Err(Stalled))
    }

    /// Lets the peer stall for so much longer in total.
    pub(crate) fn allow_stall(&mut self, more: Duration) {
        if let Some(timer) = &mut self.stall_timer {
            timer.limit += more;
            timer.left += more;
        }
    }

    /// Reports that bytes of a message or a body have moved.
    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(timer) = &mut self.stall_timer {
            timer.moved(bytes);
        }
    }

    /// Returns the most bytes of a body to move at once, so that one piece doesn't use up a low
    /// rate for seconds.
    pub(crate) fn piece(&self) -> usize {
        if self.rate_limiters.is_empty() {
            usize::MAX
        } else {
            LIMITED_PIECE_BYTES
        }
    }

    /// Waits until `bytes` of a body are due.
    pub(crate) async fn take(&self, bytes: usize) {
        for limiter in &self.rate_limiters {
            limiter.take(bytes as u64).await;
        }
    }
}

/// The longest time to wait until a finished stream is acknowledged: a window of 16 MiB at 18
/// KiB/s, the lowest rate at which a transfer is still useful.
const FINISH_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// Interval at which acknowledged bytes are read.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes that move at once where a rate is limited: smooth for rates from 1 MB/s on.
const LIMITED_PIECE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn waits_add_up_and_bytes_pay_them_back() {
        let mut timer = StallTimer::new(seconds(30), 1024);
        timer.spend(seconds(14));
        timer.spend(seconds(14));
        assert_eq!(timer.left, seconds(2));
        timer.moved(10 * 1024);
        assert_eq!(timer.left, seconds(12));
        timer.moved(usize::MAX);
        assert_eq!(timer.left, seconds(30));
    }

    #[test]
    fn a_trickle_is_no_progress() {
        let mut timer = StallTimer::new(seconds(30), 1024);
        for _ in 0..31 {
            timer.spend(seconds(1));
            timer.moved(10);
        }
        assert!(timer.left < seconds(1), "{:?}", timer.left);
    }

    #[tokio::test]
    async fn a_spent_stall_timer_waits_for_nothing() {
        let mut timer = StallTimer::new(Duration::ZERO, 1);
        timer.wait(ready(())).await.unwrap();
        assert_eq!(timer.wait(pending::<()>()).await, Err(Stalled));
    }

    #[tokio::test]
    async fn an_end_is_waited_for_as_long_as_something_is_acknowledged() {
        let mut limits = StreamLimits {
            stall_timer: Some(StallTimer::new(Duration::from_millis(5), 1024)),
            rate_limiters: Vec::new(),
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
        limits.wait_for_finish(end, &acknowledged).await.unwrap();
        let end = limits.wait_for_finish(pending::<()>(), &acknowledged).await;
        assert_eq!(end, Err(Stalled));
    }

    #[test]
    fn a_rate_limiter_lets_its_rate_through_after_a_burst() {
        let limiter = RateLimiter::new(1000, seconds(1));
        let now = Instant::now() + seconds(100);
        for _ in 0..10 {
            assert!(limiter.reserve(100, now) <= now);
        }
        assert_eq!(limiter.reserve(500, now), now + Duration::from_millis(500));
        assert_eq!(limiter.reserve(500, now), now + seconds(1));
        assert!(!limiter.try_reserve(1, now));
        let later = now + seconds(100);
        assert!(limiter.try_reserve(1000, later));
        assert!(!limiter.try_reserve(1, later));
        assert!(limiter.try_reserve(1, later + Duration::from_millis(1)));
    }
}
