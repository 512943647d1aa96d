//! A batch of datagrams to one destination, for a single segmented send.
//!
//! The kernel cuts one send into segments, so a batch is bytes plus an envelope that all datagrams
//! share. Invariants:
//!
//! - Only the last datagram may be shorter than the segment size.
//! - The kernel gets all bytes in order and exactly once; what it doesn't accept stays.
//! - A batch holds at most one full send and the transmit that overflowed it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use quinn::AsyncUdpSocket;
use quinn::udp::{EcnCodepoint, Transmit};

/// Limit of one send, in bytes: the IPv4 length field less the headers of IPv4 and UDP. The kernel
/// refuses a larger send as a whole (`EMSGSIZE`), and all of its datagrams are lost.
pub(super) const SEND_BYTES_MAX: usize = 65_535 - 20 - 8;

/// What the caller has to do after [`GsoBatch::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// Nothing: no datagrams wait, or a flush is scheduled already.
    Nothing,
    /// Schedule a flush.
    Flush,
}

/// Datagrams that wait for one send.
#[derive(Debug, Default)]
pub(super) struct GsoBatch {
    envelope: Option<Envelope>,
    bytes: Vec<u8>,
    /// Number of `bytes` that the kernel has accepted.
    sent: usize,
}

impl GsoBatch {
    /// Sends a transmit, together with what waits, or keeps it for a larger send.
    ///
    /// # Errors
    /// `WouldBlock` if the transmit wasn't accepted, because the kernel doesn't accept what came
    /// before; other errors of the socket.
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

    /// Gives waiting datagrams to the kernel. Errors other than `WouldBlock` lose the datagrams, as
    /// on any UDP socket; QUIC retransmits their contents.
    ///
    /// # Errors
    /// Only `WouldBlock`. The rest of the batch then keeps waiting.
    pub(super) fn flush(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(envelope) = self.envelope else {
            return Ok(());
        };
        let (sent, result) = envelope.send(socket, self.bytes.get(self.sent..).unwrap_or_default());
        self.sent += sent;
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => tracing::debug!(%error, "the kernel refused datagrams"),
            Ok(()) => {}
        }
        self.clear();
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.envelope.is_none()
    }

    /// Whether a transmit can be appended to the same send.
    fn can_append(&self, envelope: &Envelope, len: usize, send_bytes_max: usize) -> bool {
        self.envelope.is_none_or(|own| own == *envelope)
            && self.bytes.len().is_multiple_of(envelope.segment_size)
            && self.bytes.len() + len <= send_bytes_max.max(len)
    }

    /// Sends directly, without a copy; the batch must be empty. If the kernel stops half-way, the
    /// batch keeps the rest, because a retry by quinn would repeat what was sent.
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
        // The transmit that overflowed the batch may have grown the buffer.
        self.bytes.shrink_to(SEND_BYTES_MAX);
    }
}

/// The properties that all datagrams of one send share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Envelope {
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    ecn: Option<EcnCodepoint>,
    /// Size of each datagram but the last, in bytes; not 0.
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

    /// Returns the size of the largest send in whole segments, in bytes.
    fn send_bytes_max(&self, socket: &dyn AsyncUdpSocket) -> usize {
        let segments = (SEND_BYTES_MAX / self.segment_size).min(socket.max_transmit_segments());
        self.segment_size * segments.max(1)
    }

    /// Whether a transmit of `len` bytes is probably part of a bulk transfer, so that the next
    /// follows at once, and whether the same send has room for that.
    ///
    /// A shorter transmit means that data, window or pacing ran out; waiting would only delay it.
    fn more_follows(&self, len: usize, send_bytes_max: usize) -> bool {
        len >= BULK_SEGMENTS * self.segment_size
            && len.is_multiple_of(self.segment_size)
            && 2 * len <= send_bytes_max
    }

    /// Sends `contents` in as few calls as possible. Returns the number of bytes that were
    /// accepted.
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

/// Segments of a transmit of quinn while it has enough to send: its `MAX_TRANSMIT_SEGMENTS`. If a
/// later version uses fewer, sends are no longer combined, but nothing breaks.
const BULK_SEGMENTS: usize = 10;
