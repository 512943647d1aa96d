//! Probes of a peer that has gone silent while requests are in progress.
//!
//! quinn sends probes as well, but it doubles their interval each time (RFC 9002, §6.2), and an end
//! that has nothing unacknowledged sends none. That isn't enough in three cases:
//!
//! - On some paths a burst of losses ends with packets rather than with time. It can outlast all
//!   probes up to the idle timeout.
//! - A client that receives a body sends nothing by itself. After a change of its address nothing
//!   arrives any more, and the server learns the new address only from the next keep-alive.
//! - A server that was restarted answers packets of its old connections with a stateless reset (RFC
//!   9000, §10.3), but first there has to be a packet.
//!
//! So both ends look for progress while a stream is open: for stream data from the peer, and for
//! acknowledgements of what this end has sent. Without any for two round trips, this end sends a
//! probe at fixed intervals, until something comes or the idle timeout ends the connection. A
//! probe is a new packet, so the peer acknowledges it, and that shows what was lost before. It
//! carries the acknowledgements that may have been lost. It leaves even if the congestion window is
//! full, as the probes of RFC 9002 do.
//!
//! The load is bounded. Idle connections have no timer, a silent peer is sent ten datagrams per
//! second, and forty from the third second on, and quinn keeps the limit for addresses that aren't validated (RFC 9000, §8.1). A peer
//! that answers probes, but has nothing else to say yet, is probed about once per second.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::FlowShared;

/// Number of open streams of a connection.
#[derive(Debug, Default)]
pub(super) struct OpenStreams {
    count: AtomicUsize,
    /// Wakes the task when the first stream opens.
    begun: Notify,
}

/// An open stream, until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenStream(Arc<OpenStreams>);

impl OpenStreams {
    pub(super) fn open(self: &Arc<Self>) -> OpenStream {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.begun.notify_one();
        }
        OpenStream(Arc::clone(self))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Probes the peer of `flow` whenever it is silent while streams are open.
pub(super) async fn run(streams: Arc<OpenStreams>, flow: Weak<FlowShared>) {
    loop {
        while streams.count.load(Ordering::Relaxed) == 0 {
            streams.begun.notified().await;
        }
        let mut silence = Silence::default();
        while streams.count.load(Ordering::Relaxed) > 0 {
            let Some(flow) = flow.upgrade() else { return };
            let step = silence.look(flow.progress());
            if step.is_probe {
                flow.send_probe();
            }
            drop(flow);
            tokio::time::sleep(step.wait).await;
        }
    }
}

/// What has come from the peer so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Frames with data of streams.
    pub(super) stream_frames: u64,
    /// Acknowledgements of packets that weren't acknowledged before.
    pub(super) acknowledgements: u64,
    /// Bytes that have arrived here or at the peer.
    pub(super) bytes: u64,
    /// Whether the handshake is confirmed. Until then the probes of RFC 9002 are enough.
    pub(super) is_confirmed: bool,
    /// The smoothed round-trip time.
    pub(super) round_trip: Duration,
}

/// How long the peer has been silent.
#[derive(Debug, Default)]
struct Silence {
    last: Progress,
    /// Looks since something came.
    quiet: u32,
    /// Probes since something came.
    probes: u32,
    /// How often the interval of looks is doubled.
    doublings: u32,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    is_probe: bool,
    /// Time until the next look.
    wait: Duration,
}

impl Silence {
    fn look(&mut self, now: Progress) -> Step {
        let last = std::mem::replace(&mut self.last, now);
        let is_silent = last.stream_frames == now.stream_frames
            && last.acknowledgements == now.acknowledgements
            && now.is_confirmed;
        if is_silent {
            self.quiet += 1;
        } else {
            let has_moved = now.bytes.saturating_sub(last.bytes) >= MOVED_BYTES_MIN;
            if has_moved {
                self.doublings = 0;
            } else if self.probes > 0 {
                // Only a probe was answered: the peer is there, and has nothing to say yet.
                self.doublings += 1;
            }
            self.quiet = 0;
            self.probes = 0;
        }
        let interval = (now.round_trip / 2).max(LOOK_INTERVAL);
        let most = interval.max(LOOK_INTERVAL_MAX);
        let is_probe = self.quiet >= QUIET_LOOKS;
        self.probes += u32::from(is_probe);
        Step {
            is_probe,
            wait: match self.probes {
                0 => most.min(interval.saturating_mul(1 << self.doublings.min(8))),
                1..=PROBES_SLOW => PROBE_INTERVAL,
                _ => PROBE_INTERVAL_LATE,
            },
        }
    }
}

