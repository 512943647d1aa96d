//! UDP endpoints of the server: accept connections until the server stops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig, TransportConfig, VarInt};
use quire_shared::ErrorCode;
use quire_shared::limits::STREAMS_MAX;
use quire_transport::congestion::CongestionControl;
use quire_transport::error_code::to_quic;
use quire_transport::socket::{self, AmplificationLimit, BoundSocket, EndpointSecret, SocketError};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, field, info, info_span, warn};

use super::admission::{Admission, Admittance};
use super::{Shared, connection, tls};
use crate::config::start_error::StartError;
use crate::config::{Config, Listen};

/// QUIC endpoints, bound to their addresses.
#[derive(Debug)]
pub(crate) struct Endpoints {
    endpoints: Vec<Endpoint>,
    server_config: ServerConfig,
    congestion: CongestionControl,
    amplification: AmplificationLimit,
    shared: Arc<Shared>,
}

/// Sockets that are bound, but not served yet.
#[derive(Debug)]
pub(crate) struct Sockets(Vec<BoundSocket>);

impl Sockets {
    /// Binds every address of `listen`.
    ///
    /// # Errors
    /// If an address can't be bound.
    pub(crate) fn bind(listen: &[Listen]) -> Result<Self, SocketError> {
        let mut sockets = Vec::with_capacity(listen.len());
        for Listen { address, optional } in listen {
            match socket::bind(*address) {
                Ok(socket) => sockets.push(socket),
                Err(error) if *optional && error.is_no_such_address() => {
                    info!("not listening on {address}: this machine has no such address");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self(sockets))
    }

    /// As [`bind`](Self::bind), but waits up to `limit` for an address that is in use. An earlier
    /// server keeps its address while its last requests finish.
    ///
    /// # Errors
    /// If an address can't be bound, or is still in use.
    pub(crate) async fn bind_when_free(
        listen: &[Listen],
        limit: Duration,
    ) -> Result<Self, SocketError> {
        let deadline = Instant::now() + limit;
        let mut is_logged = false;
        loop {
            match Self::bind(listen) {
                Err(error) if error.is_in_use() && Instant::now() < deadline => {
                    if !is_logged {
                        warn!(
                            "{error}, because it is in use; waiting up to {} s for an earlier \
                             server to end",
                            limit.as_secs()
                        );
                        is_logged = true;
                    }
                    tokio::time::sleep(BIND_INTERVAL).await;
                }
                bound => return bound,
            }
        }
    }
}

impl Endpoints {
    /// Makes the endpoints on bound sockets, without accepting connections yet.
    ///
    /// # Errors
    /// If a socket or the identity can't be used.
    pub(crate) fn new(
        sockets: Sockets,
        config: &Config,
        shared: Arc<Shared>,
    ) -> Result<Self, StartError> {
        let tls = tls::server_config(&config.identity).map_err(StartError::Tls)?;
        let server_config = server_config(tls);
        let secret = EndpointSecret::derive(config.identity.private_key().secret_der());
        let amplification = AmplificationLimit::default();
        let endpoints = sockets.0.into_iter().map(|socket| {
            for shortfall in socket.shortfalls() {
                warn!("{shortfall}");
            }
            socket::server(socket, server_config.clone(), &amplification, &secret)
        });
        Ok(Self {
            endpoints: endpoints
                .collect::<Result<_, _>>()
                .map_err(StartError::Listen)?,
            server_config,
            congestion: config.congestion,
            amplification,
            shared,
        })
    }

    /// Bound addresses, in the order of the configuration.
    ///
    /// # Errors
    /// If the system can't report an address.
    pub(crate) fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.endpoints.iter().map(Endpoint::local_addr).collect()
    }

    /// Waits until no client is connected.
    pub(crate) async fn wait_idle(&self) {
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// Makes what accepts connections: each becomes a task of `connections`, and is asked to end when
    /// `stop` is cancelled.
    pub(crate) fn acceptor(&self, stop: &CancellationToken, connections: &TaskTracker) -> Acceptor {
        Acceptor {
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
            newcomers: TaskTracker::new(),
        }
    }

    /// Accepts connections on all endpoints. Never completes.
    pub(crate) async fn accept(&self, acceptor: &Acceptor) {
        let mut accepting = JoinSet::new();
        for endpoint in &self.endpoints {
            accepting.spawn(accept(endpoint.clone(), acceptor.clone()));
        }
        while accepting.join_next().await.is_some() {}
    }

    /// Closes the remaining connections, and waits shortly until the close packets have left.
    pub(crate) async fn close(&self) {
        for endpoint in &self.endpoints {
            endpoint.close(to_quic(ErrorCode::SHUTTING_DOWN), b"");
        }
        // The limit is for clients that are gone: they must not delay the exit.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.wait_idle()).await;
    }
}

/// Makes the settings of all connections; those of the transport depend on the path to the client.
fn server_config(tls: QuicServerConfig) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_BYTES_TOTAL);
    config
}

