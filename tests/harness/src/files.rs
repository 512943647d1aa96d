//! The operations of a server without its network.

use std::path::Path;
use std::sync::Arc;

use quire_certs::Identity;
use quire_server::Config;
use quire_server::auth::access::Access;
use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::files::{Caller, Files};

/// The operations on the directory `root`, with the defaults of a server.
pub fn open(root: &Path) -> Files {
    let identity = Identity::generate(&[]).unwrap();
    let config = Config::new(root.to_owned(), identity, AuthorizedKeys::default());
    Files::open(&config.files()).unwrap()
}

/// A client with the rights `rules`.
pub fn caller(files: &Files, rules: &str) -> Caller {
    let access = Access::new(rules.parse().unwrap());
    files.caller(Arc::new(access), None)
}
