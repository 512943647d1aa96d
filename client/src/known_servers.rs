//! File of known servers: the keys that the user has accepted, like `known_hosts` of SSH.
//!
//! Each line is `host:port fingerprint`, and users may edit the file. Entries are only added. If a key
//! has changed, the user has to decide, and removes the line by hand.

use std::{
    fmt::{self, Write as _},
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use quire_certs::{CertsError, Fingerprint, FingerprintError, StateDir};
use quire_transport::socket::address::{ZonedAddress, parse_ip};
use thiserror::Error;

/// A server as the user names it: host and UDP port. Two spellings of one name are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerId {
    host: String,
    port: u16,
}

impl ServerId {
    /// Creates an identifier from a name or an IP address, the latter with or without brackets.
    ///
    /// # Errors
    ///
    /// When `host` is empty or has a character that is not allowed in names.
    pub fn new(host: &str, port: u16) -> Result<Self, ServerIdError> {
        let bare = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(host);
        let host = if let Some(address) = parse_ip(bare) {
            address.to_string()
        } else if let Some(address) = ZonedAddress::parse(bare) {
            address.to_string()
        } else {
            bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()
        };
        let strange =
            |char: char| char.is_whitespace() || char.is_control() || "#/[]".contains(char);
        if host.is_empty() || host.contains(strange) {
            return Err(ServerIdError::Host(bare.to_owned()));
        }
        Ok(Self { host, port })
    }

    /// The name or address without brackets, which TLS verifies.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl FromStr for ServerId {
    type Err = ServerIdError;

    fn from_str(text: &str) -> Result<Self, ServerIdError> {
        let (host, port) = text.rsplit_once(':').ok_or(ServerIdError::NoPort)?;
        // An address with colons needs brackets, or its last group would pass for a port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(ServerIdError::NoPort);
        }
        let number = port
            .parse()
            .map_err(|_error| ServerIdError::Port(port.to_owned()))?;
        Self::new(host, number)
    }
}

/// Why a text names no server.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ServerIdError {
    /// The host is no name and no address.
    #[error("{0:?} is not a host name or address")]
    Host(String),
    /// The port is no number up to 65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// There is a host alone.
    #[error("expected host:port, with brackets around an IPv6 address")]
    NoPort,
}

/// An entry of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownServer {
    /// The key that was accepted.
    pub fingerprint: Fingerprint,
    /// Where the entry stands, counted from 1.
    pub line: usize,
}

/// The file of known servers in a state directory.
#[derive(Debug, Clone)]
pub struct KnownServers {
    dir: StateDir,
}

impl KnownServers {
    /// The file in `dir`, which need not exist yet.
    pub fn new(dir: StateDir) -> Self {
        Self { dir }
    }

    /// The file's path.
    pub fn path(&self) -> PathBuf {
        self.dir.file(FILE_NAME)
    }

    /// The entry for `server`.
    ///
    /// # Errors
    ///
    /// Names the file when it can't be read, and any line that is wrong. A file that was only partly
    /// understood must not decide about trust.
    pub fn find(&self, server: &ServerId) -> Result<Option<KnownServer>, KnownServersError> {
        find(&self.path(), &self.read()?, server)
    }

    /// Adds the key of `server`. Any number of programs may do so at once.
    ///
    /// # Errors
    ///
    /// As [`KnownServers::find`]; [`KnownServersError::Conflict`] when another key is known.
    pub fn add(
        &self,
        server: &ServerId,
        fingerprint: Fingerprint,
    ) -> Result<(), KnownServersError> {
        let _lock = self.dir.lock(FILE_NAME)?;
        let mut text = self.read()?;
        match find(&self.path(), &text, server)? {
            Some(known) if known.fingerprint == fingerprint => return Ok(()),
            Some(known) => {
                return Err(KnownServersError::Conflict {
                    path: self.path(),
                    server: server.clone(),
                    line: known.line,
                });
            }
            None => {}
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        // Writing to a string can't fail.
        let _ = writeln!(text, "{server} {fingerprint}");
        self.dir.replace(FILE_NAME, text.as_bytes())?;
        Ok(())
    }

    fn read(&self) -> Result<String, KnownServersError> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            result => result.map_err(|source| KnownServersError::Io { path, source }),
        }
    }
}

