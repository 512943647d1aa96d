//! From a server's name to a connection: resolving, racing its addresses, coming back.
//!
//! A name may have addresses that lead nowhere, so attempts are started one after another without
//! waiting for the earlier ones to fail, families in turn (RFC 8305), and the first handshake
//! that completes wins. If none does, the error says what was tried and how each attempt ended.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{
    ClientConfig, ConnectError, Connecting, Connection, ConnectionError, Endpoint,
    TransportErrorCode,
};
use quire_certs::{Fingerprint, Identity};
use quire_transport::congestion::CongestionControl;
use quire_transport::socket::{self, AmplificationLimit};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::ClientError;
use crate::handshake::{self, Answered, HandshakeDone, HandshakeState, PendingHandshake};
use crate::known_servers::ServerId;
use crate::tls;
use crate::trust::ServerVerifier;

/// What it takes to connect to one server, as often as needed.
///
/// It remembers what the server gave it for coming back. A later connection resumes the session of
/// an earlier one, and its first requests go out with its first packets.
#[derive(Debug)]
pub struct Connector {
    server: ServerId,
    config: ClientConfig,
    verifier: Arc<ServerVerifier>,
    fingerprint: Fingerprint,
    congestion: CongestionControl,
    answered: Answered,
}

/// A connection that stands, or is about to, with the endpoint that carries it.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) handshake: HandshakeState,
}

impl Connector {
    /// For connections as `identity` to `server`, if `verifier` trusts what answers there, with
    /// `congestion` as the control of what is sent.
    ///
    /// # Errors
    /// [`ClientError::Tls`] when the identity is unusable.
    pub fn new(
        server: &ServerId,
        identity: &Identity,
        verifier: ServerVerifier,
        congestion: CongestionControl,
    ) -> Result<Self, ClientError> {
        let verifier = Arc::new(verifier);
        let tls = tls::client_config(identity, Arc::clone(&verifier))?;
        Ok(Self {
            server: server.clone(),
            config: ClientConfig::new(Arc::new(tls)),
            verifier,
            fingerprint: identity.fingerprint(),
            congestion,
            answered: Answered::default(),
        })
    }

    /// Connects to the first address of the server that answers, or again to the one that answered
    /// last; in that case an error may come with the first request only.
    ///
    /// Whether the server lets the identity in shows at the first request.
    ///
    /// # Errors
    /// [`ClientError::NotTrusted`] with a reason that may let the caller ask and try again;
    /// [`ClientError::CannotConnect`] with all that was tried.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        // If it doesn't answer this time, the next attempt is made as if for the first time.
        let answered = handshake::lock(&self.answered).take();
        let again = answered.map(|address| self.connect_again(address));
        let connected = match again.transpose()?.flatten() {
            Some(connected) => connected,
            None => self.race().await?,
        };
        Ok(Client::new(connected, self.fingerprint))
    }

    /// A connection that may be used before its handshake is over, if there is a session to resume.
    fn connect_again(&self, address: SocketAddr) -> Result<Option<Connected>, ClientError> {
        let endpoint = endpoint_for(address)?;
        let begun = Instant::now();
        let connecting = self.begin(&endpoint, address);
        let Some(Ok((connection, accepted))) = connecting.ok().map(Connecting::into_0rtt) else {
            return Ok(None);
        };
        let handshake = HandshakeState::in_progress(PendingHandshake {
            server: self.server.clone(),
            connection: connection.clone(),
            accepted,
            begun,
            answered: Arc::clone(&self.answered),
            failed: None,
        });
        Ok(Some(Connected {
            endpoint,
            connection,
            handshake,
        }))
    }

    async fn race(&self) -> Result<Connected, ClientError> {
        let mut race = Race {
            connector: self,
            attempts: JoinSet::new(),
            started: Vec::new(),
            ended: Vec::new(),
        };
        let connected = match tokio::time::timeout(CONNECT_TIMEOUT, race.run()).await {
            Ok(result) => result?,
            Err(_) => return Err(race.lost()),
        };
        *handshake::lock(&self.answered) = Some(connected.connection.remote_address());
        Ok(connected)
    }

    fn begin(&self, endpoint: &Endpoint, address: SocketAddr) -> Result<Connecting, ConnectError> {
        // A zone names an interface of this machine; it is no part of the server's name.
        let host = self.server.host();
        let name = host.split_once('%').map_or(host, |(name, _zone)| name);
        let mut config = self.config.clone();
        config.transport_config(quire_transport::config::client(address, self.congestion));
        endpoint.connect_with(config, address, name)
    }
}

