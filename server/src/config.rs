//! Configuration of a server: settings that an operator may choose, resolved and checked.

pub mod args;
mod file;
pub mod limits;
pub mod resolve;
pub mod sandbox;
pub mod settings;
pub(crate) mod start_error;
pub mod value;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use quire_certs::{Identity, Role, StateDir, load_or_create};
use quire_shared::protocol::PORT;
use quire_transport::congestion::CongestionControl;

use crate::auth::authorized_keys::AuthorizedKeys;
use crate::auth::client_ca::ClientCa;
use crate::auth::keyring::KeysFile;
use crate::config::limits::Limits;
use crate::config::settings::{CACHE_BYTES, DRAIN_SECONDS, KEEP_UPLOADS_SECONDS, Settings};
use crate::config::start_error::StartError;
use crate::config::value::ListenAddress;
use crate::files::quota::QuotaLimits;
use crate::files::{self, CacheConfig, Faults, FilesConfig, Options};

/// Configuration of one server, with its identity loaded.
#[derive(Debug)]
pub struct Config {
    /// The directory to serve.
    pub root: PathBuf,
    /// The addresses to listen on.
    pub listen: Vec<Listen>,
    /// Whether every change to the root is refused.
    pub read_only: bool,
    /// TCP ports that the server listens on; none until there is a front end that does.
    pub tcp_ports: Vec<u16>,
    /// Memory for file contents.
    pub cache: CacheConfig,
    /// Memory for flow-control windows of all connections beyond the minimum of each, in bytes.
    pub windows: u64,
    /// The server's key and certificate.
    pub identity: Identity,
    /// Rights that hold regardless of the authorized-keys file.
    pub access: AuthorizedKeys,
    /// The authorized-keys file; read again when it changes.
    pub authorized_keys: Option<KeysFile>,
    /// CA whose certificates give clients names, by which they can be authorized.
    pub client_ca: ClientCa,
    /// Directory of the server's own files, if it has any.
    pub state_dir: Option<PathBuf>,
    /// Files that must not lie in the root, where clients could read or replace them.
    pub secrets: Vec<PathBuf>,
    /// Congestion control for what the server sends.
    pub congestion: CongestionControl,
    /// Time that running requests have to finish after the signal to stop.
    pub drain: Duration,
    /// Time for which an upload that was interrupted can go on; none is kept if it is zero.
    pub keep_uploads: Duration,
    /// Limits on what clients can use.
    pub limits: Limits,
    /// Time that a request waits for the lock of a path before it fails as busy.
    pub lock_limit: Duration,
    /// Faults that tests inject.
    pub faults: Faults,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 lets the system choose.
    pub address: SocketAddr,
    /// Whether the server starts without it on a machine that has no such address.
    pub optional: bool,
}

