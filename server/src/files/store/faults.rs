//! Faults that tests put into a server, to see that they are noticed.
//!
//! A harness that looks for lost changes proves nothing unless it finds them where they must be:
//! for that, each call that makes a change durable can be left out, and the lock table can let
//! everybody through. Only a build with the feature `fault-injection` can be made to do so; in any
//! other [`Faults`] has no content and [`Faults::has`] is `false` at compile time.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// The faults of one server. By default, and without the feature always, there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    #[cfg(feature = "fault-injection")]
    bits: u32,
}

/// What a server can be made to leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sync of new content before it gets its name.
    FileSync,
    /// The sync of the directory in which something got its name.
    PlaceSync,
    /// The syncs of directories in which directories on the way were made.
    ParentSync,
    /// The sync of the directory that a renamed thing left.
    OldDirectorySync,
    /// The sync of the directory from which a name was deleted.
    DeleteSync,
    /// The sync of a file in a copied directory.
    CopiedFileSync,
    /// The sync of a copied directory before it gets its name.
    CopiedDirectorySync,
    /// The sync of a copied directory after it got its name and permissions.
    PublishedDirectorySync,
    /// All locks of paths.
    Locks,
}

impl Fault {
    /// All of them.
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
    /// Makes `file` durable, unless that is left out at `site`.
    pub(crate) fn sync(self, site: Fault, file: impl AsFd) -> Result<(), Errno> {
        if self.has(site) {
            return Ok(());
        }
        rustix::fs::fsync(file)
    }

    /// Where locks are left out, gives others the time to come between a look and the change that
    /// it allows, so that it doesn't depend on the disk whether that is noticed.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no event to wait for, only time in which one may come"
    )]
    pub(crate) fn let_others_in(self) {
        if self.has(Fault::Locks) {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[cfg(not(feature = "fault-injection"))]
impl Faults {
    pub(crate) const fn asked() -> Self {
        Self {}
    }

    #[expect(
        clippy::unused_self,
        reason = "there is nothing in it without the feature"
    )]
    pub(crate) const fn has(self, _: Fault) -> bool {
        false
    }
}

#[cfg(feature = "fault-injection")]
impl Faults {
    /// A server that leaves out `fault`.
    #[must_use]
    pub const fn only(fault: Fault) -> Self {
        Self {
            bits: 1 << fault as u32,
        }
    }

    /// The faults that the environment variable `QUIRE_FAULTS` names, with commas between them. A
    /// name that means nothing is passed over; the test that asked for it then finds no fault.
    pub(crate) fn asked() -> Self {
        let named = std::env::var("QUIRE_FAULTS").unwrap_or_default();
        let is_named = |fault: &&Fault| named.split(',').any(|name| name == format!("{fault:?}"));
        let bits = Fault::ALL.iter().filter(is_named);
        Self {
            bits: bits.fold(0, |bits, fault| bits | Self::only(*fault).bits),
        }
    }

    pub(crate) const fn has(self, fault: Fault) -> bool {
        self.bits & Self::only(fault).bits != 0
    }
}
