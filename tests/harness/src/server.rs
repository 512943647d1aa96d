//! The real server in a runtime of its own, and the checks at its end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quire_certs::{Fingerprint, Identity};
use quire_client::Connector;
use quire_client::known_servers::ServerId;
use quire_client::trust::ServerVerifier;
use quire_client::{Client, ClientError};
use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::auth::rules::Rules;
use quire_server::config::limits::Limits;
use quire_server::files::{Faults, Files};
use quire_server::{Config, Server, StartError};
use quire_transport::congestion::CongestionControl;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::log::Log;
use super::raw::Raw;
use super::tree::Tree;

/// The name of the staging directory, which exists while a server runs, or remembers changes.
pub const STAGING: &str = ".quire-staging";

/// The keys of the clients of a test.
#[derive(Debug, Clone)]
pub struct TestKeys {
    /// May read and write.
    pub writer: Arc<Identity>,
    /// May read.
    pub reader: Arc<Identity>,
    /// Has no rights.
    pub stranger: Arc<Identity>,
}

/// Builder of a [`TestServer`].
#[derive(Debug)]
pub struct Builder {
    config: Config,
    keys: TestKeys,
}

impl Builder {
    /// Changes the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Sets a cache of `bytes`, which takes files up to its own size.
    pub fn cache(self, bytes: u64) -> Self {
        self.with(|config| {
            config.cache.limit = bytes;
            config.cache.file_max = bytes;
        })
    }

    /// Changes limits.
    pub fn limits(self, change: impl FnOnce(&mut Limits)) -> Self {
        self.with(|config| change(&mut config.limits))
    }

    /// Grants rights to clients with no key or an unknown one.
    pub fn anonymous(self, rules: &str) -> Self {
        let rules: Rules = rules.parse().unwrap();
        self.with(|config| config.access = config.access.clone().with_anonymous(rules))
    }

    /// Adds faults that the test has to notice.
    pub fn faults(self, faults: Faults) -> Self {
        self.with(|config| config.faults = faults)
    }

    /// Starts it.
    pub async fn start(self) -> TestServer {
        self.try_start()
            .await
            .unwrap_or_else(|error| panic!("no start: {}", error.chain()))
    }

    /// Starts it, or returns why it can't start.
    pub async fn try_start(self) -> Result<TestServer, StartError> {
        let Self { config, keys } = self;
        let log = Log::default();
        let attached = log.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("test server")
            .on_thread_start(move || attached.attach())
            .on_thread_stop(Log::detach)
            .enable_all()
            .build()
            .unwrap();
        let root = config.root.clone();
        let bound = runtime
            .spawn(async move { Server::bind(config) })
            .await
            .unwrap();
        let server = match bound {
            Ok(server) => Arc::new(server),
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let address = server.local_addrs().unwrap()[0];
        let stop = CancellationToken::new();
        let (running, stopped) = (Arc::clone(&server), stop.clone());
        let task = runtime.spawn(async move { running.run(stopped.cancelled()).await });
        Ok(TestServer {
            parts: Some(RunningParts {
                runtime,
                server,
                task,
            }),
            stop,
            log,
            root,
            address,
            keys,
        })
    }
}

/// A running server, which a test has to [stop](TestServer::stop).
#[derive(Debug)]
pub struct TestServer {
    parts: Option<RunningParts>,
    stop: CancellationToken,
    log: Log,
    root: PathBuf,
    address: SocketAddr,
    keys: TestKeys,
}

#[derive(Debug)]
struct RunningParts {
    runtime: Runtime,
    server: Arc<Server>,
    task: JoinHandle<()>,
}

impl TestServer {
    /// A builder for a server of `tree`.
    pub fn builder(tree: &Tree) -> Builder {
        Self::builder_at(&tree.root())
    }

