//! Rights of the owner, of the keys in `authorized-keys`, and of all other clients.
//!
//! People edit the file by hand, so one line that can't be parsed makes the whole file an error, with
//! the line's number. A mistyped key must neither lock a client out silently nor grant rights.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    hash::Hash,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use quire_certs::{Fingerprint, FingerprintError};
use thiserror::Error;

use crate::auth::access::Access;
use crate::auth::rules::{Rules, RulesError, Verbs, split_word};

/// Rights of each key and certificate name, and of anonymous clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizedKeys {
    keys: HashMap<Fingerprint, Rules>,
    /// By a DNS name in certificates of the client CA; `*` is every such certificate.
    names: HashMap<String, Rules>,
    anonymous: Rules,
}

impl AuthorizedKeys {
    /// Reads `path`.
    ///
    /// # Errors
    ///
    /// Names the file when it can't be read or others may write it, and the line that is wrong.
    pub fn load(path: &Path) -> Result<Self, AuthorizedKeysError> {
        let mut text = String::new();
        let read = |text: &mut String| -> io::Result<File> {
            let file = File::open(path)?;
            (&file).take(FILE_BYTES_MAX + 1).read_to_string(text)?;
            Ok(file)
        };
        let file = read(&mut text).map_err(|source| AuthorizedKeysError::Io {
            path: path.to_owned(),
            source,
        })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(AuthorizedKeysError::TooLarge {
                path: path.to_owned(),
                limit: FILE_BYTES_MAX,
            });
        }
        check_writers(path, &file)?;
        Self::parse(path, &text)
    }

    /// Reads `path`, or grants nothing if there is no such file: the one in the state directory need
    /// not exist.
    ///
    /// # Errors
    ///
    /// As [`AuthorizedKeys::load`].
    pub fn load_if_present(path: &Path) -> Result<Self, AuthorizedKeysError> {
        match Self::load(path) {
            Err(AuthorizedKeysError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Self::default())
            }
            result => result,
        }
    }

    /// Reads `text`; `path` is for errors.
    ///
    /// # Errors
    ///
    /// Names the line that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, AuthorizedKeysError> {
        let mut all = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let added = parse_line(line).and_then(|entry| match entry {
                None => Ok(()),
                Some((Principal::Key(key), rules)) => add(&mut all.keys, key, rules),
                Some((Principal::Name(name), rules)) => add(&mut all.names, name, rules),
            });
            added.map_err(|source| AuthorizedKeysError::Line {
                path: path.to_owned(),
                number,
                source,
            })?;
        }
        Ok(all)
    }

    /// Grants the owner everything, regardless of the file.
    #[must_use]
    pub fn with_owner(mut self, owner: Fingerprint) -> Self {
        self.keys.insert(owner, Rules::everywhere(Verbs::WRITE));
        self
    }

    /// Grants `rules` to every client.
    #[must_use]
    pub fn with_anonymous(mut self, rules: Rules) -> Self {
        self.anonymous = rules;
        self
    }

    /// Merges the rights of `over` into these; `over` wins where both have a key or name.
    #[must_use]
    pub fn merged_with(mut self, over: &Self) -> Self {
        let keys = over.keys.iter();
        self.keys
            .extend(keys.map(|(key, rules)| (*key, rules.clone())));
        let names = over.names.iter();
        self.names
            .extend(names.map(|(name, rules)| (name.clone(), rules.clone())));
        self.anonymous = over.anonymous.clone();
        self
    }

    /// What `peer` may do.
    pub fn access(&self, peer: &Peer) -> Access {
        // A client can connect without its key, so a key never takes rights away.
        let own = self.own(peer);
        Access::new(own.fold(self.anonymous.clone(), |all, rules| all.union(rules)))
    }

    /// Whether `peer` has rights of its own.
    pub fn knows(&self, peer: &Peer) -> bool {
        self.own(peer).next().is_some()
    }

    fn own(&self, peer: &Peer) -> impl Iterator<Item = &Rules> {
        let by_key = peer.key.as_ref().and_then(|key| self.keys.get(key));
        let names = peer.names.iter().map(String::as_str);
        let any = (!peer.names.is_empty()).then_some(ANY_NAME);
        by_key
            .into_iter()
            .chain(names.chain(any).filter_map(|name| self.names.get(name)))
    }

    /// How many keys and names have rights of their own.
    pub fn len(&self) -> usize {
        self.keys.len() + self.names.len()
    }

    /// Whether no key has rights of its own.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The authenticated identity of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Its key.
    pub key: Option<Fingerprint>,
    /// DNS names in its certificate, if that is one of the client CA.
    pub names: Vec<String>,
}

impl From<Option<Fingerprint>> for Peer {
    fn from(key: Option<Fingerprint>) -> Self {
        let names = Vec::new();
        Self { key, names }
    }
}

