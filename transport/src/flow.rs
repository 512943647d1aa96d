//! Flow control of a connection: its windows, and room in them for urgent data.
//!
//! quinn buffers what streams write up to the send window of the connection, and priorities only
//! order what is buffered. Bulk data fills that window whenever it can. A message would then queue
//! behind all blocked writers, because quinn wakes every one of them when room becomes free. Urgent
//! data therefore gets room beyond the window of bulk data.
//!
//! [`windows`] decides how large the windows are, from measurements of the path. Active bodies call
//! [`ActiveBody::moved`] for every piece, so an idle connection needs no timer. The flow also
//! measures how long bodies wait, and for what: see [`bottleneck`]. [`probe`] keeps a transfer going
//! whose peer has gone silent.

mod probe;
pub mod stream_limits;
pub mod windows;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quinn::{Connection, VarInt};
use tokio::task::JoinSet;

pub(crate) use self::probe::OpenStream;
use self::probe::{OpenStreams, Progress};
use self::windows::{
    LossEstimate, PathEstimate, RateEstimate, ReceiveWindow, WindowBudget, WindowGrant, Windows,
};
use crate::bottleneck::{self, TransferStats};
use crate::congestion;
use crate::controller::{ControllerHandle, controller_of};
use quire_shared::Side;

/// State that the streams of one connection share. Clones refer to the same connection.
#[derive(Debug, Clone)]
pub struct ConnectionFlow(Arc<FlowShared>);

#[derive(Debug)]
struct FlowShared {
    connection: Connection,
    side: Side,
    state: Mutex<FlowState>,
    sending: Waits,
    receiving: Waits,
    controller: Arc<ControllerHandle>,
    streams: Arc<OpenStreams>,
    /// The task that probes a silent peer; aborted when the flow is dropped.
    _prober: JoinSet<()>,
}

/// Time that the bodies of one direction have waited, in microseconds.
#[derive(Debug, Default)]
struct Waits {
    disk: AtomicU64,
    network: AtomicU64,
}

#[derive(Debug)]
struct FlowState {
    /// Number of bodies that are being sent.
    sending: usize,
    /// Number of bodies that are being received.
    receiving: usize,
    /// Number of streams that aren't read for now.
    held: usize,
    send_window: u64,
    /// The largest send window so far: as much may still be buffered after the window has shrunk.
    send_window_peak: u64,
    receive_window: ReceiveWindow,
    /// Memory of both windows beyond the minimum.
    grant: WindowGrant,
    /// Bytes of all streams that wait for earlier ones.
    reordered: u64,
    /// Memory of those bytes.
    reorder_grant: WindowGrant,
    losses: LossEstimate,
    rate: RateEstimate,
    /// Time of the next update of the windows.
    next_update: Instant,
}