impl Config {
    /// A server of `root` on an unused port of 127.0.0.1, with defaults for the rest.
    pub fn new(root: PathBuf, identity: Identity, access: AuthorizedKeys) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            root,
            listen: vec![Listen {
                address,
                optional: false,
            }],
            read_only: false,
            tcp_ports: Vec::new(),
            cache: CacheConfig {
                limit: CACHE_BYTES,
                file_max: CACHE_BYTES,
            },
            windows: WINDOWS_BYTES,
            identity,
            access,
            authorized_keys: None,
            client_ca: ClientCa::default(),
            state_dir: None,
            secrets: Vec::new(),
            congestion: CongestionControl::default(),
            drain: Duration::from_secs(DRAIN_SECONDS),
            keep_uploads: Duration::from_secs(KEEP_UPLOADS_SECONDS),
            limits: Limits::default(),
            lock_limit: LOCK_LIMIT,
            faults: Faults::default(),
        }
    }

    /// How the served directory is used.
    pub fn files(&self) -> FilesConfig {
        FilesConfig {
            root: self.root.clone(),
            options: Options {
                read_only: self.read_only,
                keep_uploads: self.keep_uploads,
                faults: self.faults,
            },
            cache: self.cache,
            quota: QuotaLimits {
                daily_bytes: self.limits.daily_bytes.0,
                daily_files: self.limits.daily_files.0,
                rate: self.limits.rate_per_key.0,
            },
            lock_limit: self.lock_limit,
        }
    }

    /// Checks the files that the settings name, without creating or changing anything.
    ///
    /// # Errors
    /// What the operator has to fix.
    pub fn check(settings: &Settings) -> Result<(), StartError> {
        files::check_root(&settings.root)?;
        if let (Some(certificate), Some(key)) = (&settings.cert, &settings.key) {
            Identity::from_pem_files(certificate, key)?;
        }
        client_ca(settings)?;
        match &settings.authorized_keys {
            Some(path) => AuthorizedKeys::load(path)?,
            None => {
                let default = || StateDir::default_path();
                let state = settings.state_dir.clone().map_or_else(default, Ok)?;
                AuthorizedKeys::load_if_present(&state.join(AUTHORIZED_KEYS))?
            }
        };
        Ok(())
    }

    /// Loads what the settings name, and creates the identities that don't exist yet.
    ///
    /// # Errors
    /// What the operator has to fix: the state directory or a certificate.
    pub fn from_settings(settings: &Settings) -> Result<Self, StartError> {
        let state = StateDir::open(settings.state_dir.as_deref())?;
        let mut secrets = vec![state.path().to_owned()];
        let identity = match (&settings.cert, &settings.key) {
            (Some(certificate), Some(key)) => {
                secrets.extend([certificate.clone(), key.clone()]);
                Identity::from_pem_files(certificate, key)?
            }
            _ => load_or_create(&state, Role::Server)?,
        };
        let keys = match &settings.authorized_keys {
            Some(path) => {
                secrets.push(path.clone());
                KeysFile::required(path.clone())
            }
            None => KeysFile::optional(state.file(AUTHORIZED_KEYS)),
        };
        let mut access = AuthorizedKeys::default().with_anonymous(settings.anonymous.clone());
        if !settings.no_owner {
            access = access.with_owner(load_or_create(&state, Role::Client)?.fingerprint());
        }
        let cache = CacheConfig {
            limit: settings.cache_size.0,
            file_max: settings
                .cache_file_max
                .map_or(settings.cache_size.0, |max| max.0),
        };
        Ok(Self {
            listen: listen(&settings.listen),
            read_only: settings.read_only,
            cache,
            authorized_keys: Some(keys),
            client_ca: client_ca(settings)?,
            state_dir: Some(state.path().to_owned()),
            secrets,
            congestion: settings.congestion,
            drain: Duration::from_secs(settings.drain),
            keep_uploads: Duration::from_secs(settings.keep_uploads),
            limits: settings.limits.clone(),
            faults: Faults::asked(),
            ..Self::new(settings.root.clone(), identity, access)
        })
    }
}

fn client_ca(settings: &Settings) -> Result<ClientCa, StartError> {
    let loaded = settings.client_ca.as_deref().map(ClientCa::load);
    Ok(loaded.transpose()?.unwrap_or_default())
}

/// The addresses of the setting, or loopback in both versions of IP.
fn listen(chosen: &[ListenAddress]) -> Vec<Listen> {
    let at = |ip: IpAddr, port, optional| Listen {
        address: (ip, port).into(),
        optional,
    };
    let v4 = IpAddr::V4;
    let v6 = IpAddr::V6;
    if chosen.is_empty() {
        return vec![
            at(v4(Ipv4Addr::LOCALHOST), PORT, false),
            at(v6(Ipv6Addr::LOCALHOST), PORT, true),
        ];
    }
    let both = |port| {
        vec![
            at(v4(Ipv4Addr::UNSPECIFIED), port, false),
            at(v6(Ipv6Addr::UNSPECIFIED), port, true),
        ]
    };
    let addresses = chosen.iter().flat_map(|address| match address {
        ListenAddress::Address(ip, port) => vec![at(*ip, port.unwrap_or(PORT), false)],
        ListenAddress::Zoned(zoned, port) => {
            let port = port.unwrap_or(PORT);
            // The interface existed when the setting was read. Without it, binding fails and says so.
            let unzoned = || (zoned.address, port).into();
            let address = zoned.with_port(port).unwrap_or_else(unzoned);
            let optional = false;
            vec![Listen { address, optional }]
        }
        ListenAddress::Port(port) => both(*port),
    });
    addresses.collect()
}

/// The authorized-keys file in the state directory.
const AUTHORIZED_KEYS: &str = "authorized-keys";

/// Memory for windows, in bytes. Enough for one or two transfers at once over the longest paths, or
/// forty over a local network. With the minimum of 1024 connections, reassembly and the cache, the
/// server stays within 512 MiB.
const WINDOWS_BYTES: u64 = 128 * 1024 * 1024;

/// Locks are held for the time of a rename and its sync, so a wait this long means a fault.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
