//! Datagrams on their way to one destination that wait to be given to the kernel in one call.
//!
//! The kernel cuts one send into segments, so a batch is bytes plus what all of its datagrams have
//! in common. Invariants: only the last datagram may be shorter than the segment size; bytes are
//! given to the kernel in the order in which they came, each once; what the kernel didn't take
//! stays; and a batch never holds more than one full send and the transmit that overflowed it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use quinn::AsyncUdpSocket;
use quinn::udp::{EcnCodepoint, Transmit};

/// The largest number of bytes that one send carries: the IPv4 length field less the headers of
/// IPv4 and UDP. A larger one is refused by the kernel as a whole, and all of it is lost.
pub(super) const SEND_BYTES_MAX: usize = 65_535 - 20 - 8;

/// What is left to do after a transmit was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Nothing, or somebody has been asked already.
    Nothing,
    /// Datagrams wait, and somebody must flush them.
    Flush,
}

/// Datagrams that wait for one send.
#[derive(Debug, Default)]
pub(super) struct GsoBatch {
    envelope: Option<Envelope>,
    bytes: Vec<u8>,
    /// How many of `bytes` the kernel has taken.
    sent: usize,
}

impl GsoBatch {
    /// Takes a transmit: sends it, with what waited before it, or keeps it for a larger send.
    ///
    /// # Errors
    /// `WouldBlock` when it wasn't taken because the kernel still refuses what came before; other
    /// errors of the socket.
    pub(super) fn push(
        &mut self,
        socket: &dyn AsyncUdpSocket,
        transmit: &Transmit<'_>,
    ) -> io::Result<Afterwards> {
        let envelope = Envelope::of(transmit);
        let send_bytes_max = envelope.send_bytes_max(socket);
        if !self.can_append(&envelope, transmit.contents.len(), send_bytes_max) {
            self.flush(socket)?;
        }
        let waits = envelope.more_follows(transmit.contents.len(), send_bytes_max);
        if !waits && self.is_empty() {
            return self.send(socket, envelope, transmit.contents);
        }
        let was_empty = self.is_empty();
        self.append(envelope, transmit.contents);
        if waits && self.bytes.len() + transmit.contents.len() <= send_bytes_max {
            return Ok(if was_empty {
                Afterwards::Flush
            } else {
                Afterwards::Nothing
            });
        }
        match self.flush(socket) {
            Ok(()) => Ok(Afterwards::Nothing),
            Err(_) => Ok(Afterwards::Flush),
        }
    }

    /// Gives to the kernel what waits. Errors other than a full buffer cost the datagrams, as on
    /// any UDP socket: QUIC sends again what matters.
    ///
    /// # Errors
    /// Only `WouldBlock`; the rest of the batch then waits on.
    pub(super) fn flush(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(envelope) = self.envelope else {
            return Ok(());
        };
        let (sent, result) = envelope.send(socket, self.bytes.get(self.sent..).unwrap_or_default());
        self.sent += sent;
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => tracing::debug!(%error, "datagrams lost on their way to the kernel"),
            Ok(()) => {}
        }
        self.clear();
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.envelope.is_none()
    }

    /// Whether a transmit may follow in the same send.
    fn can_append(&self, envelope: &Envelope, len: usize, send_bytes_max: usize) -> bool {
        self.envelope.is_none_or(|own| own == *envelope)
            && self.bytes.len().is_multiple_of(envelope.segment_size)
            && self.bytes.len() + len <= send_bytes_max.max(len)
    }

    /// Sends at once, without a copy, into an empty batch; keeps the rest if the kernel stops
    /// half-way, as a second attempt at the whole would repeat what has left.
    fn send(
        &mut self,
        socket: &dyn AsyncUdpSocket,
        envelope: Envelope,
        contents: &[u8],
    ) -> io::Result<Afterwards> {
        let (sent, result) = envelope.send(socket, contents);
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => {
                self.append(envelope, contents.get(sent..).unwrap_or_default());
                Ok(Afterwards::Flush)
            }
            result => result.map(|()| Afterwards::Nothing),
        }
    }

    fn append(&mut self, envelope: Envelope, contents: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(SEND_BYTES_MAX);
        }
        self.envelope = Some(envelope);
        self.bytes.extend_from_slice(contents);
    }

    fn clear(&mut self) {
        self.envelope = None;
        self.sent = 0;
        self.bytes.clear();
        self.bytes.shrink_to(SEND_BYTES_MAX);
    }
}

/// What all datagrams of one send have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Envelope {
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    /// Bytes of each datagram but the last; not 0.
    segment_size: usize,
}

impl Envelope {
    fn of(transmit: &Transmit<'_>) -> Self {
        Self {
            destination: transmit.destination,
            src_ip: transmit.src_ip,
            ecn: transmit.ecn,
            segment_size: transmit
                .segment_size
                .unwrap_or(transmit.contents.len())
                .max(1),
        }
    }

    /// Bytes of the largest send in whole segments.
    fn send_bytes_max(&self, socket: &dyn AsyncUdpSocket) -> usize {
        let segments = (SEND_BYTES_MAX / self.segment_size).min(socket.max_transmit_segments());
        self.segment_size * segments.max(1)
    }

    /// Whether a transmit of `len` bytes looks like part of a bulk transfer, so that the next
    /// follows at once, and there is room for that in the same send.
    ///
    /// Shorter ones mean that data, window or pacing ran out: waiting would only delay them.
    fn more_follows(&self, len: usize, send_bytes_max: usize) -> bool {
        len >= BULK_SEGMENTS * self.segment_size
            && len.is_multiple_of(self.segment_size)
            && 2 * len <= send_bytes_max
    }

    /// Sends `contents` in as few calls as the limits allow, and says how many bytes were taken.
    fn send(&self, socket: &dyn AsyncUdpSocket, contents: &[u8]) -> (usize, io::Result<()>) {
        let mut sent = 0;
        for piece in contents.chunks(self.send_bytes_max(socket)) {
            let result = socket.try_send(&Transmit {
                destination: self.destination,
                ecn: self.ecn,
                contents: piece,
                segment_size: (piece.len() > self.segment_size).then_some(self.segment_size),
                src_ip: self.src_ip,
            });
            if result.is_err() {
                return (sent, result);
            }
            sent += piece.len();
        }
        (sent, Ok(()))
    }
}

/// Segments that quinn puts into one transmit while it has enough to send (its
/// `MAX_TRANSMIT_SEGMENTS`); should it come to use fewer, gathering ceases and nothing else.
const BULK_SEGMENTS: usize = 10;
