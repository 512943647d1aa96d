//! Window sizes: a policy of numbers, without a connection.
//!
//! The window of a stream is fixed when the connection is established, so it is large enough for
//! every path that quire supports. The windows of the connection depend on its path, on the active
//! bodies, and on a memory budget that all connections of a program share.
//!
//! - **Send window.** Several congestion windows, because everything behind a lost packet stays
//!   buffered until the loss is repaired. On a local network no more than the socket buffer of the
//!   peer, which fills while its program is busy.
//! - **Gaps.** quinn closes a connection with too many gaps in one stream. A receiver of quire
//!   reads in order of arrival unless it waits for its disk. So gaps bound the send window only on
//!   a path with very high loss.
//! - **Receive window.** With few bodies the window of one stream and some more, so that a stream
//!   that isn't read can't block the others. With many bodies that would take too much memory,
//!   because their chunks share buffers of the socket; there the rate decides, unless a stream is
//!   known not to be read for now.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quire_shared::Side;

/// The windows of one connection, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    /// What the connection buffers until it is acknowledged.
    pub(crate) send: u64,
    /// What the other side may have in flight on all streams: `MAX_DATA` (RFC 9000, §19.9).
    pub(crate) receive: u64,
}

/// The flow-control window of one stream at this end, in bytes.
pub const fn stream_window(side: Side) -> u32 {
    match side {
        Side::Client => CLIENT_STREAM_WINDOW,
        Side::Server => SERVER_STREAM_WINDOW,
    }
}

/// The most bytes of all streams that may be kept because earlier bytes are missing: what arrives
/// on such a path while a byte is lost three times.
pub(crate) fn reordered_max(side: Side) -> u64 {
    2 * u64::from(stream_window(side))
}

/// The windows that every connection has, whatever the others take of the budget.
pub(crate) fn minimum(side: Side) -> Windows {
    match side {
        Side::Client => Windows {
            send: SEND_WINDOW,
            receive: receive_window_few(side),
        },
        Side::Server => Windows {
            send: SEND_WINDOW_LEAST,
            receive: RECEIVE_WINDOW_LEAST,
        },
    }
}

/// The memory that a send window takes, in bytes. A server reads two pieces ahead for each of its
/// bodies, half as much again; a client has few.
fn memory_of_send_window(side: Side, window: u64) -> u64 {
    match side {
        Side::Client => window,
        Side::Server => window + window / 2,
    }
}

/// The send window that fits into `bytes` of memory.
fn send_window_in(side: Side, bytes: u64) -> u64 {
    match side {
        Side::Client => bytes,
        Side::Server => bytes / 3 * 2,
    }
}

/// The receive window of a connection with at most [`FEW_BODIES`], in bytes.
pub(crate) fn receive_window_few(side: Side) -> u64 {
    u64::from(stream_window(side)) + RECEIVE_WINDOW_FREE
}

/// Measurements of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PathEstimate {
    /// The smoothed round-trip time, which includes queues.
    pub(crate) round_trip: Duration,
    /// The smallest round-trip time so far.
    pub(crate) round_trip_min: Duration,
    /// Size of a datagram, in bytes.
    pub(crate) datagram: u64,
    /// The congestion window, in bytes.
    pub(crate) in_flight_max: u64,
    /// The share of packets that are lost.
    pub(crate) loss: f64,
    /// The largest rate of received bodies in the last round trips, in bytes per second.
    pub(crate) rate: f64,
}

impl PathEstimate {
    fn is_local(&self) -> bool {
        is_local(self.round_trip_min)
    }
}

/// Whether a path with this smallest round-trip time is a local network.
pub(crate) fn is_local(round_trip_min: Duration) -> bool {
    round_trip_min < LOCAL_ROUND_TRIP
}

