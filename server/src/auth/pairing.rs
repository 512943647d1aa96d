//! Pairing: a client authorizes its key with a code from the operator.
//!
//! `quire-server pair` creates a code and stores an offer in the state directory: the key that proofs
//! are made with, the rights, and the expiry time. The running server looks for it when an unknown
//! client connects. Removing the offer file decides which of several clients is paired; a few wrong
//! proofs remove it as well.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use quinn::Connection;
use quire_certs::{CertsError, Fingerprint, StateDir, replace_file};
use quire_shared::ErrorCode;
use quire_shared::Side;
use quire_shared::pairing::{CODE_BYTES, Pair, Paired, PairingCode, PairingKey};
use quire_transport::pairing as bound;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::auth::keyring::KeysFile;
use crate::auth::rules::Rules;

/// Creates a code, and stores its offer in `state` in place of an earlier one.
///
/// # Errors
/// Names the file that can't be written.
pub fn offer(
    state: &StateDir,
    rights: &Rules,
    comment: &str,
    lifetime: Duration,
) -> Result<PairingCode, CertsError> {
    let mut random = [0; CODE_BYTES];
    let drawn = getrandom(&mut random, GetRandomFlags::empty());
    drawn.map_err(|errno| CertsError::Io {
        path: state.file(OFFER),
        action: "draw a code for it",
        source: errno.into(),
    })?;
    let code = PairingCode::new(random);
    let offer = Offer {
        ends: SystemTime::now() + lifetime,
        key: code.key(),
        line: format!("{rights} {}", comment.replace(char::is_control, " ")),
    };
    state.replace(OFFER, offer.to_text().as_bytes())?;
    Ok(code)
}

/// Why a key is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairingError {
    /// The proof is wrong, or the client has no key.
    #[error("wrong pairing code")]
    NotAuthorized,
    /// There is no code.
    #[error("no pairing code is open: it was used, withdrawn or replaced, or has expired")]
    NoCode,
    /// A system call failed.
    #[error("{doing} failed")]
    System {
        /// What was being done.
        doing: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A defect of the server.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl PairingError {
    fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }

    /// The code that the client hears.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NotAuthorized | Self::NoCode => ErrorCode::NOT_AUTHORIZED,
            Self::System { .. } => ErrorCode::DISK,
            Self::Internal(_) => ErrorCode::INTERNAL,
        }
    }
}

/// Pairs clients that have a code.
#[derive(Debug)]
pub(crate) struct Pairing {
    /// The offer and the authorized-keys file; without both there is no pairing.
    files: Option<PairingFiles>,
    /// Wrong proofs for the current offer.
    wrong: Arc<AtomicU32>,
}

#[derive(Debug, Clone)]
struct PairingFiles {
    offer: PathBuf,
    keys: KeysFile,
}

impl Pairing {
    pub(crate) fn new(state_dir: Option<&PathBuf>, keys: Option<&KeysFile>) -> Self {
        let files = state_dir.zip(keys).map(|(state, keys)| PairingFiles {
            offer: state.join(OFFER),
            keys: keys.clone(),
        });
        Self {
            files,
            wrong: Arc::default(),
        }
    }

    /// Whether there is an offer that hasn't expired.
    pub(crate) async fn is_open(&self) -> bool {
        let Some(files) = self.files.clone() else {
            return false;
        };
        let open = spawn_blocking(move || files.find().is_some());
        open.await.unwrap_or(false)
    }

    /// Authorizes the key `client` if its proof shows that it knows the code.
    ///
    /// # Errors
    /// The refusal, or why the key can't be authorized.
    pub(crate) async fn accept(
        &self,
        pair: Pair,
        client: Fingerprint,
        connection: &Connection,
    ) -> Result<Paired, PairingError> {
        let files = self.files.clone().ok_or(PairingError::NoCode)?;
        let wrong = Arc::clone(&self.wrong);
        let connection = connection.clone();
        let accepted = spawn_blocking(move || {
            let offer = files.find().ok_or(PairingError::NoCode)?;
            let material = |_| PairingError::Internal("a connection without keying material");
            let is_right = bound::proves(&offer.key, Side::Client, &connection, pair.proof);
            if !is_right.map_err(material)? {
                files.count_wrong(&wrong);
                return Err(PairingError::NotAuthorized);
            }
            files.take_away(&wrong)?;
            let proof = bound::proof(&offer.key, Side::Server, &connection).map_err(material)?;
            let added = files.keys.authorize(client, &offer.line);
            added.map_err(PairingError::system("adding to the authorized keys"))?;
            info!(key = %client, rights = offer.line, "paired");
            Ok(Paired { proof })
        });
        accepted
            .await
            .map_err(|_| PairingError::Internal("pairing ended without a result"))?
    }
}

impl PairingFiles {
    /// The offer, unless it has expired or can't be parsed.
    fn find(&self) -> Option<Offer> {
        let mut text = String::new();
        let file = fs::File::open(&self.offer).ok()?;
        file.take(OFFER_BYTES_MAX).read_to_string(&mut text).ok()?;
        Offer::parse(&text).filter(|offer| SystemTime::now() < offer.ends)
    }

