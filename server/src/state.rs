//! The parts of a server that all its connections share.

use std::sync::Arc;

use quire_transport::flow::stream_limits::RateLimiter;
use quire_transport::flow::windows::WindowBudget;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::auth::client_ca::ClientCa;
use crate::auth::keyring::Keyring;
use crate::auth::pairing::Pairing;
use crate::config::Config;
use crate::config::limits::Limits;
use crate::config::start_error::StartError;
use crate::error::RequestError;
use crate::files::cache::Cache;
use crate::files::digest_cache::Digests;
use crate::files::locks::LockTable;
use crate::files::quota::Holders;
use crate::metrics::Counters;
use crate::store::{Root, RootOptions};

/// The parts of a server that all its connections share.
#[derive(Debug)]
pub(crate) struct State {
    /// The served directory.
    pub(crate) root: Root,
    /// Who uses which path right now.
    pub(crate) locks: LockTable,
    /// File contents in memory.
    pub(crate) cache: Cache,
    /// Digests that were asked for.
    pub(crate) digests: Digests,
    /// Who may do what.
    pub(crate) keyring: Keyring,
    /// Memory for what is under way on all connections.
    pub(crate) windows: WindowBudget,
    /// Whose certificates give clients names.
    pub(crate) client_ca: ClientCa,
    /// Clients that may come with a code.
    pub(crate) pairing: Pairing,
    /// What clients may take of the server.
    pub(crate) limits: Arc<Limits>,
    /// How often each limit was met.
    pub(crate) counters: Arc<Counters>,
    /// What the connections of each key share.
    pub(crate) holders: Holders,
    /// What all transfers share.
    pub(crate) throttle: Option<Arc<RateLimiter>>,
    /// Admits changes to the disk, so that many that wait for it leave threads to the readers.
    changes: Arc<Semaphore>,
}

impl State {
    /// Opens the served directory and makes the other parts.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let options = RootOptions {
            read_only: config.read_only,
            faults: config.faults,
        };
        let root = Root::open(&config.root, options)?;
        for secret in &config.secrets {
            match root.contains_path(secret) {
                Ok(false) => {}
                Ok(true) => return Err(StartError::SecretInRoot(secret.clone())),
                Err(source) => {
                    return Err(StartError::Secret {
                        path: secret.clone(),
                        source,
                    });
                }
            }
        }
        let limits = Arc::new(config.limits.clone());
        let counters = Arc::<Counters>::default();
        Ok(Self {
            root,
            locks: LockTable::new(config.lock_limit).with_faults(config.faults),
            cache: Cache::new(config.cache),
            keyring: Keyring::open(config.access.clone(), config.authorized_keys.clone())?,
            digests: Digests::new(),
            windows: WindowBudget::new(config.windows),
            client_ca: config.client_ca.clone(),
            pairing: Pairing::new(config.state_dir.as_ref(), config.authorized_keys.as_ref()),
            holders: Holders::new(Arc::clone(&limits), Arc::clone(&counters)),
            throttle: limits.rate.throttle(),
            limits,
            counters,
            changes: Arc::new(Semaphore::new(CHANGES_MAX)),
        })
    }

    /// Runs file work that only reads in a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let root = self.root.clone();
        spawn_blocking(move || work(&root))
            .await
            .map_err(|_| RequestError::Internal("a blocking task ended without a result"))?
    }

    /// Runs file work that changes something, and so may wait for the disk, in one of the few
    /// blocking threads that are set aside for it.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, RequestError> + Send + 'static,
    ) -> Result<T, RequestError> {
        let permit = Arc::clone(&self.changes).acquire_owned().await;
        let permit = permit.map_err(|_| RequestError::ShuttingDown)?;
        self.read(move |root| {
            let result = work(root);
            drop(permit);
            result
        })
        .await
    }
}

/// Changes at once: enough for directory syncs to be shared by many, an eighth of the threads
/// that tokio keeps for blocking work.
const CHANGES_MAX: usize = 64;