/// The addresses of one server, competing.
struct Race<'a> {
    connector: &'a Connector,
    attempts: JoinSet<(SocketAddr, Result<Connected, AttemptError>)>,
    started: Vec<SocketAddr>,
    ended: Vec<(SocketAddr, AttemptError)>,
}

impl Race<'_> {
    async fn run(&mut self) -> Result<Connected, ClientError> {
        let mut waiting = self.resolve().await?;
        let mut next_start = tokio::time::interval(ATTEMPT_DELAY);
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next() => {
                    // An attempt that was aborted or panicked says nothing of its address.
                    let Ok((address, result)) = ended else { continue };
                    match result {
                        Ok(connected) => return Ok(connected),
                        Err(outcome) => self.ended.push((address, outcome)),
                    }
                    if let Some(refusal) = self.connector.verifier.take_refusal() {
                        return Err(refusal.into());
                    }
                    // Nobody has to wait for an attempt that is over.
                    next_start.reset_immediately();
                }
                _ = next_start.tick(), if !waiting.is_empty() => {
                    if let Some(address) = waiting.pop_front() {
                        self.start(address)?;
                    }
                }
                else => return Err(self.lost()),
            }
        }
    }

    async fn resolve(&self) -> Result<VecDeque<SocketAddr>, ClientError> {
        let server = &self.connector.server;
        let unknown = |source| ClientError::UnknownHost {
            host: server.host().to_owned(),
            source,
        };
        let found = tokio::net::lookup_host((server.host(), server.port()))
            .await
            .map_err(unknown)?;
        let addresses = alternate_families(found);
        if addresses.is_empty() {
            return Err(unknown(io::ErrorKind::NotFound.into()));
        }
        Ok(addresses)
    }

    fn start(&mut self, address: SocketAddr) -> Result<(), ClientError> {
        let endpoint = endpoint_for(address)?;
        self.started.push(address);
        let connecting = match self.connector.begin(&endpoint, address) {
            Ok(connecting) => connecting,
            Err(error) => {
                self.ended
                    .push((address, AttemptError::Failed(error.to_string())));
                return Ok(());
            }
        };
        self.attempts.spawn(async move {
            let start = Instant::now();
            let result = tokio::select! {
                result = connecting => result.map_err(AttemptError::of),
                () = refused(address) => Err(AttemptError::Refused),
            };
            let result = result.map(|connection| Connected {
                endpoint,
                connection,
                handshake: HandshakeState::Complete(HandshakeDone {
                    took: start.elapsed(),
                    early_accepted: false,
                }),
            });
            (address, result)
        });
        Ok(())
    }

    /// What to say when no attempt has won.
    fn lost(&mut self) -> ClientError {
        if let Some(refusal) = self.connector.verifier.take_refusal() {
            return refusal.into();
        }
        let mut attempts = std::mem::take(&mut self.ended);
        for address in &self.started {
            if !attempts.iter().any(|(ended, _)| ended == address) {
                attempts.push((*address, AttemptError::NoAnswer));
            }
        }
        if attempts.is_empty() {
            return ClientError::UnknownHost {
                host: self.connector.server.host().to_owned(),
                source: io::ErrorKind::TimedOut.into(),
            };
        }
        ClientError::CannotConnect {
            server: self.connector.server.clone(),
            tried: Attempts(attempts),
        }
    }
}

/// An endpoint of its own for each attempt: what fails on one address can't disturb another.
fn endpoint_for(address: SocketAddr) -> Result<Endpoint, ClientError> {
    let bound = socket::bind(socket::any_local_addr_for(address))
        .map_err(|error| ClientError::Socket(error.into()))?;
    for shortfall in bound.shortfalls() {
        // Nothing that most users can change: worth a line only to those who look for speed.
        tracing::info!("{shortfall}");
    }
    socket::endpoint(bound, None, &AmplificationLimit::default())
        .map_err(|error| ClientError::Socket(error.into()))
}

