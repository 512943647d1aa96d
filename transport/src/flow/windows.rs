//! How large the windows of a connection are: a policy of numbers, without a connection.
//!
//! A stream's own window is fixed when the connection is made, so it is as large as any path that
//! is to be served needs it. What a connection may have under way then depends on its path, on
//! what moves over it, and on a budget that all connections of a program share.
//!
//! - Sending: what the congestion controller may have under way, some round trips of it because
//!   what lies behind a loss stays in the buffer until that is mended, and on a local network no
//!   more than the other side's socket takes in while its program is busy.
//! - quinn gives a connection up that has too many gaps in one stream. A receiver of ours takes
//!   bytes as they arrive, unless its disk holds it up, so the window for sending is bounded by
//!   that only on a path that loses very much.
//! - Receiving: with few bodies, what one stream may have and some more, so that a stream that
//!   nobody reads can't stop the others. With many of them that would take too much memory, for
//!   their chunks lie mixed in the buffers that the socket filled; there the rate decides.

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

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PathEstimate {
    /// A round trip as it is now, with what waits in queues.
    pub(crate) round_trip: Duration,
    /// The shortest round trip ever.
    pub(crate) round_trip_min: Duration,
    /// Bytes of a datagram.
    pub(crate) datagram: u64,
    /// What the congestion controller lets be under way, in bytes.
    pub(crate) in_flight_max: u64,
    /// The share of what was sent that was lost recent.
    pub(crate) loss: f64,
    /// Bytes of bodies received in a second, the most of the last round trips.
    pub(crate) rate: f64,
}

impl PathEstimate {
    fn is_local(&self) -> bool {
        is_local(self.round_trip_min)
    }
}

/// Whether a path with this round trip is a local network.
pub(crate) fn is_local(round_trip_min: Duration) -> bool {
    round_trip_min < LOCAL_ROUND_TRIP
}

/// The window for sending while `bodies` are being sent.
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

/// Bytes of one stream in which no more gaps are to be expected than its receiver bears.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a rough bound; the conversion back saturates"
)]
fn gap_limit(path: &PathEstimate) -> u64 {
    ((GAPS * path.datagram) as f64 / path.loss) as u64
}

/// The window for receiving while `bodies` are being received.
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

/// The window to go on with: `wanted`, unless that is so close to `current` that telling the other
/// side would cost more than it gains.
pub(crate) fn hysteresis(current: u64, wanted: u64) -> u64 {
    if (current / 4 * 3..=current / 8 * 9).contains(&wanted) {
        current
    } else {
        wanted
    }
}

/// Memory for windows, shared by all connections of a program.
#[derive(Debug, Clone)]
pub struct WindowBudget(Arc<AtomicU64>);

impl WindowBudget {
    /// A budget of `bytes`, for what windows take beyond what every connection has.
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// What one connection takes of it: nothing yet.
    pub(crate) fn grant(&self) -> WindowGrant {
        WindowGrant {
            left: Arc::clone(&self.0),
            bytes: 0,
        }
    }
}

/// What one connection takes of the budget, until it is dropped.
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

    /// Takes what `bytes` need that wait for earlier ones of their streams, and says whether more
    /// may be read that have to wait. What one turn reads is always allowed.
    pub(crate) fn reserve_reordered(&mut self, bytes: u64, side: Side) -> bool {
        if bytes == 0 {
            self.resize(0);
            return true;
        }
        self.resize((bytes + 1).next_multiple_of(REORDER_STEP));
        bytes < self.bytes.min(reordered_max(side))
    }

    /// Takes what is missing to `bytes`, as far as it is there, or gives back what is too much.
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

/// A connection's window for receiving, as quinn keeps it.
///
/// quinn can't take back what it has granted: where the window becomes smaller, it withholds as
/// much from what is granted for bytes read later. Where the window grows again before that, it
/// would grant twice, so here is reckoned what is still to be withheld.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    wanted: u64,
    /// What quinn was told last.
    told: u64,
    /// What quinn still has to withhold.
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

    /// The window that is to be.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// What the other side may have under way, which quinn can't take back.
    pub(crate) fn granted(&self) -> u64 {
        self.told + self.withheld
    }

    /// Notes that `bytes` were read.
    pub(crate) fn read(&mut self, bytes: u64) {
        self.withheld = self.withheld.saturating_sub(bytes);
    }

    /// Makes the window `bytes` large; gives what quinn is to be told, if anything.
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
}

/// How much of what is sent is lost.
#[derive(Debug, Default)]
pub(crate) struct LossEstimate {
    share: Option<f64>,
    /// The counters when the share was last reckoned.
    sent: u64,
    lost: u64,
}