/// Returns the send window while `bodies` are being sent, in bytes.
pub(crate) fn send(path: &PathEstimate, bodies: usize, side: Side) -> u64 {
    if bodies == 0 {
        return minimum(side).send;
    }
    if path.is_local() {
        return SEND_WINDOW;
    }
    (SEND_ROUND_TRIPS * path.in_flight_max)
        .min(gap_limit(path))
        .clamp(SEND_WINDOW, SEND_WINDOW_MAX)
}

/// Returns the send window in which no more than [`GAPS`] gaps are to be expected, in bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rough bound; the conversion back saturates"
)]
fn gap_limit(path: &PathEstimate) -> u64 {
    ((GAPS * path.datagram) as f64 / path.loss) as u64
}

/// Returns the receive window while `bodies` are being received, in bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rough bound; the conversion saturates"
)]
pub(crate) fn receive(path: &PathEstimate, bodies: usize, side: Side) -> u64 {
    match bodies {
        0 => minimum(side).receive,
        1..=FEW_BODIES => receive_window_few(side),
        _ if path.is_local() => RECEIVE_WINDOW_LOCAL,
        _ => {
            let round_trip = path.round_trip.min(ROUND_TRIP_MAX);
            let held = (path.rate * round_trip.as_secs_f64()) as u64;
            (RECEIVE_ROUND_TRIPS * held).clamp(RECEIVE_WINDOW_MANY, RECEIVE_WINDOW_MAX)
        }
    }
}

/// Returns `current` if `wanted` is so close to it that a change isn't worth an update to the peer,
/// else `wanted`.
pub(crate) fn hysteresis(current: u64, wanted: u64) -> u64 {
    if (current / 4 * 3..=current / 8 * 9).contains(&wanted) {
        current
    } else {
        wanted
    }
}

/// Memory for windows, shared by all connections of a program. Clones refer to the same budget.
#[derive(Debug, Clone)]
pub struct WindowBudget(Arc<AtomicU64>);

impl WindowBudget {
    /// Creates a budget of `bytes` for windows beyond the minimum of every connection.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Creates an empty reservation.
    pub(crate) fn grant(&self) -> WindowGrant {
        WindowGrant {
            left: Arc::clone(&self.0),
            bytes: 0,
        }
    }
}

/// The reservation of one connection. Released on drop.
#[derive(Debug)]
pub(crate) struct WindowGrant {
    left: Arc<AtomicU64>,
    bytes: u64,
}

impl WindowGrant {
    /// Reserves memory for the `wanted` windows and returns those that the budget allows. The other
    /// side may still use `granted` bytes of an earlier receive window.
    pub(crate) fn fit(&mut self, wanted: Windows, granted: u64, side: Side) -> Windows {
        let minimum = minimum(side);
        let more_to_send = wanted.send.saturating_sub(minimum.send);
        let more_to_receive = wanted.receive.saturating_sub(minimum.receive);
        // Memory behind credit that the other side has can't be given away, even where the window
        // becomes smaller.
        let granted = granted.saturating_sub(minimum.receive).min(self.bytes);
        self.resize(memory_of_send_window(side, more_to_send) + more_to_receive.max(granted));
        let more_to_send = more_to_send.min(send_window_in(side, self.bytes - granted));
        let left = self.bytes - memory_of_send_window(side, more_to_send);
        let more_to_receive = more_to_receive.min(left);
        Windows {
            send: minimum.send + more_to_send,
            receive: wanted.receive.min(minimum.receive) + more_to_receive,
        }
    }

    /// Reserves memory for `bytes` that wait for earlier ones. Returns whether more may be read
    /// that have to wait. The result of one read is always allowed.
    pub(crate) fn reserve_reordered(&mut self, bytes: u64, side: Side) -> bool {
        if bytes == 0 {
            self.resize(0);
            return true;
        }
        self.resize((bytes + 1).next_multiple_of(REORDER_STEP));
        bytes < self.bytes.min(reordered_max(side))
    }