/// Why an `authorized-keys` file can't be used.
#[derive(Debug, Error)]
pub enum AuthorizedKeysError {
    /// It can't be opened or read, or is not UTF-8.
    #[error("{path:?}: cannot read it")]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// It is far larger than a list of keys.
    #[error("{path:?} is over {limit} bytes, too large for a list of keys")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// Other users could add themselves to it.
    #[error("{path:?} has mode {mode:04o}, so other users can write it: run chmod go-w on it")]
    LooseMode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
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
        source: KeyLineError,
    },
}

/// What is wrong with a line of an `authorized-keys` file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyLineError {
    /// The first word is not a fingerprint.
    #[error(transparent)]
    Fingerprint(FingerprintError),
    /// There is no second word.
    #[error("no rights after the fingerprint: expected read, write, or rules as in read,/drop=put")]
    NoRights,
    /// The second word can't be parsed.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A name that no certificate has.
    #[error("a name after cert: is one that stands in certificates, in lower case, or *")]
    Name,
    /// An earlier line has the same key or name.
    #[error("this fingerprint or name stands on an earlier line already")]
    Repeated,
}

/// The subject of a line: a key, or a name in certificates.
enum Principal {
    Key(Fingerprint),
    Name(String),
}

impl Principal {
    fn parse(word: &str) -> Result<Self, KeyLineError> {
        let Some(name) = word.strip_prefix("cert:") else {
            return word
                .parse()
                .map(Self::Key)
                .map_err(KeyLineError::Fingerprint);
        };
        let is_usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        let is_name = !name.is_empty() && name.chars().all(is_usual);
        if !is_name && name != ANY_NAME {
            return Err(KeyLineError::Name);
        }
        Ok(Self::Name(name.to_owned()))
    }
}

/// Adds the rights of a line, unless an earlier line has the same subject.
fn add<K: Eq + Hash>(
    all: &mut HashMap<K, Rules>,
    key: K,
    rules: Rules,
) -> Result<(), KeyLineError> {
    match all.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(rules);
            Ok(())
        }
        Entry::Occupied(_) => Err(KeyLineError::Repeated),
    }
}

/// One line: `<fingerprint or cert:name> <rights> [comment]`, or nothing.
fn parse_line(line: &str) -> Result<Option<(Principal, Rules)>, KeyLineError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (principal, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let principal = Principal::parse(principal)?;
    if rest.trim().is_empty() {
        return Err(KeyLineError::NoRights);
    }
    // What follows the rules is a comment.
    let (rules, _) = split_word(rest)?;
    Ok(Some((principal, rules.parse()?)))
}

#[cfg(unix)]
fn check_writers(path: &Path, file: &File) -> Result<(), AuthorizedKeysError> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = file.metadata().map_err(|source| AuthorizedKeysError::Io {
        path: path.to_owned(),
        source,
    })?;
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(AuthorizedKeysError::LooseMode {
            path: path.to_owned(),
            mode: metadata.mode() & PERMISSION_BITS,
        });
    }
    Ok(())
}

/// Elsewhere the access list of the directory denies other users.
#[cfg(not(unix))]
fn check_writers(_: &Path, _: &File) -> Result<(), AuthorizedKeysError> {
    Ok(())
}

/// Room for some fifty thousand keys; keeps a mistyped path from filling the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Every certificate of the client CA, with any name or none.
const ANY_NAME: &str = "*";

/// Write permission of the group and of others.
#[cfg(unix)]
const OTHERS_WRITE: u32 = 0o022;

