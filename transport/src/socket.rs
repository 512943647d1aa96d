//! The UDP socket of an endpoint.
//!
//! [`bind`] opens the socket and reports buffers that the kernel kept small. [`server`] and
//! [`client`] create a [`quinn::Endpoint`] on it. Between quinn and the kernel, `gso` keeps every segmented send within
//! the size limit of UDP, and combines many sends into fewer, larger ones. Without the limit, a
//! path with a large MTU silently loses everything. The combination saves a large part of the
//! kernel's work. [`mtu_discovery`] configures the search for the largest datagram, and
//! [`AmplificationLimit`] bounds what unvalidated addresses are sent.

pub mod address;
mod amplification;
mod gso;
mod gso_batch;
mod mtu;
mod reset;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::{Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

pub use self::amplification::{AmplificationLimit, Unvalidated};
use self::gso::GsoSocket;
pub(crate) use self::mtu::mtu_discovery;
pub use self::reset::EndpointSecret;

/// A bound socket that isn't in use yet.
#[derive(Debug)]
pub struct BoundSocket {
    socket: UdpSocket,
    local_addr: SocketAddr,
    shortfalls: Vec<BufferShortfall>,
}

impl BoundSocket {
    /// Returns the local address, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Returns the buffers that the kernel made smaller than requested. Callers log a warning for
    /// each.
    pub fn shortfalls(&self) -> &[BufferShortfall] {
        &self.shortfalls
    }
}

/// One of the two buffers of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferKind {
    /// Packets that have arrived and wait for the program.
    Receive,
    /// Packets that were sent and wait for the network.
    Send,
}

/// A buffer that the kernel made smaller than requested.
///
/// Shown as one line for the operator, on Linux with the command that raises the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferShortfall {
    /// Which buffer.
    pub kind: BufferKind,
    /// Requested size, in bytes.
    pub asked: usize,
    /// Granted size, in bytes.
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

/// Why a socket or an endpoint could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address is in use, not of this machine, or not permitted.
    #[error("cannot listen on {address}")]
    Bind {
        /// The requested address.
        address: SocketAddr,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// The system has no more sockets, or doesn't support an option that QUIC needs.
    #[error("cannot use a UDP socket")]
    Setup(#[source] io::Error),
}

impl SocketError {
    /// Whether another socket has the address.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// Whether the machine has no such address, or no addresses of that family.
    pub fn is_no_such_address(&self) -> bool {
        let (Self::Bind { source, .. } | Self::Setup(source)) = self;
        source.kind() == io::ErrorKind::AddrNotAvailable
            || source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    }
}

/// Binds a UDP socket to `address`, with buffers for full speed. Port 0 selects a free port.
///
/// An IPv6 socket accepts only IPv6, so that a socket for each family can use the same port.
///
/// # Errors
/// [`SocketError::Bind`] if the address is not available, [`SocketError::Setup`] if the system has
/// no socket. A buffer that stays small is no error: see [`BoundSocket::shortfalls`].
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

/// Returns the wildcard address of the family of `remote`, for a client socket.
pub fn any_local_addr_for(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Creates the endpoint of a server on a bound socket. `secret` lets clients of an earlier process
/// know that their connections are gone.
///
/// Must be called within a tokio runtime, which runs the tasks of the endpoint until the endpoint
/// and all of its connections are dropped.
///
/// # Errors
/// [`SocketError::Setup`] if the system refuses an option that QUIC needs.
pub fn server(
    socket: BoundSocket,
    server: ServerConfig,
    amplification: &AmplificationLimit,
    secret: &EndpointSecret,
) -> Result<Endpoint, SocketError> {
    let mut config = endpoint_config();
    secret.apply(socket.local_addr, &mut config);
    endpoint(socket, config, Some(server), amplification.clone())
}

/// Creates the endpoint of a client on a bound socket. Must be called as [`server`].
///
/// # Errors
/// [`SocketError::Setup`] if the system refuses an option that QUIC needs.
pub fn client(socket: BoundSocket) -> Result<Endpoint, SocketError> {
    let amplification = AmplificationLimit::default();
    endpoint(socket, endpoint_config(), None, amplification)
}

fn endpoint(
    socket: BoundSocket,
    config: EndpointConfig,
    server: Option<ServerConfig>,
    amplification: AmplificationLimit,
) -> Result<Endpoint, SocketError> {
    let runtime = Arc::new(TokioRuntime);
    let socket = runtime
        .wrap_udp_socket(socket.socket)
        .map_err(SocketError::Setup)?;
    let socket = Arc::new(GsoSocket::new(socket, amplification));
    Endpoint::new_with_abstract_socket(config, server, socket, runtime).map_err(SocketError::Setup)
}

/// Returns the endpoint configuration: this end accepts every datagram that UDP can carry.
fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    if let Err(error) = config.max_udp_payload_size(RECEIVED_DATAGRAM_BYTES_MAX) {
        tracing::error!(%error, "the largest datagram is out of quinn's range");
    }
    config
}

impl BufferKind {
    /// Requests a buffer of `wanted` bytes and returns the size granted.
    fn enlarge(self, socket: &Socket, wanted: usize) -> io::Result<usize> {
        let mut size = wanted;
        // Some systems refuse a size above their limit instead of granting the limit, so halve the
        // size until it is accepted.
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

    /// Exceeds the limit of the system, which needs `CAP_NET_ADMIN`. Without it the size stays, and
    /// the caller reports the shortfall.
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

/// Size of the receive buffer, in bytes: two flow-control windows of a fast local network, where
/// 2 MiB reach full speed. One arrives while the program processes the other. Windows larger than
/// this buffer would lose packets.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Size of the send buffer, in bytes: about what a network of 10 Gbit/s takes in one millisecond
/// (1.25 MB), for which a busy program may be away. A larger buffer would only delay
/// acknowledgements and control messages behind bulk data.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// The largest UDP payload, in bytes: the 16-bit length field (RFC 768) less the UDP header.
const RECEIVED_DATAGRAM_BYTES_MAX: u16 = u16::MAX - 8;

/// Ratio of reported to requested size: Linux doubles the size for its bookkeeping and reports the
/// double (socket(7), `SO_RCVBUF`).
const REPORTED_PER_ASKED: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

#[cfg(test)]
mod tests;
