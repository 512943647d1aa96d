//! Settings of the server: key, section, help, default and value of each, in one place.
//!
//! The flags, the environment variables, the configuration file, `--help` and `--check-config` are
//! all made from [`Settings::all`]. A new setting is a field and a row there.

use std::ffi::OsString;
use std::path::PathBuf;

use quire_transport::congestion::CongestionControl;

use crate::auth::rules::Rules;
use crate::config::limits::Limits;
use crate::config::value::{ByteCount, ListenAddress, SettingValue, Umask};

/// The settings as plain values; nothing has been opened or created yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Settings {
    pub(crate) root: PathBuf,
    pub(crate) listen: Vec<ListenAddress>,
    pub(crate) read_only: bool,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) cache_size: ByteCount,
    pub(crate) cache_file_max: Option<ByteCount>,
    pub(crate) drain: u64,
    pub(crate) keep_uploads: u64,
    /// Umask of the process, if it isn't that of the program that started it.
    pub umask: Option<Umask>,
    /// Whether the Landlock sandbox is disabled.
    pub no_landlock: bool,
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) authorized_keys: Option<PathBuf>,
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) no_owner: bool,
    pub(crate) anonymous: Rules,
    pub(crate) congestion: CongestionControl,
    pub(crate) limits: Limits,
    /// Whether every request is logged.
    pub verbose: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
            listen: Vec::new(),
            read_only: false,
            state_dir: None,
            cache_size: ByteCount(CACHE_BYTES),
            cache_file_max: None,
            drain: DRAIN_SECONDS,
            keep_uploads: KEEP_UPLOADS_SECONDS,
            umask: None,
            no_landlock: false,
            cert: None,
            key: None,
            authorized_keys: None,
            client_ca: None,
            no_owner: false,
            anonymous: Rules::default(),
            congestion: CongestionControl::default(),
            limits: Limits::default(),
            verbose: false,
        }
    }
}

/// One setting.
pub(crate) struct Setting<'a> {
    /// The section of the file; empty for the top level.
    pub(crate) section: &'static str,
    /// The key in the file, and the name of the flag.
    pub(crate) key: &'static str,
    /// An earlier name, which goes on working.
    pub(crate) old_key: Option<&'static str>,
    /// Stands for the value in the help.
    pub(crate) value_name: &'static str,
    /// What it does, its unit, and its default where that is no fixed value.
    pub(crate) help: &'static str,
    /// The value.
    pub(crate) value: &'a mut dyn SettingValue,
}

impl<'a> Setting<'a> {
    /// A setting of the top level.
    pub(crate) fn new(
        key: &'static str,
        value: &'a mut dyn SettingValue,
        value_name: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            section: "",
            key,
            old_key: None,
            value_name,
            help,
            value,
        }
    }

    /// With an earlier name.
    pub(crate) fn formerly(mut self, old_key: &'static str) -> Self {
        self.old_key = Some(old_key);
        self
    }

    /// How errors name it: `section.key`.
    pub(crate) fn path(&self) -> String {
        if self.section.is_empty() {
            return self.key.to_owned();
        }
        format!("{}.{}", self.section, self.key)
    }

    /// The environment variable that sets it.
    pub(crate) fn variable(&self) -> String {
        format!("QUIRE_{}", self.key.to_ascii_uppercase().replace('-', "_"))
    }
}

/// A section of the file and the heading of its flags in the help, in this order.
pub(crate) const SECTIONS: [(&str, &str); 6] = [
    ("", "Serving"),
    ("tls", "Certificate"),
    ("auth", "Access"),
    ("quic", "QUIC"),
    ("limits", "Limits"),
    ("log", "Logging"),
];

