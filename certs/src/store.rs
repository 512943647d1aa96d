//! Identities in the state directory, one file each.
//!
//! Key and certificate share a file, so that neither exists without the other. A new file never
//! replaces one that exists. Of two programs that start at once, one creates the identity and both
//! use it.

use std::path::PathBuf;

use crate::{CertsError, Identity, StateDir, local_names, pem};

/// Role of an identity. Each has its own, so that a client's key can't be used as a server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Identity of a server.
    Server,
    /// Identity of a client.
    Client,
}

impl Role {
    /// The file that holds this role's identity in `dir`.
    pub fn path(self, dir: &StateDir) -> PathBuf {
        dir.file(self.file_name())
    }

    fn file_name(self) -> &'static str {
        match self {
            Self::Server => "server.pem",
            Self::Client => "client.pem",
        }
    }

    /// Names in the certificate. A client is identified only by its key, so servers don't learn its
    /// addresses.
    fn names(self) -> Vec<String> {
        match self {
            Self::Server => local_names(),
            Self::Client => Vec::new(),
        }
    }
}

/// Loads the identity for `role`; `None` if there is none yet.
///
/// # Errors
///
/// Names the file when it can't be used, belongs to another user or is open to others.
pub fn load(dir: &StateDir, role: Role) -> Result<Option<Identity>, CertsError> {
    let Some(file) = dir.open_private(role.file_name())? else {
        return Ok(None);
    };
    let path = role.path(dir);
    Identity::from_pem(&path, &pem::read_from(&path, &file)?).map(Some)
}

/// Loads the identity for `role`, or generates it if there is none. Any number of programs may do so
/// at once; all get the same identity.
///
/// # Errors
///
/// As [`load`], or names what could not be written.
pub fn load_or_create(dir: &StateDir, role: Role) -> Result<Identity, CertsError> {
    if let Some(identity) = load(dir, role)? {
        return Ok(identity);
    }
    let (identity, text) = Identity::generate_with_pem(&role.names())?;
    if dir.create(role.file_name(), text.as_bytes())? {
        return Ok(identity);
    }
    // Another program was first; both use its identity.
    load(dir, role)?.ok_or_else(|| CertsError::Vanished {
        path: role.path(dir),
    })
}

/// Creates a new identity for `role` in place of the old one, if there was one.
///
/// # Errors
///
/// Names what could not be written; the old identity then stays.
pub fn replace(dir: &StateDir, role: Role) -> Result<Identity, CertsError> {
    let (identity, text) = Identity::generate_with_pem(&role.names())?;
    dir.replace(role.file_name(), text.as_bytes())?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, fs, sync::Barrier};

    use tempfile::TempDir;

    use super::*;

    fn state_dir() -> (TempDir, StateDir) {
        let base = TempDir::new().unwrap();
        let dir = StateDir::open(Some(&base.path().join("state"))).unwrap();
        (base, dir)
    }

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let (_base, dir) = state_dir();
        assert!(load(&dir, Role::Server).unwrap().is_none());
        let made = load_or_create(&dir, Role::Server).unwrap();
        let again = load_or_create(&dir, Role::Server).unwrap();
        let loaded = load(&dir, Role::Server).unwrap().unwrap();
        assert_eq!(made.fingerprint(), again.fingerprint());
        assert_eq!(made.chain(), loaded.chain());
        assert_eq!(
            made.private_key().secret_der(),
            loaded.private_key().secret_der()
        );
    }

    #[test]
    fn each_role_has_its_own() {
        let (_base, dir) = state_dir();
        let server = load_or_create(&dir, Role::Server).unwrap();
        assert!(load(&dir, Role::Client).unwrap().is_none());
        let client = load_or_create(&dir, Role::Client).unwrap();
        assert_ne!(server.fingerprint(), client.fingerprint());
        assert!(Role::Server.path(&dir).ends_with("server.pem"));
        assert!(Role::Client.path(&dir).ends_with("client.pem"));
    }

    #[test]
    fn programs_that_start_at_once_share_one_identity() {
        const PROGRAMS: usize = 8;
        for _ in 0..10 {
            let (_base, dir) = state_dir();
            let start = Barrier::new(PROGRAMS);
            let fingerprints: HashSet<_> = std::thread::scope(|scope| {
                let program = || {
                    start.wait();
                    load_or_create(&dir, Role::Client).unwrap().fingerprint()
                };
                let programs: Vec<_> = (0..PROGRAMS).map(|_| scope.spawn(program)).collect();
                programs.into_iter().map(|p| p.join().unwrap()).collect()
            });
            assert_eq!(fingerprints.len(), 1);
            let names = fs::read_dir(dir.path()).unwrap().count();
            assert_eq!(names, 1, "the losers leave nothing behind");
        }
    }

    #[test]
    fn replace_removes_the_old_identity() {
        let (_base, dir) = state_dir();
        let first = replace(&dir, Role::Server).unwrap();
        let second = replace(&dir, Role::Server).unwrap();
        assert_ne!(first.fingerprint(), second.fingerprint());
        let loaded = load_or_create(&dir, Role::Server).unwrap();
        assert_eq!(loaded.fingerprint(), second.fingerprint());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_replaced() {
        let (_base, dir) = state_dir();
        load_or_create(&dir, Role::Server).unwrap();
        let path = Role::Server.path(&dir);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let error = load_or_create(&dir, Role::Server).unwrap_err();
        assert!(error.to_string().contains("server.pem"), "{error}");
        assert_eq!(fs::read(&path).unwrap().len(), whole.len() / 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_open_to_others_is_refused_by_name() {
        use std::os::unix::fs::PermissionsExt as _;

        let (_base, dir) = state_dir();
        load_or_create(&dir, Role::Client).unwrap();
        let path = Role::Client.path(&dir);
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&path) & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = load_or_create(&dir, Role::Client).unwrap_err();
        assert!(matches!(error, CertsError::LooseMode { .. }));
        assert!(error.to_string().contains("client.pem"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_dangling_link_is_an_error_and_not_a_loop() {
        let (base, dir) = state_dir();
        std::os::unix::fs::symlink(base.path().join("nowhere"), Role::Client.path(&dir)).unwrap();
        let error = load_or_create(&dir, Role::Client).unwrap_err();
        assert!(matches!(error, CertsError::Vanished { .. }));
    }
}
