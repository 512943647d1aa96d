//! Fault injection: faults that tests put into a server, to check that a harness detects them.
//!
//! A harness that looks for lost changes proves nothing unless it finds the changes that must be
//! lost. So each call that makes a change durable can be left out, and the lock table can grant
//! every lock. Only a build with the feature `fault-injection` can do so. In any other build,
//! [`Faults`] is empty and [`Faults::has`] is `false` at compile time.

use std::os::fd::AsFd;

use quire_transport::bottleneck::file_sync;
use rustix::io::Errno;

/// Faults of one server. There are none by default, and never any without the feature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    #[cfg(feature = "fault-injection")]
    bits: u32,
}

/// Step that a server can be made to leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Sync of new content before it is published.
    FileSync,
    /// Sync of the directory in which a name was created.
    PlaceSync,
    /// Syncs of the directories in which missing parents were created.
    ParentSync,
    /// Sync of the old directory of a renamed file or directory.
    OldDirectorySync,
    /// Sync of the directory from which a name was deleted.
    DeleteSync,
    /// Sync of a file in a copied directory.
    CopiedFileSync,
    /// Sync of a copied directory before it is published.
    CopiedDirectorySync,
    /// Sync of a copied directory after it was published and its permissions were set.
    PublishedDirectorySync,
    /// Waiting for the locks of paths.
    Locks,
}

impl Fault {
    /// All faults.
    pub const ALL: &[Self] = &[
        Self::FileSync,
        Self::PlaceSync,
        Self::ParentSync,
        Self::OldDirectorySync,
        Self::DeleteSync,
        Self::CopiedFileSync,
        Self::CopiedDirectorySync,
        Self::PublishedDirectorySync,
        Self::Locks,
    ];
}

impl Faults {
    /// Syncs `file`, unless the fault `site` is injected.
    pub(in crate::files) fn sync(self, site: Fault, file: impl AsFd) -> Result<(), Errno> {
        if self.has(site) {
            return Ok(());
        }
        file_sync(|| rustix::fs::fsync(file))
    }

    /// Waits between the check of a precondition and the change, where locks are left out. Other
    /// requests then come in between, so that detection of the fault doesn't depend on the disk.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no event to wait for, only time in which another request may come"
    )]
    pub(in crate::files) fn let_others_in(self) {
        if self.has(Fault::Locks) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[cfg(not(feature = "fault-injection"))]
impl Faults {
    /// No faults.
    pub(crate) const fn asked() -> Self {
        Self {}
    }

    #[expect(clippy::unused_self, reason = "`Faults` is empty without the feature")]
    /// `false`, so that the compiler removes the branches of faults.
    pub(in crate::files) const fn has(self, _: Fault) -> bool {
        false
    }
}

#[cfg(feature = "fault-injection")]
impl Faults {
    /// Injects `fault` alone.
    #[must_use]
    pub const fn only(fault: Fault) -> Self {
        Self {
            bits: 1 << fault as u32,
        }
    }

    /// Reads the faults from the environment variable `QUIRE_FAULTS`, which names them separated by
    /// commas. Unknown names are ignored; the test that set them then detects no fault.
    pub(crate) fn asked() -> Self {
        let named = std::env::var("QUIRE_FAULTS").unwrap_or_default();
        let is_named = |fault: &&Fault| named.split(',').any(|name| name == format!("{fault:?}"));
        let bits = Fault::ALL.iter().filter(is_named);
        Self {
            bits: bits.fold(0, |bits, fault| bits | Self::only(*fault).bits),
        }
    }

    /// Whether `fault` is injected.
    pub(in crate::files) const fn has(self, fault: Fault) -> bool {
        self.bits & Self::only(fault).bits != 0
    }
}