impl ConnectionFlow {
    /// Creates the flow of `connection`, of which this end is `side`. Its windows grow within
    /// `budget`. Must be called within a tokio runtime.
    pub fn new(connection: Connection, side: Side, budget: &WindowBudget) -> Self {
        let now = Instant::now();
        let minimum = windows::minimum(side);
        let streams = Arc::<OpenStreams>::default();
        let shared = |shared: &Weak<FlowShared>| FlowShared {
            controller: ControllerHandle::of(&connection),
            connection,
            side,
            _prober: [probe::run(Arc::clone(&streams), Weak::clone(shared))]
                .into_iter()
                .collect(),
            streams,
            sending: Waits::default(),
            receiving: Waits::default(),
            state: Mutex::new(FlowState {
                sending: 0,
                receiving: 0,
                held: 0,
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
        };
        Self(Arc::new_cyclic(shared))
    }

    /// Counts an open stream until the guard is dropped.
    pub(crate) fn open_stream(&self) -> OpenStream {
        self.0.streams.open()
    }

    /// Counts a body to send until the guard is dropped.
    pub(crate) fn begin_sending(&self) -> ActiveBody {
        self.begin(Direction::Out)
    }

    /// Counts a body to receive until the guard is dropped.
    pub(crate) fn begin_receiving(&self) -> ActiveBody {
        self.begin(Direction::In)
    }

    /// Leaves other streams room beyond the window of one that isn't read, until the guard is
    /// dropped. Needed wherever reading it goes on only after others have made progress.
    pub fn hold(&self) -> HeldStream {
        let mut state = self.0.state();
        state.held += 1;
        self.0.update(&mut state, Instant::now());
        drop(state);
        HeldStream {
            shared: Arc::clone(&self.0),
        }
    }

    /// Creates the budget of one stream for bytes that wait for earlier ones.
    pub(crate) fn reorder_budget(&self) -> ReorderBudget {
        ReorderBudget {
            shared: Arc::clone(&self.0),
            bytes: 0,
        }
    }

    /// Whether the peer is so close that losses are repaired at once.
    pub fn is_local(&self) -> bool {
        windows::is_local(self.0.connection.stats().path.min_rtt)
    }

    /// Runs disk work that a body waits for, and measures the wait.
    pub(crate) async fn disk<T>(&self, direction: Direction, work: impl Future<Output = T>) -> T {
        timed(&self.0.waits(direction).disk, work).await
    }

    /// Runs network operations that a body waits for, and measures the wait.
    pub(crate) async fn network<T>(
        &self,
        direction: Direction,
        work: impl Future<Output = T>,
    ) -> T {
        timed(&self.0.waits(direction).network, work).await
    }

    /// Returns the measurements since the connection was established.
    pub(crate) fn stats(&self, direction: Direction) -> TransferStats {
        let waits = self.0.waits(direction);
        let duration = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
        let stats = self.0.connection.stats();
        let stats = TransferStats {
            disk: duration(&waits.disk),
            network: duration(&waits.network),
            sent_bytes: stats.udp_tx.bytes,
            sent: stats.path.sent_packets,
            lost: stats.path.lost_packets,
            stopped: stats.frame_tx.data_blocked + stats.frame_tx.stream_data_blocked,
            acknowledged: self.0.controller.packets(),
            round_trip: stats.path.rtt,
            round_trip_min: stats.path.min_rtt,
            jitter: controller_of(&self.0.connection).map_or(Duration::ZERO, congestion::jitter),
            in_flight_max: stats.path.cwnd,
            send_window: self.0.state().send_window_peak,
            stream_window: windows::stream_window(self.0.side.other()).into(),
            ..TransferStats::default()
        };
        bottleneck::add_process(stats)
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

    /// Returns the counter of bytes that the peer has acknowledged.
    pub(crate) fn acknowledged(&self) -> &AtomicU64 {
        self.0.controller.acknowledged()
    }

    /// Counts `bytes` that were read from a stream.
    pub(crate) fn read(&self, bytes: usize) {
        let mut state = self.0.state();
        state.rate.add(bytes as u64);
        state.receive_window.read(bytes as u64);
    }

    /// Writes bulk data, which has only the send window.
    pub(crate) async fn write_bulk<T>(&self, writing: impl Future<Output = T>) -> T {
        let mut writing = pin!(writing);
        poll_fn(|context| {
            // `write_urgent` raises the window under this lock, and quinn then wakes all blocked
            // writers. The lock keeps bulk writers out until the window is back.
            let _state = self.0.state();
            writing.as_mut().poll(context)
        })
        .await
    }

    /// Returns how much of a body to read from the disk at once, in bytes: a quarter of the send
    /// window, so that pieces take little memory where windows are small.
    pub(crate) fn piece_max(&self) -> usize {
        usize::try_from(self.0.state().send_window / PIECES_PER_WINDOW).unwrap_or(usize::MAX)
    }

    /// Calls `write`, which must not block, while there is room that bulk data doesn't have.
    pub(crate) fn write_urgent<T>(&self, write: impl FnOnce() -> T) -> T {
        // Held all the while, so that no bulk writer uses the room and no update lowers the window.
        let state = self.0.state();
        let connection = &self.0.connection;
        connection.set_send_window(state.send_window_peak + URGENT_RESERVE);
        let written = write();
        connection.set_send_window(state.send_window);
        written
    }
}

/// The direction of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

/// A body in transfer. Windows are large only while there is one.
#[derive(Debug)]
pub(crate) struct ActiveBody {
    shared: Arc<FlowShared>,
    direction: Direction,
}

impl ActiveBody {
    /// Reports progress of this body, and updates the windows if an update is due.
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

/// A stream that isn't read for now; see [`ConnectionFlow::hold`].
#[derive(Debug)]
pub struct HeldStream {
    shared: Arc<FlowShared>,
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.held -= 1;
        self.shared.update(&mut state, Instant::now());
    }
}

/// Memory of one stream for bytes that wait for earlier ones. Released on drop.
#[derive(Debug)]
pub(crate) struct ReorderBudget {
    shared: Arc<FlowShared>,
    bytes: u64,
}

impl ReorderBudget {
    /// Reserves memory for `bytes` in total. Returns whether there is room for more.
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

    /// Returns what has come from the peer so far.
    fn progress(&self) -> Progress {
        let stats = self.connection.stats();
        let acknowledged = self.controller.acknowledged().load(Ordering::Relaxed);
        Progress {
            stream_frames: stats.frame_rx.stream,
            acknowledgements: self.controller.acknowledgements(),
            bytes: stats.udp_rx.bytes + acknowledged,
            // Only the server sends the frame, so each end sees it in one direction.
            is_confirmed: stats.frame_tx.handshake_done + stats.frame_rx.handshake_done > 0,
            round_trip: stats.path.rtt,
        }
    }

    /// Has quinn send a packet that the peer acknowledges, even if the congestion window is full.
    fn send_probe(&self) {
        self.controller.let_out();
        // quinn sends MAX_DATA whenever the window grows, and no other frame on demand.
        for window in self.state().receive_window.grant_byte() {
            if let Ok(window) = VarInt::from_u64(window) {
                self.connection.set_receive_window(window);
            }
        }
    }

    /// Measures the path and sets the windows for the active bodies.
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
        let mut receive = windows::receive(&path, state.receiving, self.side);
        if state.held > 0 {
            receive = receive.max(windows::receive_window_few(self.side));
        }
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

/// Runs `work` and adds the time from its first `Pending` to its completion to `waited`.
async fn timed<T>(waited: &AtomicU64, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    // Work that completes at once costs no look at the clock.
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

/// Pieces of a body in a send window: enough that one is always ready when the network takes it.
const PIECES_PER_WINDOW: u64 = 4;

/// Room for urgent data beyond the send window, in bytes: four full pages of a listing.
const URGENT_RESERVE: u64 = 256 * 1024;

/// Updates per round trip. A path that starts up doubles its rate every round trip, and the windows
/// have to stay ahead of it.
const UPDATES_PER_ROUND_TRIP: u32 = 4;

/// The shortest time between updates. An update takes a few locks, which costs nothing a thousand
/// times per second.
const UPDATE_INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
