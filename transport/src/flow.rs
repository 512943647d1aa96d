//! One connection as its streams share it: its windows, and who may go beyond them.
//!
//! quinn buffers what its streams write up to the send window of the connection, and orders by
//! priority only what is buffered. Bulk fills that window whenever it can, so a message would wait
//! for its turn among the blocked writers, all of which quinn wakes for whatever comes free. Here
//! what is urgent finds room beyond the window that bulk has.
//!
//! How large the windows are is decided in [`windows`], from what the bodies that move over the
//! connection see of the path. They call in with every piece, so that a connection on which
//! nothing moves costs nothing. How long they waited, and for what, is counted for [`verdict`].

pub mod stream_limits;
pub mod windows;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quinn::{Connection, VarInt};

use self::windows::{
    LossEstimate, PathEstimate, RateEstimate, ReceiveWindow, WindowBudget, WindowGrant, Windows,
};
use crate::bottleneck::{self, TransferStats};
use crate::close;
use quire_shared::Side;

/// What the streams of one connection share. Clones stand for the same connection.
#[derive(Debug, Clone)]
pub struct ConnectionFlow(Arc<FlowShared>);

#[derive(Debug)]
struct FlowShared {
    connection: Connection,
    side: Side,
    state: Mutex<FlowState>,
    sending: Waits,
    receiving: Waits,
    acknowledged: Arc<AtomicU64>,
}

/// How long the bodies of one direction have waited, in microseconds.
#[derive(Debug, Default)]
struct Waits {
    disk: AtomicU64,
    network: AtomicU64,
}

#[derive(Debug)]
struct FlowState {
    /// Bodies that are being sent.
    sending: usize,
    /// Bodies that are being received.
    receiving: usize,
    send_window: u64,
    /// The largest there was: as much may still be buffered where it became smaller.
    send_window_peak: u64,
    receive_window: ReceiveWindow,
    /// What both windows take of the budget, beyond what every connection has.
    grant: WindowGrant,
    /// Bytes of streams that wait for earlier ones.
    reordered: u64,
    /// What these take of the budget.
    reorder_grant: WindowGrant,
    losses: LossEstimate,
    rate: RateEstimate,
    /// When the path is looked at next.
    next_update: Instant,
}

impl ConnectionFlow {
    /// The traffic of `connection`, of which this is `end`; its windows grow within `budget`.
    pub fn new(connection: Connection, side: Side, budget: &WindowBudget) -> Self {
        let now = Instant::now();
        let minimum = windows::minimum(side);
        Self(Arc::new(FlowShared {
            acknowledged: close::acknowledged(&connection),
            connection,
            side,
            sending: Waits::default(),
            receiving: Waits::default(),
            state: Mutex::new(FlowState {
                sending: 0,
                receiving: 0,
                send_window: minimum.send,
                send_window_peak: minimum.send,
                receive_window: ReceiveWindow::new(minimum.receive),
                grant: budget.grant(),
                reordered: 0,
                reorder_grant: budget.grant(),
                losses: LossEstimate::default(),
                rate: RateEstimate::new(now),
                next_update: now,
            }),
        }))
    }

    /// Counts a body that is about to be sent, until the guard is dropped.
    pub(crate) fn begin_sending(&self) -> ActiveBody {
        self.begin(Direction::Out)
    }

    /// Counts a body that is about to be received, until the guard is dropped.
    pub(crate) fn begin_receiving(&self) -> ActiveBody {
        self.begin(Direction::In)
    }

    /// Memory for bytes of one stream that wait for earlier ones.
    pub(crate) fn reorder_budget(&self) -> ReorderBudget {
        ReorderBudget {
            shared: Arc::clone(&self.0),
            bytes: 0,
        }
    }

    /// Whether the other side is so close that losses are mended at once.
    pub(crate) fn is_local(&self) -> bool {
        windows::is_local(self.0.connection.stats().path.min_rtt)
    }

    /// Waits for work on this end's disk that a body can't go on without.
    pub(crate) async fn disk<T>(&self, direction: Direction, work: impl Future<Output = T>) -> T {
        timed(&self.0.waits(direction).disk, work).await
    }

    /// Waits for the other side, or for the path to it.
    pub(crate) async fn network<T>(
        &self,
        direction: Direction,
        work: impl Future<Output = T>,
    ) -> T {
        timed(&self.0.waits(direction).network, work).await
    }

    /// All that was counted since the connection was made.
    pub(crate) fn stats(&self, direction: Direction) -> TransferStats {
        let waits = self.0.waits(direction);
        let duration = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
        let stats = self.0.connection.stats();
        TransferStats {
            elapsed: Duration::ZERO,
            disk: duration(&waits.disk),
            network: duration(&waits.network),
            processor: bottleneck::processor_time(),
            sent: stats.path.sent_packets,
            lost: stats.path.lost_packets,
            stopped: stats.frame_tx.data_blocked + stats.frame_tx.stream_data_blocked,
            round_trip: stats.path.rtt,
            in_flight_max: stats.path.cwnd,
            send_window: self.0.state().send_window,
        }
    }

    fn begin(&self, direction: Direction) -> ActiveBody {
        let mut state = self.0.state();
        *state.count(direction) += 1;
        self.0.update(&mut state, Instant::now());
        drop(state);
        ActiveBody {
            shared: Arc::clone(&self.0),
            direction,
        }
    }

    /// Counts what the other side has acknowledged of all that was sent, in bytes.
    pub(crate) fn acknowledged(&self) -> &AtomicU64 {
        &self.0.acknowledged
    }

