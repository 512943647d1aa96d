//! What the cases stand on: servers, clients, directories, and ways to compare.
//!
//! Every wait has a limit that says what was waited for, so that a test that hangs explains itself.

pub(crate) mod arena;
pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod fake;
pub(crate) mod gate;
pub(crate) mod log;
pub(crate) mod power;
pub(crate) mod programs;
pub(crate) mod python;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod server;
pub(crate) mod strace;
pub(crate) mod tree;
pub(crate) mod workload;

use std::future::Future;
use std::time::Duration;

pub(crate) use content::{KIB, LARGE, SIZES, assert_same, content};
pub(crate) use raw::Raw;
pub(crate) use server::TestServer;
pub(crate) use tree::Tree;

/// Waits for `future`, and fails the test when it takes too long to be still under way.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s in vain for {what}", DEADLINE.as_secs()),
    }
}

/// Says that something can't be tried here, and why.
#[expect(
    clippy::print_stderr,
    reason = "a test that tries nothing must not look like a success"
)]
pub(crate) fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether this process may do everything, so that permissions stop nothing.
pub(crate) fn is_superuser() -> bool {
    rustix::process::geteuid().is_root()
}

/// No step of a test takes a second on an idle machine; a busy one gets a hundred times that.
const DEADLINE: Duration = Duration::from_secs(100);