/// Why the file of known servers can't be read or extended.
#[derive(Debug, Error)]
pub enum KnownServersError {
    /// The system refused to open or read the file, or it is no text.
    #[error("{path:?}: cannot read it")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A line is wrong.
    #[error("{path:?} line {number}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        number: usize,
        /// What is wrong with it.
        #[source]
        source: EntryError,
    },
    /// Another key is known for this server, perhaps since a moment ago.
    #[error("{path:?} line {line} has another key for {server}")]
    Conflict {
        /// The file.
        path: PathBuf,
        /// The server.
        server: ServerId,
        /// The line, counted from 1.
        line: usize,
    },
    /// The state directory could not be used.
    #[error(transparent)]
    StateDir(#[from] CertsError),
}

/// What is wrong with a line of known servers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The first word names no server.
    #[error(transparent)]
    Server(ServerIdError),
    /// The second word is no fingerprint.
    #[error(transparent)]
    Fingerprint(FingerprintError),
    /// There are fewer or more than two words.
    #[error("expected two words: host:port and a fingerprint")]
    Words,
    /// An earlier line has the same server.
    #[error("{0} is already on an earlier line")]
    Repeated(ServerId),
}

/// Finds the entry for `server` in `text`, and checks every line; `path` is for errors.
fn find(
    path: &Path,
    text: &str,
    server: &ServerId,
) -> Result<Option<KnownServer>, KnownServersError> {
    let mut seen = std::collections::HashSet::new();
    let mut found = None;
    for (text, line) in text.lines().zip(1..) {
        let error = |source| KnownServersError::Line {
            path: path.to_owned(),
            number: line,
            source,
        };
        let Some((id, fingerprint)) = parse_line(text).map_err(error)? else {
            continue;
        };
        if id == *server {
            found = Some(KnownServer { fingerprint, line });
        }
        if let Some(earlier) = seen.replace(id) {
            return Err(error(EntryError::Repeated(earlier)));
        }
    }
    Ok(found)
}

/// Parses a line: an entry, or nothing if it is blank or a comment.
fn parse_line(line: &str) -> Result<Option<(ServerId, Fingerprint)>, EntryError> {
    let mut words = line.split_whitespace();
    let Some(server) = words.next().filter(|word| !word.starts_with('#')) else {
        return Ok(None);
    };
    let (Some(fingerprint), None) = (words.next(), words.next()) else {
        return Err(EntryError::Words);
    };
    let server = server.parse().map_err(EntryError::Server)?;
    let fingerprint = fingerprint.parse().map_err(EntryError::Fingerprint)?;
    Ok(Some((server, fingerprint)))
}