    /// Counts `bytes` that were read from a stream.
    pub(crate) fn read(&self, bytes: usize) {
        let mut state = self.0.state();
        state.rate.add(bytes as u64);
        state.receive_window.read(bytes as u64);
    }

    /// Writes what has no more room than bulk has.
    pub(crate) async fn write_bulk<T>(&self, writing: impl Future<Output = T>) -> T {
        let mut writing = pin!(writing);
        poll_fn(|context| {
            // Room is made for others under this lock, which wakes all who wait for some.
            let _state = self.0.state();
            writing.as_mut().poll(context)
        })
        .await
    }

    /// How much of a body to read from the disk at once, in bytes: a quarter of what is buffered, so
    /// that pieces take little memory where windows have to be small.
    pub(crate) fn piece_max(&self) -> usize {
        usize::try_from(self.0.state().send_window / PIECES_PER_WINDOW).unwrap_or(usize::MAX)
    }

    /// Calls `write`, which doesn't wait, while there is room that bulk doesn't have.
    pub(crate) fn write_urgent<T>(&self, write: impl FnOnce() -> T) -> T {
        // Whoever comes meanwhile waits, so that nobody else uses the room or lowers the window.
        let state = self.0.state();
        let connection = &self.0.connection;
        connection.set_send_window(state.send_window_peak + URGENT_RESERVE);
        let written = write();
        connection.set_send_window(state.send_window);
        written
    }
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the other side.
    Out,
    /// From the other side.
    In,
}

/// A body on its way. The windows are large only while there are some.
#[derive(Debug)]
pub(crate) struct ActiveBody {
    shared: Arc<FlowShared>,
    direction: Direction,
}

impl ActiveBody {
    /// Notes that some more of this body has gone its way.
    pub(crate) fn moved(&self) {
        let mut state = self.shared.state();
        let now = Instant::now();
        if now >= state.next_update {
            self.shared.update(&mut state, now);
        }
    }
}

impl Drop for ActiveBody {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        *state.count(self.direction) -= 1;
        if *state.count(self.direction) == 0 {
            self.shared.update(&mut state, Instant::now());
        }
    }
}

/// Memory of the connection that one stream uses, until it is dropped.
#[derive(Debug)]
pub(crate) struct ReorderBudget {
    shared: Arc<FlowShared>,
    bytes: u64,
}

impl ReorderBudget {
    /// Notes that `bytes` are held now, and says whether there is room for more.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        let mut state = self.shared.state();
        state.reordered = state.reordered - self.bytes + bytes;
        self.bytes = bytes;
        let reordered = state.reordered;
        state
            .reorder_grant
            .reserve_reordered(reordered, self.shared.side)
    }
}

impl Drop for ReorderBudget {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl FlowState {
    fn count(&mut self, direction: Direction) -> &mut usize {
        match direction {
            Direction::Out => &mut self.sending,
            Direction::In => &mut self.receiving,
        }
    }
}

impl FlowShared {
    fn waits(&self, direction: Direction) -> &Waits {
        match direction {
            Direction::Out => &self.sending,
            Direction::In => &self.receiving,
        }
    }

    fn state(&self) -> MutexGuard<'_, FlowState> {
        self.state.lock()
    }

    /// Looks at the path and sets the windows for what moves on it.
    fn update(&self, state: &mut FlowState, now: Instant) {
        let stats = self.connection.stats().path;
        state.losses.update(stats.sent_packets, stats.lost_packets);
        state.rate.update(now, stats.rtt);
        let path = PathEstimate {
            round_trip: stats.rtt,
            round_trip_min: stats.min_rtt,
            datagram: u64::from(stats.current_mtu),
            in_flight_max: stats.cwnd,
            loss: state.losses.share(),
            rate: state.rate.largest(),
        };
        let send = windows::send(&path, state.sending, self.side);
        let receive = windows::receive(&path, state.receiving, self.side);
        let wanted = Windows {
            send: windows::hysteresis(state.send_window, send),
            receive: windows::hysteresis(state.receive_window.wanted(), receive),
        };
        let granted = state.receive_window.granted();
        let Windows { send, receive } = state.grant.fit(wanted, granted, self.side);
        if send != state.send_window {
            state.send_window = send;
            state.send_window_peak = state.send_window_peak.max(send);
            self.connection.set_send_window(send);
        }
        if let Some(window) = state.receive_window.want(receive)
            && let Ok(window) = VarInt::from_u64(window)
        {
            self.connection.set_receive_window(window);
        }
        state.next_update = now + (stats.rtt / UPDATES_PER_ROUND_TRIP).max(UPDATE_INTERVAL_MIN);
    }
}

/// Adds to `waited` how long `work` could not go on.
async fn timed<T>(waited: &AtomicU64, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut since = None;
    let done = poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Pending => {
            since.get_or_insert_with(Instant::now);
            Poll::Pending
        }
        done @ Poll::Ready(_) => done,
    })
    .await;
    if let Some(since) = since {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        waited.fetch_add(micros, Ordering::Relaxed);
    }
    done
}

/// What is buffered for sending should hold some pieces of a body, so that one is always there when
/// the network takes it.
const PIECES_PER_WINDOW: u64 = 4;

/// Room for what is urgent, beyond what bulk may fill, in bytes: some full pages of listings.
const URGENT_RESERVE: u64 = 256 * 1024;

/// A path that starts doubles what it carries in a round trip, and the windows have to be ahead.
const UPDATES_PER_ROUND_TRIP: u32 = 4;

/// Looking costs a few locks; a thousand times a second that is nothing.
const UPDATE_INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
