//! Connection attempts: the result of each, and early detection of closed ports.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use quinn::{ConnectionError, TransportErrorCode};
use quire_shared::Printable;
use quire_transport::socket;
use tokio::net::UdpSocket;

/// The addresses that were tried, in the order in which their attempts ended.
#[derive(Debug)]
pub struct Attempts(Vec<(SocketAddr, AttemptError)>);

impl FromIterator<(SocketAddr, AttemptError)> for Attempts {
    fn from_iter<I: IntoIterator<Item = (SocketAddr, AttemptError)>>(attempts: I) -> Self {
        Self(attempts.into_iter().collect())
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, error)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{address} ({error})")?;
        }
        Ok(())
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone)]
pub(crate) enum AttemptError {
    /// Nothing came back.
    NoAnswer,
    /// The host answered that nothing listens there.
    Refused,
    /// The handshake failed.
    Failed(String),
}

impl From<ConnectionError> for AttemptError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TimedOut => Self::NoAnswer,
            ConnectionError::TransportError(error) if error.code == no_common_protocol() => {
                Self::Failed("speaks QUIC, but not quire".to_owned())
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == no_common_protocol() =>
            {
                Self::Failed("speaks QUIC, but not quire".to_owned())
            }
            ConnectionError::ConnectionClosed(close)
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Failed("takes no more connections for now".to_owned())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => f.write_str("no answer"),
            Self::Refused => f.write_str("nothing listens there"),
            // The reason may be text from the other side.
            Self::Failed(reason) => Printable(reason).fmt(f),
        }
    }
}

/// Completes when the host reports that nothing listens at `address`; otherwise never.
///
/// The system passes that ICMP message only to connected sockets, and QUIC's socket isn't connected.
/// So a second socket sends one byte, which is no QUIC packet and is dropped by a server.
pub(crate) async fn refused(address: SocketAddr) {
    if probe(address).await.is_err_and(|error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
        )
    }) {
        return;
    }
    std::future::pending::<()>().await;
}

async fn probe(address: SocketAddr) -> io::Result<()> {
    let any = socket::any_local_addr_for(address);
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    socket.send(&[0]).await?;
    socket.recv(&mut [0]).await?;
    Ok(())
}

/// The QUIC error code for the TLS alert of a server that speaks another protocol (RFC 9001, §4.8).
fn no_common_protocol() -> TransportErrorCode {
    TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL)
}

/// The TLS alert `no_application_protocol` (RFC 7301, §3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_shown_as_a_list() {
        let [a, b] = ["127.0.0.1:1", "[::1]:1"].map(|text| text.parse().unwrap());
        let attempts = Attempts(vec![
            (a, AttemptError::Refused),
            (b, AttemptError::NoAnswer),
            (b, AttemptError::Failed("bad\nthing".to_owned())),
        ]);
        assert_eq!(
            attempts.to_string(),
            "127.0.0.1:1 (nothing listens there), [::1]:1 (no answer), [::1]:1 (bad\\nthing)"
        );
    }
}
