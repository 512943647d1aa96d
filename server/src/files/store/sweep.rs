//! Removal of what a killed server left in the staging directory.
//!
//! That may be a large deleted tree. So a thread removes it while the server serves already: what
//! this server stages has names of its own.

use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, unlinkat};
use tracing::{info, warn};

use super::Error;
use super::root::{Inner, Root};
use super::staging::{STAGING_NAME, Staging};
use super::trash;

impl Root {
    /// Has the staging directory of a killed server removed, unless a running server has locked it.
    /// Waits a moment for that, so that little is gone before the first request.
    pub(super) fn sweep(&self) {
        let inner = &self.inner;
        let staging = match Staging::find(&inner.directory, inner.id.device) {
            Ok(Some(staging)) => staging,
            Ok(None) => return inner.memory.load(inner, None),
            Err(Error::OtherServer) => return,
            Err(error) => return report(&error),
        };
        staging.settle_parts(inner.keep_uploads);
        // Most servers leave nothing but the empty directory.
        if unlinkat(&inner.directory, STAGING_NAME, AtFlags::REMOVEDIR).is_ok() {
            return inner.memory.load(inner, None);
        }
        let staging = inner.share(staging);
        let root = Arc::downgrade(inner);
        let (done, is_done) = mpsc::channel();
        let sweeping = thread::Builder::new().name("sweep".to_owned());
        let started = sweeping.spawn(move || {
            match staging.ending.run(|| trash::clear(&staging)) {
                // The next start removes the rest.
                Ok(()) | Err(Error::Cancelled) => {}
                Err(error) => report(&error),
            }
            drop(staging);
            release(&root);
            // Fails if the server serves already.
            let _ = done.send(());
        });
        match started {
            Ok(_) if is_done.recv_timeout(WAIT).is_err() => {
                info!("removing what a killed server left in the staging directory");
            }
            Ok(_) => {}
            Err(error) => report(&Error::system("starting a thread")(error)),
        }
    }
}

/// Removes the staging directory again, unless it was used meanwhile.
fn release(root: &Weak<Inner>) {
    let Some(inner) = root.upgrade() else { return };
    let mut current = inner.staging.lock();
    if current
        .as_ref()
        .is_some_and(|staging| Arc::strong_count(staging) == 1)
    {
        *current = None;
    }
}

fn report(error: &Error) {
    let error: &dyn std::error::Error = error;
    warn!(
        error,
        "the staging directory of an earlier server can't be removed"
    );
}

/// Time that the start waits: enough for what requests leave that were cut off.
const WAIT: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use quire_shared::protocol::Precondition;

    use super::super::Parents;
    use super::super::fixture::{StoreFixture, path};
    use super::super::staging::STAGING_NAME;

    #[test]
    fn a_server_serves_while_it_removes_what_a_killed_one_left() {
        let fixture = StoreFixture::new();
        for directory in 0..300 {
            for file in 0..20 {
                fixture.write(&format!("{STAGING_NAME}/{directory}/{file}"), "x");
            }
        }
        let private = PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(fixture.local(STAGING_NAME), private).unwrap();
        fixture.root.sweep();
        for number in 0..20 {
            let name = number.to_string();
            fixture
                .put(&name, "content", &Precondition::Absent)
                .unwrap();
        }
        // What this server stages meanwhile stays.
        let staged = fixture.staged("mine");
        while fixture.staged_count() > 1 {
            std::thread::yield_now();
        }
        fixture
            .root
            .publish(
                staged,
                &path("mine"),
                &Precondition::Absent,
                Parents::MustExist,
            )
            .unwrap();
        assert_eq!(fixture.read("mine"), "mine");
    }
}
