//! The UDP socket beneath an endpoint: how it is bound, buffered and given to quinn.
//!
//! [`bind`] opens the socket and says what the kernel granted, [`endpoint`] makes a
//! [`quinn::Endpoint`] of it. Between quinn and the kernel stands a wrapper (`gather`) that keeps
//! every segmented send within what one UDP send can carry, and makes fewer, larger ones of many.
//! Without the first, a path with a large MTU loses everything in silence; the second saves a
//! large part of the kernel's work. [`mtu_discovery`] lets datagrams grow to what the path bears.

mod amplification;
mod gso;
mod gso_batch;
mod mtu;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

pub use self::amplification::{AmplificationLimit, Unvalidated};
use self::gso::GsoSocket;
pub(crate) use self::mtu::mtu_discovery;

/// A bound socket, not yet in use.
#[derive(Debug)]
pub struct BoundSocket {
    socket: UdpSocket,
    local_addr: SocketAddr,
    shortfalls: Vec<BufferShortfall>,
}

impl BoundSocket {
    /// The address in use, with the port that the system chose if none was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The buffers that the kernel made smaller than asked; worth a warning each.
    pub fn shortfalls(&self) -> &[BufferShortfall] {
        &self.shortfalls
    }
}

/// Which of the two buffers of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferKind {
    /// Packets that arrived and wait for the program.
    Receive,
    /// Packets that the program sent and that wait for the network.
    Send,
}

/// A buffer that the kernel made smaller than asked.
///
/// Its display form is one line for the operator, with the command that raises the limit where
/// there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferShortfall {
    /// Which buffer.
    pub kind: BufferKind,
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes granted.
    pub granted: usize,
}

impl fmt::Display for BufferShortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            asked,
            granted,
        } = *self;
        let (name, effect, setting) = match kind {
            BufferKind::Receive => ("receive", "packets may be lost", "net.core.rmem_max"),
            BufferKind::Send => ("send", "sending may stall", "net.core.wmem_max"),
        };
        write!(
            f,
            "the UDP {name} buffer is {granted} bytes instead of {asked}: {effect} at speed"
        )?;
        if cfg!(target_os = "linux") {
            write!(f, "; to raise the limit: sysctl -w {setting}={asked}")?;
        }
        Ok(())
    }
}

/// Why there is no socket or no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is in use, isn't this machine's, or may not be used.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system has no more sockets, or lacks an option that QUIC needs.
    #[error("cannot use a UDP socket")]
    Setup(#[source] io::Error),
}

impl SocketError {
    /// Whether the machine has no such address, or none of its family.
    pub fn is_no_such_address(&self) -> bool {
        let (Self::Bind { source, .. } | Self::Setup(source)) = self;
        source.kind() == io::ErrorKind::AddrNotAvailable
            || source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    }
}

/// Binds a UDP socket to `address` (port 0: any) with buffers for full speed.
///
/// An IPv6 socket takes IPv6 only, whatever the system's default, so that a socket for each
/// family can stand on the same port.
///
/// # Errors
/// [`SocketError::Bind`] when the address can't be had, [`SocketError::Setup`] when there is no
/// socket. A buffer that stays small is not an error: see [`BoundSocket::shortfalls`].
pub fn bind(address: SocketAddr) -> Result<BoundSocket, SocketError> {
    bind_with_buffers(address, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES)
}

fn bind_with_buffers(
    address: SocketAddr,
    receive_bytes: usize,
    send_bytes: usize,
) -> Result<BoundSocket, SocketError> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
    .map_err(SocketError::Setup)?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(SocketError::Setup)?;
    }
    let asked = [
        (BufferKind::Receive, receive_bytes),
        (BufferKind::Send, send_bytes),
    ];
    let mut shortfalls = Vec::new();
    for (kind, asked) in asked {
        let granted = kind.enlarge(&socket, asked).map_err(SocketError::Setup)?;
        if granted < asked {
            shortfalls.push(BufferShortfall {
                kind,
                asked,
                granted,
            });
        }
    }
    socket
        .bind(&address.into())
        .map_err(|source| SocketError::Bind { address, source })?;
    let socket = UdpSocket::from(socket);
    let local_addr = socket.local_addr().map_err(SocketError::Setup)?;
    Ok(BoundSocket {
        socket,
        local_addr,
        shortfalls,
    })
}

