//! The server: its endpoints, whom they admit, and how they stop.
//!
//! This is where a request's path begins: an endpoint accepts a connection here, which
//! `connection.rs` serves. The caller owns the stop signal, and learns the addresses before
//! anything is served, so a test needs no fixed port and no sleep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TransportConfig, VarInt};
use quire_certs::Fingerprint;
use quire_shared::ErrorCode;
use quire_shared::limits::STREAMS_MAX;
use quire_transport::congestion::CongestionControl;
use quire_transport::error_code::to_quic;
use quire_transport::socket::{self, AmplificationLimit, SocketError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::config::start_error::StartError;
use crate::config::{Config, Listen};
use crate::quic::admission::{Admission, Verdict};
use crate::quic::connection;
use crate::quic::tls;
use crate::state::State;
use crate::store::ReadOnlyReason;

/// A server that is bound to its addresses.
#[derive(Debug)]
pub struct Server {
    endpoints: Vec<Endpoint>,
    server_config: ServerConfig,
    state: Arc<State>,
    fingerprint: Fingerprint,
    congestion: CongestionControl,
    drain: Duration,
    amplification: AmplificationLimit,
}

impl Server {
    /// Opens the root and binds every address without serving yet, so that a caller who asked for
    /// port 0 can learn the port. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// What the operator has to mend: the root, an address, the identity.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let fingerprint = config.identity.fingerprint();
        let tls = tls::server_config(&config.identity).map_err(StartError::Tls)?;
        let server_config = server_config(tls);
        let state = Arc::new(State::open(&config)?);
        let amplification = AmplificationLimit::default();
        let mut endpoints = Vec::with_capacity(config.listen.len());
        for Listen { address, optional } in config.listen {
            match bind_endpoint(address, &server_config, &amplification) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) if optional && error.is_no_such_address() => {
                    info!("not listening on {address}: this machine has no such address");
                }
                Err(error) => return Err(StartError::Listen(error)),
            }
        }
        Ok(Self {
            endpoints,
            server_config,
            state,
            fingerprint,
            congestion: config.congestion,
            drain: config.drain,
            amplification,
        })
    }

    /// The addresses that are bound, in the order of the configuration.
    ///
    /// # Errors
    /// If the system can't tell an address.
    pub fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.endpoints.iter().map(Endpoint::local_addr).collect()
    }

    /// The fingerprint by which clients know this server.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Why nothing can be changed in the root, if that is so.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        self.state.root.read_only()
    }

    /// How many paths are locked right now: 0 when no request is under way.
    pub fn locked_paths(&self) -> usize {
        self.state.locks.len()
    }

    /// How many bytes the cache keeps in memory right now, those included that it has forgotten but
    /// that are still being sent.
    pub fn cached_bytes(&self) -> u64 {
        self.state.cache.list().live
    }

    /// How often each limit was met since the start, as the log shows it; empty if none was.
    pub fn limits_met(&self) -> String {
        self.state.counters.to_string()
    }

    /// Waits until no client is connected.
    pub async fn idle(&self) {
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// Serves until `shutdown` completes, then lets what runs finish within the drain limit.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.serve(shutdown) => {}
            () = self.state.keyring.watch_file() => {}
            () = self.state.counters.keep_logging() => {}
        }
        self.state.counters.log();
    }

    async fn serve(&self, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let entrance = Entrance {
            admission: Admission::new(
                Arc::clone(&self.state.limits),
                Arc::clone(&self.state.counters),
                self.amplification.clone(),
            ),
            server_config: self.server_config.clone(),
            congestion: self.congestion,
            state: Arc::clone(&self.state),
            stop: stop.clone(),
            connections: connections.clone(),
        };
        let mut accepting = JoinSet::new();
        for endpoint in &self.endpoints {
            accepting.spawn(accept(endpoint.clone(), entrance.clone()));
        }
        shutdown.await;
        info!(
            "stopping: running requests have {} s to finish",
            self.drain.as_secs()
        );
        stop.cancel();
        while accepting.join_next().await.is_some() {}
        connections.close();
        if tokio::time::timeout(self.drain, connections.wait())
            .await
            .is_err()
        {
            warn!(
                connections = connections.len(),
                "cut off what did not finish in time"
            );
        }
        for endpoint in &self.endpoints {
            endpoint.close(to_quic(ErrorCode::SHUTTING_DOWN), b"");
        }
        for endpoint in &self.endpoints {
            // Only waits for the closing packets to leave; a peer that is gone can't hold this up.
            let _ = tokio::time::timeout(CLOSE_LIMIT, endpoint.wait_idle()).await;
        }
    }
}

/// What holds for every connection; the transport's settings depend on the path to the client.
fn server_config(tls: QuicServerConfig) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_TOTAL);
    config
}

fn bind_endpoint(
    address: SocketAddr,
    config: &ServerConfig,
    amplification: &AmplificationLimit,
) -> Result<Endpoint, SocketError> {
    let socket = socket::bind(address)?;
    for shortfall in socket.shortfalls() {
        warn!("{shortfall}");
    }
    socket::endpoint(socket, Some(config.clone()), amplification)
}

/// What admitting a connection takes.
#[derive(Debug, Clone)]
struct Entrance {
    admission: Admission,
    server_config: ServerConfig,
    congestion: CongestionControl,
    state: Arc<State>,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// Admits connections to one endpoint until told to stop.
async fn accept(endpoint: Endpoint, entrance: Entrance) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = entrance.stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        entrance.admit(incoming);
    }
}

impl Entrance {
    fn admit(&self, incoming: Incoming) {
        let remote = incoming.remote_address();
        let is_proved = incoming.remote_address_validated();
        let admitted = match self.admission.judge(remote, is_proved) {
            Verdict::Admit(admitted) => admitted,
            Verdict::Prove => {
                debug!(%remote, "has to prove its address");
                if let Err(error) = incoming.retry() {
                    // Not with an address that isn't proved, but then it had better be refused.
                    error.into_incoming().refuse();
                }
                return;
            }
            Verdict::Wait => {
                debug!(%remote, "has to wait: its address has enough handshakes");
                return incoming.ignore();
            }
            Verdict::Refuse(reason) => {
                debug!(%remote, reason, "refused");
                return incoming.refuse();
            }
        };
        let mut config = self.server_config.clone();
        config.transport_config(self.transport(remote));
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => {
                let state = Arc::clone(&self.state);
                let served = connection::serve(connecting, admitted, state, self.stop.clone());
                self.connections
                    .spawn(served.instrument(info_span!("connection", %remote)));
            }
            Err(error) => debug!(%remote, %error, "not a connection"),
        }
    }

    /// The transport's settings, but with few requests until the client's rights are known.
    fn transport(&self, remote: SocketAddr) -> Arc<TransportConfig> {
        let mut transport = quire_transport::config::server(remote, self.congestion);
        if let Some(transport) = Arc::get_mut(&mut transport) {
            let early = self.state.limits.early_requests.min(STREAMS_MAX);
            transport.max_concurrent_bidi_streams(VarInt::from_u32(early));
        }
        transport
    }
}

/// Connections that wait for the accept loop; quinn's own limit of 65,536 is a memory hole.
const INCOMING_MAX: usize = 1024;

/// What one waiting connection may have sent, in bytes: a first flight of any size we expect.
const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;

/// What all waiting connections may have sent, in bytes.
const INCOMING_BUFFER_BYTES_TOTAL: u64 = 8 * 1024 * 1024;

/// How long closing packets may take to leave.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
