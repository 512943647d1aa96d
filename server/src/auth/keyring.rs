//! The rights that hold now: those of the configuration, and a file that is read again when it
//! changes.
//!
//! The file is checked for changes several times a second, and before the rights of a new connection
//! are decided. A file that can't be used leaves the rights unchanged and is reported once. Each
//! connection [subscribes](Keyring::subscribe) to changes.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tracing::{error, info};

use crate::auth::access::Access;
use crate::auth::authorized_keys::{AuthorizedKeys, AuthorizedKeysError, Peer};

/// A file of authorized keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFile {
    path: PathBuf,
    is_required: bool,
}

impl KeysFile {
    /// A file that has to exist at the start.
    pub fn required(path: PathBuf) -> Self {
        Self {
            path,
            is_required: true,
        }
    }

    /// A file that need not exist; without it there are no keys.
    pub fn optional(path: PathBuf) -> Self {
        Self {
            path,
            is_required: false,
        }
    }

    /// Its path, whether it exists or not.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn observe(&self) -> FilePresence {
        match std::fs::metadata(&self.path) {
            Ok(metadata) => FilePresence::Present(FileStamp::of(&metadata)),
            Err(error) if error.kind() == ErrorKind::NotFound => FilePresence::Missing,
            Err(error) => FilePresence::Unreadable(error.kind()),
        }
    }

    fn load(&self) -> Result<AuthorizedKeys, AuthorizedKeysError> {
        if self.is_required {
            AuthorizedKeys::load(&self.path)
        } else {
            AuthorizedKeys::load_if_present(&self.path)
        }
    }
}

/// The rights of all clients, kept up to date.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// Rights that hold regardless of the file.
    fixed: AuthorizedKeys,
    file: Option<KeysFile>,
    seen: Mutex<Observation>,
    current: watch::Sender<Arc<AuthorizedKeys>>,
}

/// What the file was like when it was last checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Observation {
    state: FilePresence,
    /// Whether the file may have changed again with the same [`FileStamp`].
    is_fresh: bool,
}

impl Keyring {
    /// Reads the file, if there is to be one.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(crate) fn open(
        fixed: AuthorizedKeys,
        file: Option<KeysFile>,
    ) -> Result<Self, AuthorizedKeysError> {
        let (keys, seen) = match &file {
            Some(file) => {
                // Checked before it is read, so that a change in between is noticed.
                let seen = Observation::of(file.observe());
                (file.load()?.merged_with(&fixed), seen)
            }
            None => (fixed.clone(), Observation::of(FilePresence::Missing)),
        };
        Ok(Self {
            fixed,
            file,
            seen: Mutex::new(seen),
            current: watch::Sender::new(Arc::new(keys)),
        })
    }

    /// What `peer` may do.
    pub(crate) fn access(&self, peer: &Peer) -> Access {
        self.current.borrow().access(peer)
    }

    /// Whether `peer` has rights of its own.
    pub(crate) fn knows(&self, peer: &Peer) -> bool {
        self.current.borrow().knows(peer)
    }

    /// A receiver of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<AuthorizedKeys>> {
        self.current.subscribe()
    }

    /// Checks the file for changes until dropped.
    pub(crate) async fn watch_file(&self) {
        let mut missing = 0;
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            missing = if self.refresh(missing >= CHECKS_MISSING).await {
                0
            } else {
                missing + 1
            };
        }
    }

    /// Reads the file if it has changed. A missing file counts only if `believe_missing`, because
    /// editors remove a file for a moment. Returns whether it exists.
    pub(crate) async fn refresh(&self, believe_missing: bool) -> bool {
        let Some(file) = &self.file else {
            return true;
        };
        let mut seen = self.seen.lock().await;
        let file = file.clone();
        let before = seen.clone();
        let work = move || {
            let now = Observation::of(file.observe());
            let is_known = now.state == before.state && !before.is_fresh;
            let keys = (!is_known).then(|| file.load());
            (now, keys)
        };
        let Ok((now, keys)) = spawn_blocking(work).await else {
            return true;
        };
        if now.state == FilePresence::Missing && !believe_missing {
            return false;
        }
        let is_news = now.state != seen.state;
        let is_there = now.state != FilePresence::Missing;
        *seen = now;
        match keys {
            None => {}
            Some(Ok(keys)) => self.take(keys),
            Some(Err(error)) if is_news => error!(
                error = &error as &dyn std::error::Error,
                "cannot use the authorized-keys file; rights are unchanged"
            ),
            Some(Err(_)) => {}
        }
        is_there
    }

    fn take(&self, keys: AuthorizedKeys) {
        let keys = keys.merged_with(&self.fixed);
        let count = keys.len();
        let is_changed = self.current.send_if_modified(|current| {
            let is_changed = **current != keys;
            if is_changed {
                *current = Arc::new(keys);
            }
            is_changed
        });
        if is_changed {
            info!(keys = count, "the authorized keys have changed");
        }
    }
}