/// Accepts or refuses incoming connections.
#[derive(Debug, Clone)]
pub(crate) struct Acceptor {
    admission: Admission,
    server_config: ServerConfig,
    congestion: CongestionControl,
    shared: Arc<Shared>,
    stop: CancellationToken,
    connections: TaskTracker,
    /// Connections that came after the stop began. They are told so, and the stop doesn't wait for
    /// them.
    newcomers: TaskTracker,
}

/// Accepts connections on one endpoint.
async fn accept(endpoint: Endpoint, acceptor: Acceptor) {
    while let Some(incoming) = endpoint.accept().await {
        acceptor.admit(incoming);
    }
}

impl Acceptor {
    /// Waits until the clients that came after the stop began have been told.
    pub(crate) async fn newcomers_gone(&self) {
        self.newcomers.close();
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.newcomers.wait()).await;
    }

    fn admit(&self, incoming: Incoming) {
        let remote = incoming.remote_address();
        let is_validated = incoming.remote_address_validated();
        let admitted = match self.admission.judge(remote, is_validated) {
            Admittance::Admit(admitted) => admitted,
            Admittance::Validate => {
                debug!(%remote, "sent a Retry: the address isn't validated");
                if let Err(error) = incoming.retry() {
                    // Fails only for a validated address, for which `judge` never returns this.
                    error.into_incoming().refuse();
                }
                return;
            }
            Admittance::Ignore => {
                debug!(%remote, "ignored for now: its address has enough handshakes");
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
                let tasks = match self.stop.is_cancelled() {
                    true => &self.newcomers,
                    false => &self.connections,
                };
                let served = connection::serve(connecting, admitted, shared, self.stop.clone());
                let span = info_span!("connection", %remote, key = field::Empty);
                tasks.spawn(served.instrument(span));
            }
            Err(error) => debug!(%remote, %error, "could not accept the connection"),
        }
    }

    /// Makes the transport's settings for a client. Few streams are allowed until its rights are
    /// known.
    fn transport(&self, remote: SocketAddr) -> Arc<TransportConfig> {
        let mut transport = quire_transport::config::server(remote, self.congestion);
        if let Some(transport) = Arc::get_mut(&mut transport) {
            let early = self.shared.limits.early_requests.min(STREAMS_MAX);
            transport.max_concurrent_bidi_streams(VarInt::from_u32(early));
        }
        transport
    }
}

/// Maximum number of connections that wait for the accept loop. quinn's default of 65,536 would let
/// an attacker use up the memory.
const INCOMING_MAX: usize = 1024;

/// Maximum buffered bytes of one waiting connection: enough for any first flight to be expected.
const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;

/// Maximum buffered bytes of all waiting connections together.
const INCOMING_BUFFER_BYTES_TOTAL: u64 = 8 * 1024 * 1024;

/// Time limit for the close packets to leave.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Interval at which an address that is in use is tried again.
const BIND_INTERVAL: Duration = Duration::from_millis(100);