    /// A builder for a server of the directory `root`.
    pub fn builder_at(root: &Path) -> Builder {
        let key = || Arc::new(Identity::generate(&[]).unwrap());
        let keys = TestKeys {
            writer: key(),
            reader: key(),
            stranger: key(),
        };
        let lines = format!(
            "{} write\n{} read\n",
            keys.writer.fingerprint(),
            keys.reader.fingerprint()
        );
        let access = AuthorizedKeys::parse(Path::new("memory"), &lines).unwrap();
        let identity =
            Identity::generate(&["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        Builder {
            config: Config::new(root.to_owned(), identity, access),
            keys,
        }
    }

    /// Starts a server of `tree` with defaults.
    pub async fn start(tree: &Tree) -> Self {
        Self::builder(tree).start().await
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name for clients.
    pub fn id(&self) -> ServerId {
        id_of(self.address)
    }

    /// The fingerprint of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.server().fingerprint()
    }

    /// The keys of its clients.
    pub fn keys(&self) -> &TestKeys {
        &self.keys
    }

    /// The operations, for another front end.
    pub fn files(&self) -> &Files {
        self.server().files()
    }

    /// Number of paths that are locked now.
    pub fn locked_paths(&self) -> usize {
        self.server().status().locked_paths
    }

    /// Bytes that the cache holds now.
    pub fn cached_bytes(&self) -> u64 {
        self.server().status().cached_bytes
    }

    /// How often each limit was met.
    pub fn limits_met(&self) -> String {
        self.server().status().limits_met
    }

    /// A client that may read and write.
    pub async fn client(&self) -> Client {
        self.connect(&self.keys.writer).await.unwrap()
    }

    /// A client with the key `identity`, which trusts this server.
    pub async fn connect(&self, identity: &Identity) -> Result<Client, ClientError> {
        self.connector(self.address, identity).connect().await
    }

    /// Waits until no client is connected.
    pub async fn idle(&self) {
        super::within("the end of all connections", self.server().idle()).await;
    }

    /// Its log, also after its end.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// A connector that connects repeatedly with the key `identity`, through `address`.
    pub fn connector(&self, address: SocketAddr, identity: &Identity) -> Connector {
        let id = id_of(address);
        let verifier = ServerVerifier::pinned(id.clone(), self.fingerprint());
        Connector::new(&id, identity, verifier, CongestionControl::default()).unwrap()
    }

    /// A raw connection with the writer's key.
    pub async fn raw(&self) -> Raw {
        Raw::connect(self, &self.keys.writer).await
    }

    /// Starts the stop without waiting.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Ends it as `kill -9` does: its clients hear nothing of that.
    pub async fn kill(mut self) {
        if let Some(parts) = self.parts.take() {
            let runtime = parts.runtime;
            let ending = tokio::task::spawn_blocking(|| runtime.shutdown_timeout(STOP_LIMIT));
            ending.await.unwrap();
        }
    }

    /// Waits until every client has gone, stops the server, and fails the test if any check of its end
    /// fails.
    pub async fn stop(self) {
        self.stop_after_errors(&[]).await;
    }

    /// As [`TestServer::stop`], for a test that provokes errors in the log: each of `expected` must be
    /// part of a logged error, and each logged error must contain one of them.
    pub async fn stop_after_errors(mut self, expected: &[&str]) {
        let Some(RunningParts {
            runtime,
            server,
            task,
        }) = self.parts.take()
        else {
            return;
        };
        let mut faults = Vec::new();
        let waited = tokio::time::timeout(STOP_LIMIT, server.idle()).await;
        // After a stop, connections end because the server ends.
        if waited.is_err() {
            faults.push("a connection was left open".to_owned());
        }
        self.stop.cancel();
        match tokio::time::timeout(STOP_LIMIT, task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.push(format!("the server ended badly: {error}")),
            Err(_) => faults.push("waited in vain for the server's end".to_owned()),
        }
        let locked = server.status().locked_paths;
        if locked != 0 {
            faults.push(format!("{locked} paths are still locked"));
        }
        drop(server);
        let ended = tokio::task::spawn_blocking(|| runtime.shutdown_timeout(STOP_LIMIT));
        ended.await.unwrap();
        faults.extend(left_in_staging(&self.root));
        faults.extend(
            self.log
                .panics()
                .into_iter()
                .map(|panic| format!("panicked: {panic}")),
        );
        let errors = self.log.errors();
        let is_expected = |error: &&String| !expected.iter().any(|text| error.contains(text));
        faults.extend(
            errors
                .iter()
                .filter(is_expected)
                .map(|error| format!("logged: {error}")),
        );
        let missing = expected
            .iter()
            .filter(|text| !errors.iter().any(|e| e.contains(**text)));
        faults.extend(missing.map(|text| format!("no error was logged about {text:?}")));
        if !faults.is_empty() && !std::thread::panicking() {
            panic!(
                "{}\nlast records of the server:\n{}",
                faults.join("\n"),
                self.log.tail()
            );
        }
    }

    fn server(&self) -> &Server {
        &self
            .parts
            .as_ref()
            .expect("parts are taken only by the stop, which consumes it")
            .server
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else {
            return;
        };
        parts.runtime.shutdown_background();
        if !std::thread::panicking() {
            panic!("the test ended without stopping its server");
        }
    }
}

/// The name for clients of what listens at `address`.
pub fn id_of(address: SocketAddr) -> ServerId {
    ServerId::new(&address.ip().to_string(), address.port()).unwrap()
}

/// What is wrong with the staging directory of a stopped server.
fn left_in_staging(root: &Path) -> Option<String> {
    let staging = root.join(STAGING);
    if !staging.exists() {
        return None;
    }
    let left = super::tree::names(&staging);
    // What clients may ask for again outlives the server.
    (left != ["changes"]).then(|| format!("left in staging: {left:?}"))
}

/// Threads for a server's tasks: two, so that tasks do run in parallel.
const WORKERS: usize = 2;

/// Limit of each step of a stop, before the test fails.
const STOP_LIMIT: Duration = Duration::from_secs(10);