impl Settings {
    /// Every setting, section by section.
    pub(crate) fn all(&mut self) -> Vec<Setting<'_>> {
        let row = Setting::new;
        let top = vec![
            row(ROOT, &mut self.root, "ROOT", "Directory to serve"),
            row("listen", &mut self.listen, "ADDR", LISTEN_HELP),
            row("read-only", &mut self.read_only, "", READ_ONLY_HELP),
            row("state-dir", &mut self.state_dir, "DIR", STATE_DIR_HELP),
            row("cache-size", &mut self.cache_size, "BYTES", CACHE_SIZE_HELP),
            row(
                "cache-file-max",
                &mut self.cache_file_max,
                "BYTES",
                FILE_MAX_HELP,
            ),
            row("drain", &mut self.drain, "SECONDS", DRAIN_HELP),
            row(
                "keep-uploads",
                &mut self.keep_uploads,
                "SECONDS",
                KEEP_UPLOADS_HELP,
            ),
            row("umask", &mut self.umask, "OCTAL", UMASK_HELP),
            row(
                "no-landlock",
                &mut self.no_landlock,
                "",
                "Disable the Landlock sandbox",
            ),
        ];
        let tls = vec![
            row("cert", &mut self.cert, "FILE", CERT_HELP),
            row("key", &mut self.key, "FILE", "Private key (PEM) of --cert"),
        ];
        let auth = vec![
            row(
                "authorized-keys",
                &mut self.authorized_keys,
                "FILE",
                KEYS_HELP,
            ),
            row("client-ca", &mut self.client_ca, "FILE", CLIENT_CA_HELP),
            row("no-owner", &mut self.no_owner, "", NO_OWNER_HELP),
            row("anonymous", &mut self.anonymous, "RIGHTS", ANONYMOUS_HELP),
        ];
        let quic = vec![row(
            "congestion",
            &mut self.congestion,
            "CONTROL",
            CONGESTION_HELP,
        )];
        let limits = self.limits.settings();
        let log = vec![row("verbose", &mut self.verbose, "", VERBOSE_HELP)];
        let groups = [top, tls, auth, quic, limits, log];
        let sections = SECTIONS.into_iter().zip(groups);
        let settings = sections.flat_map(|((section, _), group)| {
            let group = group.into_iter();
            group.map(move |setting| Setting { section, ..setting })
        });
        settings.collect()
    }

    /// The setting with the key `name`, or that had it earlier.
    pub(crate) fn find(&mut self, name: &str) -> Option<Setting<'_>> {
        let mut all = self.all().into_iter();
        all.find(|setting| setting.key == name || setting.old_key == Some(name))
    }

    /// Sets the setting `key` to the value in `texts`.
    ///
    /// # Errors
    /// What was expected instead.
    pub(crate) fn set(&mut self, key: &str, texts: &[OsString]) -> Result<(), String> {
        let setting = self.find(key).ok_or("there is no such setting")?;
        setting.value.read(texts)
    }
}

/// The setting that is an argument without a flag.
pub(crate) const ROOT: &str = "root";

const LISTEN_HELP: &str = "Address to listen on: IP, IP:PORT or :PORT; can be repeated \
    [default: 127.0.0.1 and ::1, port 4433]";

const STATE_DIR_HELP: &str = "Directory for the server's keys, certificates and authorized-keys \
    [default: \"quire\" in the platform's state directory]";

const CACHE_SIZE_HELP: &str =
    "Memory for file contents, such as 512KiB, 64MiB or 1GiB; 0 disables the cache";

const READ_ONLY_HELP: &str = "Refuse every change to the served directory";

const FILE_MAX_HELP: &str = "Largest file that is cached [default: the value of --cache-size]";

const CONGESTION_HELP: &str =
    "Congestion control for data that the server sends: quire, cubic or bbr";

const DRAIN_HELP: &str =
    "Time in seconds that running requests have to finish after SIGINT or SIGTERM";

const KEEP_UPLOADS_HELP: &str = "Time in seconds for which an upload that was interrupted can go \
    on; until then it takes up space; 0 keeps none";

const UMASK_HELP: &str = "Permissions that new files and directories don't get, such as 027; \
    a default ACL of their directory counts instead [default: that of the process]";

const CERT_HELP: &str = "Certificate chain (PEM) to present instead of a generated certificate";

const KEYS_HELP: &str = "File of the keys that may connect: one line of fingerprint, rights such \
    as read,/incoming=put, and comment for each; read again when it changes \
    [default: authorized-keys in --state-dir]";

const CLIENT_CA_HELP: &str = "Certificates (PEM) of a client CA: a line of cert:NAME in \
    authorized-keys gives rights to clients with that DNS name in a certificate of this CA";

const NO_OWNER_HELP: &str =
    "Give no rights to the client key in --state-dir, which otherwise may read and write";

const ANONYMOUS_HELP: &str = "Rights of clients without an authorized key: none, read, write, or \
    rules by path such as read,/incoming=put,/private=none";

const VERBOSE_HELP: &str = "Log every request, not only connections; RUST_LOG overrides this";

/// Memory for file contents, in bytes.
pub(crate) const CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// A week, so that a weekend or a journey lies in between.
pub(crate) const KEEP_UPLOADS_SECONDS: u64 = 7 * 24 * 60 * 60;

/// Long enough for a large file to finish, and shorter than the 90 seconds after which systemd
/// kills a service that is told to stop.
pub(crate) const DRAIN_SECONDS: u64 = 30;