/// Completes when the host says that nothing listens at `address`, else never.
///
/// Systems report that only to connected sockets, and QUIC's isn't one, so a second socket sends
/// one byte, which is no QUIC packet and is dropped by whoever receives it.
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

/// The addresses without repetition, IPv6 and IPv4 in turn, beginning with what the resolver
/// prefers.
fn alternate_families(found: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let mut families: [VecDeque<SocketAddr>; 2] = Default::default();
    let mut is_ipv6_preferred = None;
    for address in found {
        let is_ipv6 = address.is_ipv6();
        let [preferred, other] = &mut families;
        let family = match *is_ipv6_preferred.get_or_insert(is_ipv6) == is_ipv6 {
            true => preferred,
            false => other,
        };
        if !family.contains(&address) {
            family.push_back(address);
        }
    }
    let [mut preferred, mut other] = families;
    let mut addresses = VecDeque::new();
    while !preferred.is_empty() || !other.is_empty() {
        addresses.extend(preferred.pop_front());
        addresses.extend(other.pop_front());
    }
    addresses
}

/// The addresses that were tried, and how each attempt ended.
#[derive(Debug)]
pub struct Attempts(Vec<(SocketAddr, AttemptError)>);

impl Attempts {
    /// The addresses, in the order in which their attempts ended.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().map(|(address, _)| *address)
    }
}

impl FromIterator<(SocketAddr, AttemptError)> for Attempts {
    fn from_iter<I: IntoIterator<Item = (SocketAddr, AttemptError)>>(attempts: I) -> Self {
        Self(attempts.into_iter().collect())
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, outcome)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{address} ({outcome})")?;
        }
        Ok(())
    }
}

/// How an attempt ended that didn't win.
#[derive(Debug, Clone)]
pub(crate) enum AttemptError {
    /// Nothing came back.
    NoAnswer,
    /// The host answered that nothing listens there.
    Refused,
    /// The handshake failed.
    Failed(String),
}

impl AttemptError {
    pub(crate) fn of(error: ConnectionError) -> Self {
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
            Self::Failed(reason) => quire_shared::Escaped(reason).fmt(f),
        }
    }
}

/// What QUIC makes of the alert when the server speaks another protocol (RFC 9001, §4.8).
fn no_common_protocol() -> TransportErrorCode {
    TransportErrorCode::crypto(NO_COMMON_PROTOCOL)
}

/// How long connecting may take in all: long enough for a few lost packets on a slow path, short
/// enough for somebody who waits at a terminal.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an attempt has before the next one starts beside it (RFC 8305, §8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The TLS alert `no_application_protocol` (RFC 7301, §3.2).
const NO_COMMON_PROTOCOL: u8 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_nothing_comes_twice() {
        let found = addresses(&[
            "[::1]:1",
            "[::2]:1",
            "[::1]:1",
            "1.1.1.1:1",
            "[::3]:1",
            "1.1.1.1:1",
        ]);
        let wanted = addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(Vec::from(alternate_families(found.into_iter())), wanted);
        let found = addresses(&["1.1.1.1:1", "[::1]:1"]);
        assert_eq!(
            Vec::from(alternate_families(found.iter().copied())),
            found,
            "the resolver's preference stays"
        );
    }

    #[test]
    fn what_was_tried_reads_as_a_list() {
        let [a, b] = ["127.0.0.1:1", "[::1]:1"].map(|text| text.parse().unwrap());
        let tried = Attempts(vec![
            (a, AttemptError::Refused),
            (b, AttemptError::NoAnswer),
            (b, AttemptError::Failed("bad\nthing".to_owned())),
        ]);
        assert_eq!(
            tried.to_string(),
            "127.0.0.1:1 (nothing listens there), [::1]:1 (no answer), [::1]:1 (bad\\nthing)"
        );
    }
}
