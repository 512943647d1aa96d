//! Connecting to a server by name: resolution, racing of addresses (RFC 8305), session resumption.
//!
//! A name may have unreachable addresses. So attempts start one after another, address families in
//! turn, without waiting for earlier ones to fail. The first handshake that completes wins. If none
//! does, the error lists each attempt and its result.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, ConnectError, Connecting, Endpoint};
use quire_certs::{Fingerprint, Identity};
use quire_transport::congestion::CongestionControl;
use quire_transport::socket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attempt::{AttemptError, refused};
use crate::error::ClientError;
use crate::exchange::Connection;
use crate::handshake::{self, HandshakeDone, HandshakeState, LastAddress, PendingHandshake};
use crate::known_servers::ServerId;
use crate::tls;
use crate::trust::ServerVerifier;

/// Connects to one server, as often as needed.
///
/// It keeps the session tickets and the address validation token that the server issued. A later
/// connection resumes the session, and its first requests go out with its first packets.
#[derive(Debug)]
pub struct Connector {
    server: ServerId,
    config: ClientConfig,
    verifier: Arc<ServerVerifier>,
    fingerprint: Fingerprint,
    congestion: CongestionControl,
    timeout: Duration,
    last_address: LastAddress,
}

/// The attempt that completed its handshake first.
#[derive(Debug)]
struct Connected {
    endpoint: Endpoint,
    quic: quinn::Connection,
    took: Duration,
}

impl Connector {
    /// Connects as `identity` to `server` if `verifier` trusts what answers there, with
    /// `congestion` as congestion control. [`Client::builder`](crate::Client::builder) makes a
    /// connector from files and defaults.
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
            timeout: CONNECT_TIMEOUT,
            last_address: LastAddress::default(),
        })
    }

    /// Sets the time limit for connecting.
    pub(crate) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Connects to the first address that answers, or resumes the session with the one that answered
    /// last. After a resumption, an error may come only with the first request.
    pub(crate) async fn open(&self) -> Result<Connection, ClientError> {
        // Taken rather than read: if this address doesn't answer now, the next call races all.
        let last = handshake::lock(&self.last_address).take();
        let resumed = last.map(|address| self.resume(address)).transpose()?;
        match resumed.flatten() {
            Some(connection) => Ok(connection),
            None => self.race().await,
        }
    }

    /// Resumes a session if there is one. The connection can be used before its handshake is complete.
    fn resume(&self, address: SocketAddr) -> Result<Option<Connection>, ClientError> {
        let endpoint = endpoint_for(address)?;
        let begun = Instant::now();
        let connecting = self.begin(&endpoint, address);
        let Some(Ok((quic, accepted))) = connecting.ok().map(Connecting::into_0rtt) else {
            return Ok(None);
        };
        let handshake = HandshakeState::in_progress(PendingHandshake {
            server: self.server.clone(),
            connection: quic.clone(),
            accepted,
            begun,
            timeout: self.timeout,
            last_address: Arc::clone(&self.last_address),
            failed: None,
        });
        Ok(Some(Connection::new(
            endpoint,
            quic,
            handshake,
            self.fingerprint,
        )))
    }

    async fn race(&self) -> Result<Connection, ClientError> {
        let mut race = Race {
            connector: self,
            attempts: JoinSet::new(),
            started: Vec::new(),
            ended: Vec::new(),
        };
        let connected = match tokio::time::timeout(self.timeout, race.run()).await {
            Ok(result) => result?,
            Err(_) => return Err(race.lost()),
        };
        *handshake::lock(&self.last_address) = Some(connected.quic.remote_address());
        let handshake = HandshakeState::Complete(HandshakeDone {
            took: connected.took,
            early_accepted: false,
        });
        Ok(Connection::new(
            connected.endpoint,
            connected.quic,
            handshake,
            self.fingerprint,
        ))
    }

    fn begin(&self, endpoint: &Endpoint, address: SocketAddr) -> Result<Connecting, ConnectError> {
        // The zone (`%eth0`) names an interface of this machine and is not part of the TLS name.
        let host = self.server.host();
        let name = host.split_once('%').map_or(host, |(name, _zone)| name);
        let mut config = self.config.clone();
        config.transport_config(quire_transport::config::client(address, self.congestion));
        endpoint.connect_with(config, address, name)
    }
}

/// Concurrent attempts to the addresses of one server.
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
                    // An aborted or panicked attempt has no result for its address.
                    let Ok((address, result)) = ended else { continue };
                    match result {
                        Ok(connected) => return Ok(connected),
                        Err(error) => self.ended.push((address, error)),
                    }
                    // A server that isn't trusted ends the race: its other addresses are no better.
                    if let Some(refusal) = self.connector.verifier.take_refusal() {
                        return Err(refusal.into());
                    }
                    // The next attempt needn't wait for one that has failed.
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
            return Err(unknown(io::Error::other("it has no address")));
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
                result = connecting => result.map_err(AttemptError::from),
                () = refused(address) => Err(AttemptError::Refused),
            };
            let result = result.map(|quic| Connected {
                endpoint,
                quic,
                took: start.elapsed(),
            });
            (address, result)
        });
        Ok(())
    }

    /// The error when no attempt has succeeded.
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
                source: io::Error::from(io::ErrorKind::TimedOut),
            };
        }
        ClientError::CannotConnect {
            server: self.connector.server.clone(),
            attempts: attempts.into_iter().collect(),
        }
    }
}

/// Creates an endpoint for one attempt, so that an error of its socket can't affect the others.
fn endpoint_for(address: SocketAddr) -> Result<Endpoint, ClientError> {
    let bound = socket::bind(socket::any_local_addr_for(address))
        .map_err(|error| ClientError::Socket(error.into()))?;
    for shortfall in bound.shortfalls() {
        // Most users can't change the limits of the kernel, so this is no warning.
        tracing::info!("{shortfall}");
    }
    socket::client(bound).map_err(|error| ClientError::Socket(error.into()))
}

/// Interleaves IPv6 and IPv4 addresses (RFC 8305, §4), beginning with the family that the resolver
/// prefers, without duplicates.
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

/// Time limit for connecting: enough for a few lost packets on a slow path, and still short for an
/// interactive user.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connection Attempt Delay: time before the next attempt starts (RFC 8305, §8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

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
}
