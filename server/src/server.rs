//! The server: what it consists of, and how it starts and stops.
//!
//! The caller owns the stop signal, and learns the addresses before anything is served, so a test
//! needs no fixed port and no sleep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quire_certs::Fingerprint;
use quire_transport::flow::windows::WindowBudget;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::auth::gate::Gate;
use crate::config::Config;
use crate::config::start_error::StartError;
use crate::files::{Files, ReadOnlyReason};
use crate::quic::Shared;
use crate::quic::endpoint::Endpoints;

/// A server that is bound to its addresses.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    quic: Endpoints,
    fingerprint: Fingerprint,
    drain: Duration,
}

/// What a server is doing at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How many paths are locked: 0 when no request is in progress.
    pub locked_paths: usize,
    /// Bytes that the cache keeps in memory, those included that it has forgotten but that are still
    /// being sent.
    pub cached_bytes: u64,
    /// How often each limit was met since the start, as the log shows it; empty if none was.
    pub limits_met: String,
}

impl Server {
    /// Opens the root and binds every address without serving yet, so that a caller who asked for
    /// port 0 can learn the port. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// What the operator has to correct: the root, an address, the identity.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a configuration has an identity, and makes one server"
    )]
    pub fn bind(config: Config) -> Result<Self, StartError> {
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
            quic: Endpoints::bind(&config, Arc::clone(&shared))?,
            shared,
            fingerprint: config.identity.fingerprint(),
            drain: config.drain,
        })
    }

    /// The addresses that are bound, in the order of the configuration.
    ///
    /// # Errors
    /// If the system can't tell an address.
    pub fn local_addrs(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.quic.local_addrs()
    }

    /// The fingerprint by which clients know this server.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Why nothing can be changed in the root, if that is so.
    pub fn read_only(&self) -> Option<ReadOnlyReason> {
        self.shared.files.read_only()
    }

    /// The operations, for another front end beside QUIC.
    pub fn files(&self) -> &Files {
        &self.shared.files
    }

    /// What the server is doing now.
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

    /// Serves until `shutdown` completes, then lets what runs finish within the drain limit.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = self.serve(shutdown) => {}
            () = self.shared.gate.watch_file() => {}
            () = self.shared.metrics.keep_logging() => {}
        }
        self.shared.metrics.log();
    }

    async fn serve(&self, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let connections = TaskTracker::new();
        let stopping = async {
            shutdown.await;
            info!(
                "stopping: running requests have {} s to finish",
                self.drain.as_secs()
            );
            stop.cancel();
        };
        tokio::join!(self.quic.accept(&stop, &connections), stopping);
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
        self.quic.close().await;
    }
}

/// Refuses keys and rights in the served directory, where clients could fetch or replace them.
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