    /// Grows the reservation to `bytes` as far as the budget allows, or shrinks it to `bytes`.
    fn resize(&mut self, bytes: u64) {
        if bytes <= self.bytes {
            self.left.fetch_add(self.bytes - bytes, Ordering::Relaxed);
            self.bytes = bytes;
            return;
        }
        let missing = bytes - self.bytes;
        let take = |left: u64| Some(left.saturating_sub(missing));
        if let Ok(left) = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            self.bytes += missing.min(left);
        }
    }
}

impl Drop for WindowGrant {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// The receive window of a connection, as quinn manages it.
///
/// Credit can't be revoked (RFC 9000, §4.1). When the window shrinks, quinn withholds the
/// difference from credit for bytes that are read later. When the window grows again before that,
/// quinn would extend the difference twice. So this tracks what quinn still has to withhold.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    wanted: u64,
    /// The window that quinn was told last.
    told: u64,
    /// Credit that quinn still has to withhold.
    withheld: u64,
}

impl ReceiveWindow {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            wanted: bytes,
            told: bytes,
            withheld: 0,
        }
    }

    /// Returns the wanted window, in bytes.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Returns the credit that the peer has, in bytes.
    pub(crate) fn granted(&self) -> u64 {
        self.told + self.withheld
    }

    /// Reports that `bytes` were read.
    pub(crate) fn read(&mut self, bytes: u64) {
        self.withheld = self.withheld.saturating_sub(bytes);
    }

    /// Sets the wanted window. Returns the window to tell quinn, if it changes.
    pub(crate) fn want(&mut self, bytes: u64) -> Option<u64> {
        self.wanted = bytes;
        let granted = self.granted();
        let before = self.told;
        if bytes > granted {
            self.told += bytes - granted;
        } else if bytes < self.told {
            self.withheld += self.told - bytes;
            self.told = bytes;
        }
        (self.told != before).then_some(self.told)
    }

    /// Grants a byte, to be withheld from later credit. Returns the windows to tell quinn, one after
    /// the other.
    pub(crate) fn grant_byte(&mut self) -> [u64; 2] {
        self.withheld += 1;
        [self.told + 1, self.told]
    }
}

/// Estimates the share of packets that are lost.
#[derive(Debug, Default)]
pub(crate) struct LossEstimate {
    share: Option<f64>,
    /// The counters at the last estimate.
    sent: u64,
    lost: u64,
}

impl LossEstimate {
    /// Updates the estimate from the current counters.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn update(&mut self, sent: u64, lost: u64) {
        let new_sent = sent.saturating_sub(self.sent);
        let new_lost = lost.saturating_sub(self.lost);
        if new_sent < PACKETS_PER_SHARE {
            return;
        }
        let now = new_lost as f64 / new_sent as f64;
        // A rise counts at once and decays slowly.
        let before = self.share.unwrap_or(now);
        self.share = Some(now.max(before + (now - before) / 8.0));
        self.sent = sent;
        self.lost = lost;
    }

    /// Returns the expected share.
    pub(crate) fn share(&self) -> f64 {
        self.share.unwrap_or(LOSS_UNKNOWN).clamp(LOSS_MIN, 1.0)
    }
}

/// Estimates the rate at which bodies arrive.
#[derive(Debug)]
pub(crate) struct RateEstimate {
    since: Instant,
    bytes: u64,
    recent: VecDeque<f64>,
}

impl RateEstimate {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            bytes: 0,
            recent: VecDeque::new(),
        }
    }

    /// Reports that `bytes` have arrived.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Takes a sample if a round trip has passed since the last.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn update(&mut self, now: Instant, round_trip: Duration) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < round_trip.max(RATE_PERIOD_MIN) {
            return;
        }
        self.recent
            .push_front(self.bytes as f64 / elapsed.as_secs_f64());
        self.recent.truncate(RATES);
        self.since = now;
        self.bytes = 0;
    }

    /// Returns the largest recent sample, in bytes per second.
    pub(crate) fn largest(&self) -> f64 {
        self.recent.iter().copied().fold(0.0, f64::max)
    }
}