/// The file's name in the state directory.
const FILE_NAME: &str = "known-servers";

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const OTHER: &str = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn key(text: &str) -> Fingerprint {
        text.parse().unwrap()
    }

    fn id(text: &str) -> ServerId {
        text.parse().unwrap()
    }

    fn known_servers() -> (tempfile::TempDir, KnownServers) {
        let base = tempfile::tempdir().unwrap();
        let dir = StateDir::open(Some(&base.path().join("state"))).unwrap();
        (base, KnownServers::new(dir))
    }

    #[test]
    fn one_server_has_one_spelling() {
        for (spelling, canonical) in [
            ("Files.Example.:4433", "files.example:4433"),
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::1]:65535", "[::1]:65535"),
            ("[0:0::0001]:2", "[::1]:2"),
            ("[fe80::1%eth0]:2", "[fe80::1%eth0]:2"),
        ] {
            assert_eq!(id(spelling).to_string(), canonical);
            assert_eq!(id(canonical), id(spelling));
        }
        assert_eq!(ServerId::new("::1", 2).unwrap(), id("[::1]:2"));
        assert_eq!(id("127.1:2"), id("127.0.0.1:2"));
        assert_eq!(id("[fe80::0:1%eth0]:2"), id("[FE80::1%eth0]:2"));
        assert_eq!(id("[::1]:2").host(), "::1");
        assert_eq!(id("[::1]:2").port(), 2);
    }

    #[test]
    fn texts_that_name_no_server_are_refused() {
        let error = |text: &str| text.parse::<ServerId>().unwrap_err();
        assert_eq!(error("host"), ServerIdError::NoPort);
        assert_eq!(error("::1"), ServerIdError::NoPort);
        for port in ["", "x", "65536", "-1"] {
            let text = format!("host:{port}");
            assert_eq!(error(&text), ServerIdError::Port(port.to_owned()));
        }
        for host in ["", ".", "a b", "a\nb", "#a", "a/b", "[a"] {
            assert!(
                matches!(ServerId::new(host, 1), Err(ServerIdError::Host(_))),
                "{host:?}"
            );
        }
    }

    #[test]
    fn entries_are_found_by_host_and_port() {
        let (_base, known) = known_servers();
        assert_eq!(known.find(&id("a:1")).unwrap(), None);
        known.add(&id("a:1"), key(KEY)).unwrap();
        known.add(&id("a:2"), key(OTHER)).unwrap();
        known.add(&id("[::1]:1"), key(OTHER)).unwrap();
        known.add(&id("a:1"), key(KEY)).unwrap();
        let entry = |key, line| {
            let fingerprint = self::key(key);
            Some(KnownServer { fingerprint, line })
        };
        assert_eq!(known.find(&id("A:1")).unwrap(), entry(KEY, 1));
        assert_eq!(known.find(&id("a:2")).unwrap(), entry(OTHER, 2));
        assert_eq!(known.find(&id("[::1]:1")).unwrap(), entry(OTHER, 3));
        assert_eq!(known.find(&id("b:1")).unwrap(), None);
    }

    #[test]
    fn another_key_is_never_added_beside_or_over_the_known_one() {
        let (_base, known) = known_servers();
        known.add(&id("a:1"), key(KEY)).unwrap();
        let before = fs::read(known.path()).unwrap();
        let error = known.add(&id("a:1"), key(OTHER)).unwrap_err();
        assert!(matches!(error, KnownServersError::Conflict { line: 1, .. }));
        assert_eq!(fs::read(known.path()).unwrap(), before);
    }

    #[test]
    fn manual_edits_are_kept() {
        let (_base, known) = known_servers();
        let by_hand = format!("# mine\n\n  a:1   {KEY}");
        fs::write(known.path(), &by_hand).unwrap();
        known.add(&id("b:1"), key(OTHER)).unwrap();
        let text = fs::read_to_string(known.path()).unwrap();
        assert_eq!(text, format!("{by_hand}\nb:1 {OTHER}\n"));
    }

    #[test]
    fn wrong_lines_are_reported_by_number_for_every_server() {
        let (_base, known) = known_servers();
        for (line, expected) in [
            ("a:1".to_owned(), EntryError::Words),
            (format!("a:1 {KEY} x"), EntryError::Words),
            (
                format!("a {KEY}"),
                EntryError::Server(ServerIdError::NoPort),
            ),
            (
                "a:1 x".to_owned(),
                EntryError::Fingerprint(FingerprintError::Length(1)),
            ),
            (format!("OK:1 {OTHER}"), EntryError::Repeated(id("ok:1"))),
        ] {
            fs::write(known.path(), format!("# x\nok:1 {KEY}\n{line}\n")).unwrap();
            let error = known.find(&id("elsewhere:9")).unwrap_err();
            assert!(
                error.to_string().ends_with("known-servers\" line 3"),
                "{error}"
            );
            assert!(
                matches!(&error, KnownServersError::Line { source, .. } if *source == expected),
                "{error:?}"
            );
            known.add(&id("elsewhere:9"), key(KEY)).unwrap_err();
        }
        fs::write(known.path(), b"\xff").unwrap();
        let error = known.find(&id("a:1")).unwrap_err();
        assert!(matches!(error, KnownServersError::Io { .. }));
    }

    #[test]
    fn clients_that_add_at_once_lose_nothing() {
        let (_base, known) = known_servers();
        let server = |thread: u16, round: u16| ServerId::new(&format!("h{thread}"), round).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let known = &known;
                scope.spawn(move || {
                    for round in 0..10 {
                        known.add(&server(thread, round), key(KEY)).unwrap();
                    }
                });
            }
        });
        for thread in 0..4 {
            for round in 0..10 {
                let entry = known.find(&server(thread, round)).unwrap();
                assert_eq!(entry.unwrap().fingerprint, key(KEY));
            }
        }
    }
}
