//! Server: its parts, how it starts and how it stops.
//!
//! The caller owns the stop signal, and knows the addresses before the server accepts connections.
//! So a test needs no fixed port and no sleep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quire_certs::Fingerprint;
use quire_transport::flow::windows::WindowBudget;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::auth::gate::Gate;
use crate::config::Config;
use crate::config::start_error::StartError;
use crate::files::{self, Files, ReadOnlyReason};
use crate::quic::Shared;
use crate::quic::endpoint::{Endpoints, Sockets};

/// A server that is bound to its addresses.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    quic: Endpoints,
    fingerprint: Fingerprint,
    drain: Duration,
}

/// State of a server at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Number of locked paths; 0 when no request is in progress.
    pub locked_paths: usize,
    /// Bytes of cached content in memory. Includes invalidated content that is still being sent.
    pub cached_bytes: u64,
    /// Counters of reached limits since the start, as in the log; empty if all are 0.
    pub limits_met: String,
}

impl Server {
    /// Binds every address and opens the root, without accepting connections yet. A caller that
    /// asked for port 0 can then read the port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the operator has to correct something: the root, an address, the identity.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        let sockets = Sockets::bind(&config.listen).map_err(StartError::Listen)?;
        Self::new(sockets, config)
    }

    /// As [`bind`](Self::bind), but waits for addresses that an earlier server still has, because its
    /// last requests have to finish.
    ///
    /// # Errors
    /// As for [`bind`](Self::bind).
    pub async fn bind_when_free(config: Config) -> Result<Self, StartError> {
        // Mistakes are told before the wait.
        files::check_root(&config.root)?;
        // The earlier server has probably the same limit.
        let limit = config.drain + HAND_OVER_TIME;
        let sockets = Sockets::bind_when_free(&config.listen, limit).await;
        let server = Self::new(sockets.map_err(StartError::Listen)?, config)?;
        // An earlier server gives up its addresses and the root one after the other.
        let deadline = Instant::now() + HAND_OVER_TIME;
        while server.read_only() == Some(ReadOnlyReason::OtherServer) && Instant::now() < deadline {
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
        Ok(server)
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration contains an identity, and is for one server"
    )]
    fn new(sockets: Sockets, config: Config) -> Result<Self, StartError> {
        let limits = Arc::new(config.limits.clone());
        let files = Files::open(&config.files())?;
        require_outside(&files, &config)?;
        let shared = Arc::new(Shared {
            metrics: Arc::clone(files.metrics()),
            files,
            gate: Gate::open(&config)?,
            rate_limiter: limits.rate.rate_limiter(),
            windows: WindowBudget::new(config.windows),
            limits,
        });
        Ok(Self {
            quic: Endpoints::new(sockets, &config, Arc::clone(&shared))?,
            shared,
            fingerprint: config.identity.fingerprint(),
            drain: config.drain,
        })
    }

    /// Bound addresses, in the order of the configuration.
    ///
    /// # Errors
    /// If the system can't report an address.
    pub fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.quic.local_addrs()
    }

    /// Fingerprint by which clients identify this server.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Reason why the root is read-only, if it is.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        self.shared.files.read_only()
    }

    /// Operations on the files, for another front end beside QUIC.
    pub fn files(&self) -> &Files {
        &self.shared.files
    }

    /// Current state of the server.
    pub fn status(&self) -> Status {
        Status {
            locked_paths: self.shared.files.locked_paths(),
            cached_bytes: self.shared.files.cached_bytes(),
            limits_met: self.shared.metrics.to_string(),
        }
    }

    /// Waits until no client is connected.
    pub async fn idle(&self) {
        self.quic.wait_idle().await;
    }

    /// Serves until `shutdown` completes, then lets running requests finish within the drain limit.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.serve(shutdown) => {}
            () = self.shared.gate.watch_file() => {}
            () = self.shared.metrics.keep_logging() => {}
            () = self.shared.files.keep_expiring_uploads() => {}
        }
        self.shared.metrics.log();
    }

    async fn serve(&self, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let acceptor = self.quic.acceptor(&stop, &connections);
        let stopping = async {
            shutdown.await;
            info!(
                "stopping: running requests have {} s to finish",
                self.drain.as_secs()
            );
            stop.cancel();
            connections.close();
            let drained = async {
                connections.wait().await;
                self.shared.files.finish().await;
            };
            let drained = tokio::time::timeout(self.drain, drained).await;
            if drained.is_err() && !connections.is_empty() {
                warn!(
                    connections = connections.len(),
                    "closed connections that did not finish in time"
                );
            }
        };
        // Also while the last requests finish: newcomers are told that the server stops.
        tokio::select! {
            () = self.quic.accept(&acceptor) => {}
            () = stopping => {}
        }
        acceptor.newcomers_gone().await;
        self.quic.close().await;
    }
}

/// Refuses files with keys or rights inside the served directory, where clients could read or
/// replace them.
fn require_outside(files: &Files, config: &Config) -> Result<(), StartError> {
    for secret in &config.secrets {
        let path = secret.clone();
        match files.contains_path(secret) {
            Ok(false) => {}
            Ok(true) => return Err(StartError::SecretInRoot(path)),
            Err(source) => return Err(StartError::Secret { path, source }),
        }
    }
    Ok(())
}

/// Time that a server which ends takes beyond its drain limit, at most.
const HAND_OVER_TIME: Duration = Duration::from_secs(2);

/// Interval at which the lock of the root is tried again.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