/// The stream window of a client, in bytes: 2.5 bandwidth-delay products of a path of 500 Mbit/s
/// and 200 ms (12.5 MB), because an update of the window takes a round trip. Bytes behind a loss
/// count as read.
const CLIENT_STREAM_WINDOW: u32 = 32 * 1024 * 1024;

/// The stream window of a server, in bytes. It is smaller, because many clients use it at once.
const SERVER_STREAM_WINDOW: u32 = 16 * 1024 * 1024;

/// The receive window beyond one stream, in bytes. A stream that isn't read, such as an upload
/// while its disk space is allocated, must leave room for all others.
const RECEIVE_WINDOW_FREE: u64 = 8 * 1024 * 1024;

/// The send window on a local network, in bytes. It is enough for full speed there, and half the
/// socket buffer of the peer. A message queues behind it for 3 ms at 700 MiB/s.
pub(crate) const SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// The smallest receive window of a server, in bytes, for a connection without bodies or with the
/// budget used up: more than arrives in the first round trips.
const RECEIVE_WINDOW_LEAST: u64 = 128 * 1024;

/// The smallest send window of a server, in bytes, under the same conditions. With the receive
/// windows that is 192 MiB for 1,024 connections.
const SEND_WINDOW_LEAST: u64 = 64 * 1024;

/// The largest send window, in bytes: five bandwidth-delay products of a path of 500 Mbit/s and
/// 200 ms, because everything from the first unacknowledged byte on is kept.
const SEND_WINDOW_MAX: u64 = 64 * 1024 * 1024;

/// Step in which memory for out-of-order bytes is reserved, in bytes.
const REORDER_STEP: u64 = 1024 * 1024;

/// The receive window for many bodies on a local network, in bytes. 64 downloads need about four
/// times that in memory.
const RECEIVE_WINDOW_LOCAL: u64 = 16 * 1024 * 1024;

/// The smallest receive window for many bodies on other paths, in bytes.
const RECEIVE_WINDOW_MANY: u64 = 24 * 1024 * 1024;

/// The largest receive window, in bytes: 2.5 bandwidth-delay products of 1 Gbit/s and 200 ms.
const RECEIVE_WINDOW_MAX: u64 = 64 * 1024 * 1024;

/// The most concurrent bodies with full receive windows.
const FEW_BODIES: usize = 4;

/// Congestion windows in a send window. One is in flight, and one is sent until a loss is detected.
/// Two more cover a byte that is lost a second and a third time, which at 2 % loss happens every
/// few seconds. The last covers a path that starts up and doubles its rate meanwhile.
const SEND_ROUND_TRIPS: u64 = 5;

/// Round trips in a receive window for many bodies. One is in flight, one arrives until a loss is
/// repaired, one until the peer hears of it. The last covers a path that starts up and doubles its
/// rate meanwhile.
const RECEIVE_ROUND_TRIPS: u64 = 4;

/// Round trips below this are of a local network, whose queue is the socket buffer of the peer.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(2);

/// Longer round trips are queues or faults, which larger windows would make worse.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// The most gaps to be expected in one stream. quinn closes the connection at 1,024 buffered
/// pieces, which a receiver only gets near while it waits for its disk.
const GAPS: u64 = 900;

/// The assumed loss before the first measurement.
const LOSS_UNKNOWN: f64 = 0.02;

/// The smallest assumed loss, because loss may begin at any time.
const LOSS_MIN: f64 = 0.01;

/// Packets per estimate of loss: at 2 % the estimate is accurate to within a quarter.
const PACKETS_PER_SHARE: u64 = 4_000;

/// The shortest time between samples of the rate.
const RATE_PERIOD_MIN: Duration = Duration::from_millis(10);

/// Number of samples to remember: ten round trips, as in BBR.
const RATES: usize = 10;

#[cfg(test)]
mod tests;