impl LossEstimate {
    /// Takes in the counters of packets, as they are now.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn update(&mut self, sent: u64, lost: u64) {
        let new_sent = sent.saturating_sub(self.sent);
        let new_lost = lost.saturating_sub(self.lost);
        if new_sent < PACKETS_PER_SHARE {
            return;
        }
        let now = new_lost as f64 / new_sent as f64;
        // A rise counts at once, and is forgotten slowly.
        let before = self.share.unwrap_or(now);
        self.share = Some(now.max(before + (now - before) / 8.0));
        self.sent = sent;
        self.lost = lost;
    }

    /// The share that is to be expected.
    pub(crate) fn share(&self) -> f64 {
        self.share.unwrap_or(LOSS_UNKNOWN).clamp(LOSS_MIN, 1.0)
    }
}

/// How fast bodies arrive.
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

    /// Counts `bytes` that have arrived.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Reckons a rate if a round trip has gone by since the last.
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

    /// The largest of the last rates, in bytes a second.
    pub(crate) fn largest(&self) -> f64 {
        self.recent.iter().copied().fold(0.0, f64::max)
    }
}

/// What may be under way to a client on one stream, in bytes: what a path of 500 Mbit/s and 200 ms
/// holds (12.5 MB) twice and a half, because word of what was read takes a round trip. What lies
/// behind a loss counts as read.
const CLIENT_STREAM_WINDOW: u32 = 32 * 1024 * 1024;

/// The same to a server, of which many clients may make use at once.
const SERVER_STREAM_WINDOW: u32 = 16 * 1024 * 1024;

/// What a connection may have under way beyond one stream, in bytes: a stream that nobody reads,
/// as that of a put while room is made for it on the disk, must leave room for all others.
const RECEIVE_WINDOW_FREE: u64 = 8 * 1024 * 1024;

/// What is buffered for sending on a local network, in bytes. It is enough for full speed there,
/// half of what the socket on the other side takes in, and what a message has to queue behind:
/// three milliseconds at 700 MiB a second.
pub(crate) const SEND_WINDOW: u64 = 2 * 1024 * 1024;

/// What every connection to a server may have under way, in bytes, until it sends a body, and if
/// all others together take what there is: more than the first round trips bring.
const RECEIVE_WINDOW_LEAST: u64 = 128 * 1024;

/// What a server buffers for every connection, in bytes, that sends no body, and if the others take
/// what there is. With the windows for receiving that is 192 MiB for 1024 connections.
const SEND_WINDOW_LEAST: u64 = 64 * 1024;

/// The most that is buffered for sending, in bytes: what a path of 500 Mbit/s and 200 ms holds, five
/// times, for all is kept from the first byte that wasn't acknowledged.
const SEND_WINDOW_MAX: u64 = 64 * 1024 * 1024;

/// Memory for what waits for earlier bytes is taken in steps of this size.
const REORDER_STEP: u64 = 1024 * 1024;

/// The window for receiving many bodies at once on a local network, in bytes: 64 downloads need
/// about four times that in memory.
const RECEIVE_WINDOW_LOCAL: u64 = 16 * 1024 * 1024;

/// The least for receiving many bodies at once on other paths, in bytes; as before, but more.
const RECEIVE_WINDOW_MANY: u64 = 24 * 1024 * 1024;

/// The most for receiving, in bytes: what a path of 1 Gbit/s and 200 ms holds, twice and a half.
const RECEIVE_WINDOW_MAX: u64 = 64 * 1024 * 1024;

/// So many bodies at once still have windows of their full size.
const FEW_BODIES: usize = 4;

/// What the window for sending holds, in round trips: one that is under way, one until word of a
/// loss comes, and one each for the second and third time that the same byte is lost, which at 2 %
/// happens every few seconds; and one because a path that starts doubles its rate meanwhile.
const SEND_ROUND_TRIPS: u64 = 5;

/// What the window for receiving many bodies holds, in round trips: one that is under way, one until
/// a loss is mended, one for word of it, and one because a path that starts doubles its rate
/// meanwhile.
const RECEIVE_ROUND_TRIPS: u64 = 4;

/// Below this a network is local: its queue is the buffer of the other side's socket.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(2);

/// Longer round trips are queues or faults, which larger windows would only feed.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// Gaps to be expected in one stream. A receiver that takes bytes as they arrive has none that
/// count, but while it waits for its disk quinn keeps them, and gives up at 1024 pieces.
const GAPS: u64 = 900;

/// The loss to reckon with where none was measured yet.
const LOSS_UNKNOWN: f64 = 0.02;

/// The least loss to reckon with: it may begin at any time.
const LOSS_MIN: f64 = 0.01;

/// Packets from which a share of losses is reckoned: at 2 % the share of so many is right to within
/// a quarter.
const PACKETS_PER_SHARE: u64 = 4_000;

/// The shortest time from which a rate is reckoned.
const RATE_PERIOD_MIN: Duration = Duration::from_millis(10);

/// How many rates are remembered: those of ten round trips, as BBR does.
const RATES: usize = 10;

#[cfg(test)]
mod tests;
