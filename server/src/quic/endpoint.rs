//! The UDP endpoints of the server: they admit connections until the server stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TransportConfig, VarInt};
use quire_shared::ErrorCode;
use quire_shared::limits::STREAMS_MAX;
use quire_transport::congestion::CongestionControl;
use quire_transport::error_code::to_quic;
use quire_transport::socket::{self, AmplificationLimit, SocketError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

use super::admission::{Admission, Admittance};
use super::{Shared, connection, tls};
use crate::config::start_error::StartError;
use crate::config::{Config, Listen};

/// The QUIC front end, bound to its addresses.
#[derive(Debug)]
pub(crate) struct Endpoints {
    endpoints: Vec<Endpoint>,
    server_config: ServerConfig,
    congestion: CongestionControl,
    amplification: AmplificationLimit,
    shared: Arc<Shared>,
}

impl Endpoints {
    /// Binds every address of the configuration, without serving yet.
    ///
    /// # Errors
    /// If an address can't be bound, or the identity can't be used.
    pub(crate) fn bind(config: &Config, shared: Arc<Shared>) -> Result<Self, StartError> {
        let tls = tls::server_config(&config.identity).map_err(StartError::Tls)?;
        let server_config = server_config(tls);
        let amplification = AmplificationLimit::default();
        let mut endpoints = Vec::with_capacity(config.listen.len());
        for Listen { address, optional } in &config.listen {
            match bind(*address, &server_config, &amplification) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) if *optional && error.is_no_such_address() => {
                    info!("not listening on {address}: this machine has no such address");
                }
                Err(error) => return Err(StartError::Listen(error)),
            }
        }
        Ok(Self {
            endpoints,
            server_config,
            congestion: config.congestion,
            amplification,
            shared,
        })
    }

    /// The addresses that are bound, in the order of the configuration.
    ///
    /// # Errors
    /// If the system can't tell an address.
    pub(crate) fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.endpoints.iter().map(Endpoint::local_addr).collect()
    }

    /// Waits until no client is connected.
    pub(crate) async fn wait_idle(&self) {
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// Admits connections until `stop` is cancelled, and then no more. Each connection is a task of
    /// `connections`.
    pub(crate) async fn accept(&self, stop: &CancellationToken, connections: &TaskTracker) {
        let acceptor = Acceptor {
            admission: Admission::new(
                Arc::clone(&self.shared.limits),
                Arc::clone(&self.shared.metrics),
                self.amplification.clone(),
            ),
            server_config: self.server_config.clone(),
            congestion: self.congestion,
            shared: Arc::clone(&self.shared),
            stop: stop.clone(),
            connections: connections.clone(),
        };
        let mut accepting = JoinSet::new();
        for endpoint in &self.endpoints {
            accepting.spawn(accept(endpoint.clone(), acceptor.clone()));
        }
        while accepting.join_next().await.is_some() {}
    }

    /// Ends what is left, and waits a moment until the clients have been told.
    pub(crate) async fn close(&self) {
        for endpoint in &self.endpoints {
            endpoint.close(to_quic(ErrorCode::SHUTTING_DOWN), b"");
        }
        // Only waits for the closing packets to leave; a peer that is gone can't hold this up.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.wait_idle()).await;
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

fn bind(
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
struct Acceptor {
    admission: Admission,
    server_config: ServerConfig,
    congestion: CongestionControl,
    shared: Arc<Shared>,
    stop: CancellationToken,
    connections: TaskTracker,
}

/// Admits connections to one endpoint until told to stop.
async fn accept(endpoint: Endpoint, acceptor: Acceptor) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = acceptor.stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        acceptor.admit(incoming);
    }
}

impl Acceptor {
    fn admit(&self, incoming: Incoming) {
        let remote = incoming.remote_address();
        let is_proved = incoming.remote_address_validated();
        let admitted = match self.admission.judge(remote, is_proved) {
            Admittance::Admit(admitted) => admitted,
            Admittance::Prove => {
                debug!(%remote, "has to prove its address");
                if let Err(error) = incoming.retry() {
                    // Not with an address that isn't proved, but then it had better be refused.
                    error.into_incoming().refuse();
                }
                return;
            }
            Admittance::Wait => {
                debug!(%remote, "has to wait: its address has enough handshakes");
                return incoming.ignore();
            }
            Admittance::Refuse(reason) => {
                debug!(%remote, reason, "refused");
                return incoming.refuse();
            }
        };
        let mut config = self.server_config.clone();
        config.transport_config(self.transport(remote));
        match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => {
                let shared = Arc::clone(&self.shared);
                let served = connection::serve(connecting, admitted, shared, self.stop.clone());
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
            let early = self.shared.limits.early_requests.min(STREAMS_MAX);
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