/// The local address from which a client reaches `remote`: any of its family, any port.
pub fn any_local_addr_for(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Makes an endpoint of a bound socket: a server with `Some` configuration, a client with `None`.
/// It sends no more than `credit` allows.
///
/// Must be called within a tokio runtime, which then runs the endpoint's tasks until the endpoint
/// and all of its connections are gone.
///
/// # Errors
/// [`SocketError::Setup`] when the system refuses an option that QUIC needs.
pub fn endpoint(
    socket: BoundSocket,
    server: Option<ServerConfig>,
    amplification: &AmplificationLimit,
) -> Result<Endpoint, SocketError> {
    let runtime = Arc::new(TokioRuntime);
    let socket = runtime
        .wrap_udp_socket(socket.socket)
        .map_err(SocketError::Setup)?;
    let socket = Arc::new(GsoSocket::new(socket, amplification.clone()));
    Endpoint::new_with_abstract_socket(endpoint_config(), server, socket, runtime)
        .map_err(SocketError::Setup)
}

/// What both ends tell each other about the datagrams they take: any that UDP can carry.
fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    if let Err(error) = config.max_udp_payload_size(RECEIVED_DATAGRAM_BYTES_MAX) {
        tracing::error!(%error, "the largest datagram is out of quinn's range");
    }
    config
}

impl BufferKind {
    /// Asks for `wanted` bytes and returns what there is then, in the same measure.
    fn enlarge(self, socket: &Socket, wanted: usize) -> io::Result<usize> {
        let mut size = wanted;
        // Some systems refuse a size above their limit instead of granting the limit.
        while size > self.granted(socket)? && self.ask(socket, size).is_err() {
            size /= 2;
        }
        if self.granted(socket)? < wanted {
            self.force(socket, wanted);
        }
        self.granted(socket)
    }

    fn ask(self, socket: &Socket, size: usize) -> io::Result<()> {
        match self {
            Self::Receive => socket.set_recv_buffer_size(size),
            Self::Send => socket.set_send_buffer_size(size),
        }
    }

    /// Goes beyond the system's limit where the program has the right to; without it, nothing
    /// changes and the caller learns so from the size granted.
    #[cfg(target_os = "linux")]
    fn force(self, socket: &Socket, size: usize) {
        let forced = match self {
            Self::Receive => rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, size),
            Self::Send => rustix::net::sockopt::set_socket_send_buffer_size_force(socket, size),
        };
        if let Err(error) = forced {
            tracing::debug!(%error, kind = ?self, size, "socket buffer stays within the limit");
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn force(self, _socket: &Socket, _size: usize) {}

    fn granted(self, socket: &Socket) -> io::Result<usize> {
        let reported = match self {
            Self::Receive => socket.recv_buffer_size()?,
            Self::Send => socket.send_buffer_size()?,
        };
        Ok(reported / REPORTED_PER_ASKED)
    }
}

/// Two flow-control windows of a fast local network (2 MiB each reaches full speed there): one
/// that arrives while the other is being worked off. Larger windows than this buffer lose packets.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// What a 10 Gbit/s network takes in the millisecond for which a busy program may be away
/// (1.25 MB); more would only delay acknowledgements and control behind bulk.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// The largest UDP payload there is: the 16-bit length field less the UDP header.
const RECEIVED_DATAGRAM_BYTES_MAX: u16 = u16::MAX - 8;

/// Linux doubles the size asked for, to pay for its own bookkeeping, and reports the double.
const REPORTED_PER_ASKED: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

#[cfg(test)]
mod tests;