impl Observation {
    fn of(state: FilePresence) -> Self {
        let is_fresh = match &state {
            FilePresence::Present(stamp) => stamp.is_fresh(),
            FilePresence::Missing | FilePresence::Unreadable(_) => false,
        };
        Self { state, is_fresh }
    }
}

/// Whether a file exists, and its [`FileStamp`].
#[derive(Debug, Clone, PartialEq, Eq)]
enum FilePresence {
    Present(FileStamp),
    Missing,
    Unreadable(ErrorKind),
}

/// What a change of a file alters, unless it falls into the same tick of the file system's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    identity: (u64, u64),
    size: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file changed so recently that another change could have the same time.
    fn is_fresh(&self) -> bool {
        let since_epoch = u64::try_from(self.changed.0).map(Duration::from_secs);
        let changed = since_epoch.map(|since| SystemTime::UNIX_EPOCH + since);
        let age = changed.map(|changed| SystemTime::now().duration_since(changed));
        match age {
            Ok(Ok(age)) => age < FRESH,
            // The clock was set back, or the file's time is in the future.
            Ok(Err(_)) | Err(_) => true,
        }
    }
}

/// Time between two checks of the file: a right that is removed there ends within a second.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// Checks that have to find no file before it counts as removed.
const CHECKS_MISSING: u32 = 1;

/// Longer than a tick of any file system's clock (two seconds on FAT), in whole seconds because
/// that is all some keep.
const FRESH: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use std::fs;

    use quire_certs::{Fingerprint, Identity};
    use tempfile::TempDir;

    use super::*;

    struct WatchedKeys {
        directory: TempDir,
        keyring: Keyring,
        key: Fingerprint,
    }

    impl WatchedKeys {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = KeysFile::optional(directory.path().join("keys"));
            let keyring = Keyring::open(AuthorizedKeys::default(), Some(file)).unwrap();
            let key = Identity::generate(&[]).unwrap().fingerprint();
            Self {
                directory,
                keyring,
                key,
            }
        }

        fn write(&self, text: &str) {
            let new = self.directory.path().join("new");
            fs::write(&new, text.replace("KEY", &self.key.to_string())).unwrap();
            fs::rename(new, self.directory.path().join("keys")).unwrap();
        }

        async fn access(&self) -> Access {
            self.keyring.refresh(false).await;
            self.keyring.access(&Some(self.key).into())
        }
    }

    fn by(rules: &str) -> Access {
        Access::new(rules.parse().unwrap())
    }

    #[tokio::test]
    async fn a_changed_file_changes_the_rights() {
        let fixture = WatchedKeys::new();
        let mut changes = fixture.keyring.subscribe();
        assert!(fixture.access().await.is_empty());
        assert!(!changes.has_changed().unwrap());
        fixture.write("KEY read");
        assert_eq!(fixture.access().await, by("read"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        // As long as the one before, and within the same second.
        fixture.write("KEY list");
        assert_eq!(fixture.access().await, by("list"));
        fixture.write("");
        assert!(fixture.access().await.is_empty());
    }

    #[tokio::test]
    async fn a_file_that_says_the_same_is_no_change() {
        let fixture = WatchedKeys::new();
        fixture.write("KEY read");
        fixture.access().await;
        let changes = fixture.keyring.subscribe();
        fixture.write("# the same\nKEY read");
        assert_eq!(fixture.access().await, by("read"));
        assert!(!changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_broken_file_leaves_the_rights_as_they_were() {
        use std::os::unix::fs::PermissionsExt as _;

        let fixture = WatchedKeys::new();
        fixture.write("KEY read");
        assert_eq!(fixture.access().await, by("read"));
        fixture.write("KEY reed");
        assert_eq!(fixture.access().await, by("read"));
        fixture.write("KEY write");
        assert_eq!(fixture.access().await, by("write"));
        let keys = fixture.directory.path().join("keys");
        fixture.write("KEY read");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(fixture.access().await, by("write"));
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(fixture.access().await, by("read"));
    }

    #[tokio::test]
    async fn a_file_that_is_gone_for_a_moment_takes_no_rights_away() {
        let fixture = WatchedKeys::new();
        fixture.write("KEY read");
        assert_eq!(fixture.access().await, by("read"));
        fs::remove_file(fixture.directory.path().join("keys")).unwrap();
        assert_eq!(fixture.access().await, by("read"));
        assert!(!fixture.keyring.refresh(true).await);
        assert!(fixture.access().await.is_empty());
        fixture.write("KEY read");
        assert_eq!(fixture.access().await, by("read"));
    }

    #[tokio::test]
    async fn what_is_fixed_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let owner = Identity::generate(&[]).unwrap().fingerprint();
        let fixed = AuthorizedKeys::default().with_owner(owner);
        let missing = KeysFile::required(path.clone());
        Keyring::open(fixed.clone(), Some(missing)).unwrap_err();
        fs::write(&path, format!("{owner} none\n")).unwrap();
        let keyring = Keyring::open(fixed, Some(KeysFile::required(path))).unwrap();
        assert_eq!(keyring.access(&Some(owner).into()), by("write"));
    }
}