    fn count_wrong(&self, wrong: &AtomicU32) {
        let count = wrong.fetch_add(1, Ordering::Relaxed) + 1;
        if count >= WRONG_MAX && self.take_away(wrong).is_ok() {
            warn!("the pairing code is withdrawn after {count} wrong ones");
        }
    }

    /// Removes the offer; of several callers only one succeeds.
    fn take_away(&self, wrong: &AtomicU32) -> Result<(), PairingError> {
        match fs::remove_file(&self.offer) {
            Ok(()) => {
                wrong.store(0, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Err(PairingError::NoCode),
            Err(error) => Err(PairingError::system("ending an offer")(error)),
        }
    }
}

/// A code's key, the rights it grants, and when it expires.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    ends: SystemTime,
    key: PairingKey,
    /// What follows the fingerprint in authorized-keys: rights and a comment.
    line: String,
}

impl Offer {
    fn to_text(&self) -> String {
        let since_epoch = self.ends.duration_since(SystemTime::UNIX_EPOCH);
        let ends = since_epoch.unwrap_or_default().as_secs();
        let mut key = String::new();
        for byte in self.key.as_bytes() {
            // Writing to a string can't fail.
            let _ = write!(key, "{byte:02x}");
        }
        format!("{ends}\n{key}\n{}\n", self.line)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let ends = Duration::from_secs(lines.next()?.parse().ok()?);
        let digits = lines.next()?;
        let mut key = [0; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self {
            ends: SystemTime::UNIX_EPOCH.checked_add(ends)?,
            key: PairingKey::from_bytes(key),
            line: lines.next()?.to_owned(),
        })
    }
}

impl KeysFile {
    /// Gives `key` the rights and comment `rest`, in place of the line it has, durably and under
    /// the file's lock.
    ///
    /// # Errors
    /// An error of the system.
    fn authorize(&self, key: Fingerprint, rest: &str) -> io::Result<()> {
        let key = key.to_string();
        replace_file::edit(self.path(), |before| {
            let is_its = |line: &&str| line.split_whitespace().next() == Some(&key);
            let mut text = String::new();
            for line in before.lines().filter(|line| !is_its(line)) {
                text.push_str(line);
                text.push('\n');
            }
            text + &format!("{key} {rest}\n")
        })
    }
}

/// The file of the offer in the state directory.
const OFFER: &str = "pairing";

/// Larger than any offer.
const OFFER_BYTES_MAX: u64 = 64 * 1024;

/// Wrong proofs after which an offer is removed. The client rejects most mistyped codes by length or
/// alphabet. A code can't be guessed, so the limit only makes attempts visible.
const WRONG_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_offer_is_read_as_it_was_written_and_ends() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&directory.path().join("state"))).unwrap();
        let rights: Rules = "read,/in=put".parse().unwrap();
        let minute = Duration::from_secs(60);
        let code = offer(&state, &rights, "Ann's\nlaptop", minute).unwrap();
        let keys = KeysFile::optional(state.file("keys"));
        let pairing = Pairing::new(Some(&state.path().to_owned()), Some(&keys));
        let files = pairing.files.unwrap();
        let found = files.find().unwrap();
        assert_eq!(found.key, code.key());
        assert_eq!(found.line, "read,/in=put Ann's laptop");
        // The code itself is nowhere on disk.
        let text = fs::read_to_string(&files.offer).unwrap();
        assert!(!text.contains(&code.to_string()), "{text}");

        offer(&state, &rights, "", Duration::ZERO).unwrap();
        assert!(files.find().is_none());
    }

    #[test]
    fn a_few_wrong_proofs_end_an_offer() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(&directory.path().join("state"))).unwrap();
        let rights: Rules = "read".parse().unwrap();
        offer(&state, &rights, "", Duration::from_secs(60)).unwrap();
        let keys = KeysFile::optional(state.file("keys"));
        let pairing = Pairing::new(Some(&state.path().to_owned()), Some(&keys));
        let files = pairing.files.unwrap();
        for _ in 1..WRONG_MAX {
            files.count_wrong(&pairing.wrong);
            assert!(files.find().is_some());
        }
        files.count_wrong(&pairing.wrong);
        assert!(files.find().is_none());
        let second = files.take_away(&pairing.wrong);
        assert!(matches!(second, Err(PairingError::NoCode)));
    }

    #[test]
    fn a_key_gets_a_line_or_another_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let keys = KeysFile::optional(path.clone());
        let key = || quire_certs::Identity::generate(&[]).unwrap().fingerprint();
        let one = key();
        let other = key();
        keys.authorize(one, "read Ann").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&path, format!("# no end\n{one} read Ann")).unwrap();
        keys.authorize(other, "write Bob").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!("# no end\n{one} read Ann\n{other} write Bob\n")
        );
        keys.authorize(one, "write Ann").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!("# no end\n{other} write Bob\n{one} write Ann\n")
        );
        // Beside the lock nothing is left.
        fs::remove_file(directory.path().join("keys.lock")).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_that_are_let_in_at_once_are_all_authorize() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let start = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // A value of its own, as in another server process.
                    let keys = KeysFile::optional(path.clone());
                    let key = quire_certs::Identity::generate(&[]).unwrap().fingerprint();
                    start.wait();
                    keys.authorize(key, "read").unwrap();
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 8, "{text}");
    }
}