/// The part of `st_mode` that `chmod` sets.
#[cfg(unix)]
const PERMISSION_BITS: u32 = 0o7777;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ALICE: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const BOB: &str = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const CAROL: &str = "CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    fn parse(text: &str) -> Result<AuthorizedKeys, AuthorizedKeysError> {
        AuthorizedKeys::parse(Path::new("keys"), text)
    }

    fn access(keys: &AuthorizedKeys, key: &str) -> Access {
        keys.access(&Some(key.parse().unwrap()).into())
    }

    fn by(rules: &str) -> Access {
        Access::new(rules.parse().unwrap())
    }

    #[test]
    fn listed_keys_have_their_rights_and_others_none() {
        let text = format!(
            "# who may come in\n\n{ALICE} read\n  \t\n\t{BOB}\twrite  bob at work # really\r\n#{CAROL} write\n"
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(access(&keys, ALICE), by("read"));
        assert_eq!(access(&keys, BOB), by("write"));
        assert!(access(&keys, CAROL).is_empty());
        assert!(keys.access(&Peer::default()).is_empty());
    }

    #[test]
    fn a_line_takes_rules_by_path_and_a_comment() {
        let text =
            format!("{ALICE} read,/in=put,\"/two words\"=none  Alice, \"at home\"\n{BOB} /x=get\n");
        let keys = parse(&text).unwrap();
        assert_eq!(access(&keys, ALICE), by("read,/in=put,\"/two words\"=none"));
        assert_eq!(access(&keys, BOB), by("/x=get"));
    }

    #[test]
    fn certificates_have_the_rights_of_their_names() {
        let text = "cert:ann write\ncert:* /pub=read\ncert:web-1.example.org /web=get\n";
        let keys = parse(text).unwrap();
        let of = |names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let peer = Peer { key: None, names };
            (keys.access(&peer), keys.knows(&peer))
        };
        assert_eq!(of(&["ann"]), (by("write,/pub=write"), true));
        assert_eq!(of(&["bob"]), (by("/pub=read"), true));
        let both = of(&["bob", "web-1.example.org"]);
        assert_eq!(both, (by("/pub=read,/web=get"), true));
        assert_eq!(of(&[]), (Access::default(), false));
        for wrong in [
            "cert: read",
            "cert:Ann read",
            "cert:a*b read",
            "cert:ann@x read",
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(matches!(
                error,
                AuthorizedKeysError::Line {
                    source: KeyLineError::Name,
                    ..
                }
            ));
        }
        parse("cert:ann read\ncert:ann write").unwrap_err();
    }

    #[test]
    fn the_owner_may_write_whatever_the_file_says() {
        let keys = parse(&format!("{ALICE} read")).unwrap();
        let owner = AuthorizedKeys::default().with_owner(ALICE.parse().unwrap());
        let keys = keys.merged_with(&owner);
        assert_eq!(access(&keys, ALICE), by("write"));
        assert!(access(&keys, BOB).is_empty());
    }

    #[test]
    fn anonymous_rights_are_the_least_that_anyone_has() {
        let keys = parse(&format!("{ALICE} read\n{BOB} write\n{CAROL} none,/c=put")).unwrap();
        let reading = keys.clone().with_anonymous("read".parse().unwrap());
        assert_eq!(reading.access(&Peer::default()), by("read"));
        assert_eq!(access(&reading, BOB), by("write"));
        assert_eq!(access(&reading, CAROL), by("read,/c=read+put"));
        let stranger = quire_certs::Identity::generate(&[]).unwrap();
        assert_eq!(
            reading.access(&Some(stranger.fingerprint()).into()),
            by("read")
        );
        let writing = keys.with_anonymous("write".parse().unwrap());
        assert_eq!(access(&writing, ALICE), by("write"));
    }

    #[test]
    fn wrong_lines_are_reported_by_number() {
        let long = format!("{ALICE}A write");
        let cases = [
            (
                "nonsense write",
                KeyLineError::Fingerprint(FingerprintError::Length(8)),
            ),
            (
                long.as_str(),
                KeyLineError::Fingerprint(FingerprintError::Length(44)),
            ),
            (BOB, KeyLineError::NoRights),
            (
                &format!("{BOB} Write"),
                KeyLineError::Rules(RulesError::UnknownVerb("Write".to_owned())),
            ),
            (
                &format!("{BOB} read,write"),
                KeyLineError::Rules(RulesError::Repeated(quire_shared::RemotePath::ROOT)),
            ),
            (&format!("{ALICE} write"), KeyLineError::Repeated),
        ];
        for (line, expected) in cases {
            let error = parse(&format!("{ALICE} read\n\n{line}\n")).unwrap_err();
            let text = error.to_string();
            assert_eq!(text, "\"keys\" line 3");
            assert!(
                matches!(&error, AuthorizedKeysError::Line { source, .. } if *source == expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_missing_file_is_an_error_only_where_it_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authorized-keys");
        let error = AuthorizedKeys::load(&path).unwrap_err();
        assert!(error.to_string().contains("authorized-keys"), "{error}");
        assert!(AuthorizedKeys::load_if_present(&path).unwrap().is_empty());
        fs::write(&path, "rubbish").unwrap();
        AuthorizedKeys::load_if_present(&path).unwrap_err();
        fs::write(&path, vec![b'#'; (4 << 20) + 1]).unwrap();
        assert!(matches!(
            AuthorizedKeys::load(&path),
            Err(AuthorizedKeysError::TooLarge { .. })
        ));
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authorized-keys");
        fs::write(&path, format!("{ALICE} read\n")).unwrap();
        for (mode, accepted) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match AuthorizedKeys::load(&path) {
                Ok(keys) => assert!(accepted && keys.len() == 1, "{mode:o}"),
                Err(error) => assert!(
                    !accepted && matches!(error, AuthorizedKeysError::LooseMode { .. }),
                    "{mode:o}: {error}"
                ),
            }
        }
    }
}
