//! Test harness: servers, clients, directories, network paths, and comparisons.
//!
//! Every wait has a limit and names what it waits for, so that a test that hangs explains itself.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "as in tests: a failure of the surroundings is a failure of the test"
)]

pub mod arena;
pub mod client;
pub mod content;
pub mod fake;
pub mod files;
pub mod gate;
pub mod log;
pub mod programs;
pub mod python;
pub mod raw;
pub mod relay;
pub mod server;
pub mod tree;

use std::future::Future;
use std::time::Duration;

pub use content::{KIB, LARGE, SIZES, assert_same, content};
pub use raw::Raw;
pub use server::TestServer;
pub use tree::Tree;

/// Waits for `future`, and fails the test after [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s in vain for {what}", DEADLINE.as_secs()),
    }
}

/// Reports that a test can't run here, and why.
#[expect(
    clippy::print_stderr,
    reason = "a test that tries nothing must not look like a success"
)]
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether this process runs as root, so that permissions stop nothing.
pub fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

/// No step of a test takes a second on an idle machine; a busy one gets a hundred times that.
const DEADLINE: Duration = Duration::from_secs(100);