/// Looks without progress until the first probe. Each is half a round trip after the one before, so
/// the silence was between one and a half and two round trips.
const QUIET_LOOKS: u32 = 3;

/// The shortest interval of looks. On a local network a silence of 150 ms is noticed, in which a
/// peer that acknowledges late, and is busy as well, has answered.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The longest interval of looks for a peer that answers only probes.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(300);

/// Interval of probes. A burst of 20 packets is over after two seconds.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Probes at that interval, three seconds long.
const PROBES_SLOW: u32 = 30;

/// Interval of later probes. Up to the idle timeout they outlast a burst of a thousand packets, and
/// need no more than half a megabit per second.
const PROBE_INTERVAL_LATE: Duration = Duration::from_millis(25);

/// Progress in bytes that is more than the answers to probes.
const MOVED_BYTES_MIN: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(200);

    fn progress(frames: u64, acknowledgements: u64, bytes: u64) -> Progress {
        Progress {
            stream_frames: frames,
            acknowledgements,
            bytes,
            is_confirmed: true,
            round_trip: ROUND_TRIP,
        }
    }

    /// Looks until the first probe; returns the time since the first look.
    fn until_probe(silence: &mut Silence, now: Progress) -> Duration {
        let mut waited = Duration::ZERO;
        loop {
            let step = silence.look(now);
            if step.is_probe {
                return waited;
            }
            waited += step.wait;
        }
    }

    #[test]
    fn the_first_probe_comes_within_two_round_trips_and_more_at_fixed_intervals() {
        let mut silence = Silence::default();
        let now = progress(1, 1, 10_000);
        assert_eq!(until_probe(&mut silence, now), ROUND_TRIP * 3 / 2);
        for probe in 2..100 {
            let step = silence.look(now);
            let interval = match probe {
                ..=PROBES_SLOW => PROBE_INTERVAL,
                _ => PROBE_INTERVAL_LATE,
            };
            assert_eq!((step.is_probe, step.wait), (true, interval), "{probe}");
        }
    }

    #[test]
    fn data_and_acknowledgements_are_progress() {
        let mut silence = Silence::default();
        for count in 1..100_u64 {
            let (frames, acknowledgements) = (count / 2, count.div_ceil(2));
            let step = silence.look(progress(frames, acknowledgements, 10_000 * count));
            assert!(!step.is_probe, "{count}");
        }
    }

    #[test]
    fn a_peer_that_answers_only_probes_is_probed_less_often_until_data_moves() {
        let mut silence = Silence::default();
        silence.look(progress(1, 1, 10_000));
        let mut waited = Vec::new();
        for answers in 2..8 {
            let now = progress(1, answers, 10_000 + 80 * answers);
            waited.push(until_probe(&mut silence, now));
        }
        let [first, .., last] = waited[..] else {
            unreachable!("several waits");
        };
        assert!(first < last, "{waited:?}");
        assert_eq!(last, LOOK_INTERVAL_MAX * QUIET_LOOKS);
        // Without an answer the interval is the usual one at once.
        let unanswered = silence.look(progress(1, 7, 10_560));
        assert_eq!(unanswered.wait, PROBE_INTERVAL);
        let moved = progress(2, 8, 20_000);
        assert_eq!(until_probe(&mut silence, moved), ROUND_TRIP * 3 / 2);
    }

    #[test]
    fn nothing_is_probed_before_the_handshake_is_confirmed() {
        let mut silence = Silence::default();
        let handshaking = Progress {
            is_confirmed: false,
            ..progress(0, 0, 0)
        };
        for _ in 0..100 {
            assert!(!silence.look(handshaking).is_probe);
        }
    }
}
