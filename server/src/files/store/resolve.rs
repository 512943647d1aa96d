//! Path resolution: from a remote path to a name in an open directory.
//!
//! All changes go through a [`Slot`]. The kernel has resolved the parent directory beneath the
//! root, so that only a single name is left to act on.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use quire_shared::protocol::{Attributes, Precondition};
use quire_shared::{Name, RemotePath};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::Error;
use super::Parents;
use super::metadata::{FileId, Metadata};
use super::new_directories::NewDirectories;
use super::publish::require;
use super::root::Inner;

/// Name in an open directory. Nothing needs to have the name.
#[derive(Debug)]
pub(super) struct Slot<'path> {
    pub(super) directory: Arc<OwnedFd>,
    pub(super) directory_id: FileId,
    pub(super) name: &'path str,
    root_device: u64,
}

impl Slot<'_> {
    /// Reads the metadata of what has the name now.
    pub(super) fn metadata(&self) -> Result<Option<Metadata>, Error> {
        Metadata::at(&self.directory, self.name, self.root_device)
            .map_err(Error::system("reading the metadata of a name"))
    }

    /// Reads the attributes of what has the name now, with the target if that is a symbolic link.
    pub(super) fn attributes(&self) -> Result<Option<Attributes>, Error> {
        let metadata = self.metadata()?;
        Ok(metadata.map(|metadata| metadata.attributes_at(&self.directory, self.name)))
    }
}

impl Inner {
    /// Reads the metadata of what is at `path`.
    pub(super) fn metadata(&self, path: &RemotePath) -> Result<Metadata, Error> {
        if path.is_root() {
            self.require_root()?;
            return Metadata::of(&self.directory)
                .map_err(Error::system("reading the metadata of the root"));
        }
        let slot = self.slot(path, OFlags::PATH)?;
        slot.metadata()?.ok_or(Error::NotFound)
    }

    /// Resolves `path` to its slot, whose directory is opened with `access`: `PATH` to read
    /// metadata, `RDONLY` for a change. fsync(2) fails on a handle opened with `PATH`.
    pub(super) fn slot<'path>(
        &self,
        path: &'path RemotePath,
        access: OFlags,
    ) -> Result<Slot<'path>, Error> {
        let (Some(name), Some(parent)) = (path.name(), path.parent()) else {
            return Err(Error::RootItself);
        };
        self.refuse_staging(path)?;
        let (directory, directory_id) = self.directory(&parent, access)?;
        Ok(self.slot_in(Arc::new(directory), directory_id, name.as_str()))
    }

    /// Returns the slot of `name` in an open directory.
    pub(super) fn slot_in<'path>(
        &self,
        directory: Arc<OwnedFd>,
        directory_id: FileId,
        name: &'path str,
    ) -> Slot<'path> {
        Slot {
            directory,
            directory_id,
            name,
            root_device: self.id.device,
        }
    }

    /// Refuses a path into the staging directory, as if it didn't exist.
    pub(super) fn refuse_staging(&self, path: &RemotePath) -> Result<(), Error> {
        match path.names().first() {
            Some(first) if self.is_staging(first.as_str())? => Err(Error::NotFound),
            _ => Ok(()),
        }
    }

    /// Checks whether a name in the root is an alias of the staging directory. No path has its own
    /// name, but file systems that fold case or have short names may accept others for it.
    fn is_staging(&self, name: &str) -> Result<bool, Error> {
        // An alias keeps the dot, or has the tilde of a short name or a character beyond ASCII.
        let may_be_alias = name.starts_with('.') || name.contains('~') || !name.is_ascii();
        if !may_be_alias {
            return Ok(false);
        }
        let staging = self.staging.lock().as_ref().map(|staging| staging.id);
        let Some(staging) = staging else {
            return Ok(false);
        };
        let metadata = Metadata::at(&self.directory, name, self.id.device)
            .map_err(Error::system("reading the metadata of a name"))?;
        Ok(metadata.is_some_and(|metadata| metadata.id == staging))
    }

    /// Resolves `path` to its slot for a change. Missing directories above it are created as far as
    /// `allowed`, unless `precondition` requires that the name exists.
    pub(super) fn slot_to_change<'path>(
        &self,
        path: &'path RemotePath,
        allowed: Parents,
        precondition: &Precondition,
        new_directories: &mut NewDirectories<'_>,
    ) -> Result<Slot<'path>, Error> {
        match self.slot(path, OFlags::RDONLY) {
            Err(Error::NotFound) if allowed != Parents::MustExist => {
                require(precondition, None)?;
                self.slot_making_parents(path, allowed, new_directories)
            }
            slot => slot,
        }
    }

    /// Resolves `path` to its slot for a change, and creates the missing directories above it.
    pub(super) fn slot_making_parents<'path>(
        &self,
        path: &'path RemotePath,
        allowed: Parents,
        new_directories: &mut NewDirectories<'_>,
    ) -> Result<Slot<'path>, Error> {
        let (name, parents) = path.names().split_last().ok_or(Error::RootItself)?;
        let (mut directory, mut directory_id) =
            self.directory(&RemotePath::ROOT, OFlags::RDONLY)?;
        for (parent, depth) in parents.iter().zip(1..) {
            (directory, directory_id) = match self.child(&directory, parent) {
                Err(Error::NotFound) if allowed.may_make(depth) => {
                    new_directories.make(directory, parent)?
                }
                opened => opened?,
            };
        }
        Ok(self.slot_in(Arc::new(directory), directory_id, name.as_str()))
    }

    /// Checks that the missing directories above `path` could be created.
    pub(super) fn could_make_parents(
        &self,
        path: &RemotePath,
        allowed: Parents,
    ) -> Result<(), Error> {
        let mut ancestor = path.parent();
        while let Some(directory) = ancestor {
            match self.directory(&directory, OFlags::PATH) {
                Err(Error::NotFound) if allowed.may_make(directory.names().len()) => {
                    ancestor = directory.parent();
                }
                Err(error) => return Err(error),
                Ok((directory, _)) => return require_writable(&directory),
            }
        }
        Ok(())
    }

    /// Opens the directory at `path`.
    pub(super) fn directory(
        &self,
        path: &RemotePath,
        access: OFlags,
    ) -> Result<(OwnedFd, FileId), Error> {
        self.open_directory(&self.directory, &path.to_relative(), access)
    }

    /// Opens the directory `name` in `directory`.
    pub(super) fn child(
        &self,
        directory: &OwnedFd,
        name: &Name,
    ) -> Result<(OwnedFd, FileId), Error> {
        self.open_directory(directory, name.as_str(), OFlags::RDONLY)
    }

    fn open_directory(
        &self,
        from: &OwnedFd,
        path: &str,
        access: OFlags,
    ) -> Result<(OwnedFd, FileId), Error> {
        let directory = match open_beneath(from, path, access | OFlags::DIRECTORY) {
            // A symbolic link is never followed, so it isn't a directory wherever it points.
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(Error::NotDirectory),
            Err(Errno::NOENT) => return Err(Error::NotFound),
            Err(Errno::XDEV) => return Err(Error::OtherFileSystem),
            opened => opened.map_err(Error::system("opening a directory"))?,
        };
        let metadata = Metadata::of(&directory)
            .map_err(Error::system("reading the metadata of a directory"))?;
        // NO_XDEV refuses mounts only; a subvolume (Btrfs) differs by its device number alone.
        if metadata.id.device != self.id.device {
            return Err(Error::OtherFileSystem);
        }
        Ok((directory, metadata.id))
    }
}

/// Opens `path` beneath `directory`, confined by the kernel (`openat2`). No symbolic link is
/// followed, in the last component neither; `PATH` with `NOFOLLOW` opens such a link itself.
pub(super) fn open_beneath(
    directory: impl AsFd,
    path: impl rustix::path::Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    // BENEATH: no absolute path and no `..` leads out of `directory`. NO_SYMLINKS implies
    // NO_MAGICLINKS (/proc/*/fd), which is named because confinement depends on it. NO_XDEV: a
    // mount below the root is not part of what is served.
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    for _ in 1..OPEN_ATTEMPTS {
        match openat2(
            &directory,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    openat2(
        &directory,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Checks that the server's user may create and remove names in `directory`.
pub(super) fn require_writable(directory: &OwnedFd) -> Result<(), Error> {
    use rustix::fs::{Access, accessat};
    let access = Access::WRITE_OK | Access::EXEC_OK;
    accessat(directory, c".", access, AtFlags::EACCESS)
        .map_err(Error::system("checking write access"))
}

/// Permissions of a new directory, before the umask is applied.
pub(super) const DIRECTORY_MODE: u32 = 0o777;

/// Attempts to open a path when the kernel returns EAGAIN, because a concurrent rename kept it from
/// proving confinement. To fail the call, a rename would have to hit every single attempt.
const OPEN_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use quire_shared::ErrorCode;
    use quire_shared::protocol::{EntryKind, Precondition};

    use super::super::fixture::{StoreFixture, code, path};
    use super::super::staging::STAGING_NAME;
    use super::Parents;

    const ANY: Precondition = Precondition::Any;

    #[test]
    fn the_staging_directory_is_recognized_under_any_name() {
        let fixture = StoreFixture::new();
        fixture.write(".hidden", "x");
        let is_staging = |name| fixture.root.inner.is_staging(name).unwrap();
        assert!(!is_staging(STAGING_NAME), "not made yet");
        let _staged = fixture.staged("x");
        assert!(is_staging(STAGING_NAME));
        assert!(!is_staging(".hidden") && !is_staging(".missing"));
    }

    /// Runs a test in a mount namespace of its own, or prints why it is skipped.
    #[expect(clippy::print_stdout, reason = "the test runner shows it")]
    fn in_mount_namespace(test: &str, body: impl FnOnce()) {
        const VARIABLE: &str = "QUIRE_TEST_IN_MOUNT_NAMESPACE";
        if std::env::var_os(VARIABLE).is_some() {
            return body();
        }
        let is_possible = Command::new("unshare").args(["--mount", "true"]).output();
        if !is_possible.is_ok_and(|output| output.status.success()) {
            println!("skipped: no right to mount anything");
            return;
        }
        let output = Command::new("unshare")
            .arg("--mount")
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                &format!("files::store::resolve::tests::{test}"),
            ])
            .env(VARIABLE, "1")
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stdout}{stderr}");
        assert!(stdout.contains("1 passed"), "{stdout}");
    }

    fn mount(arguments: &[&str], at: &Path) {
        let status = Command::new("mount").args(arguments).arg(at).status();
        assert!(status.unwrap().success(), "mount {arguments:?}");
    }

    fn unmount(at: &Path) {
        assert!(Command::new("umount").arg(at).status().unwrap().success());
    }

    #[test]
    fn other_file_systems_are_neither_entered_nor_touched() {
        in_mount_namespace("other_file_systems_are_neither_entered_nor_touched", || {
            let fixture = StoreFixture::new();
            fixture.write("d/mount/x", "hidden");
            fixture.write("bound/x", "hidden");
            fixture.write("file", "hidden");
            std::fs::write(fixture.outside("x"), "x").unwrap();
            let outside = fixture.outside("");
            let outside = outside.to_str().unwrap();
            mount(&["-t", "tmpfs", "none"], &fixture.local("d/mount"));
            fixture.write("d/mount/x", "kept");
            // Bind mounts have the device number of the root; only the kernel tells them apart.
            mount(&["--bind", outside], &fixture.local("bound"));
            mount(&["--bind", &format!("{outside}x")], &fixture.local("file"));
            let root = &fixture.root;
            for name in ["d/mount", "bound", "file"] {
                let there = path(name);
                let elsewhere = path("elsewhere");
                let other = ErrorCode::OTHER_FILE_SYSTEM;
                assert_eq!(root.stat(&there).unwrap().kind, EntryKind::Other, "{name}");
                assert_eq!(code(root.open_file(&there)), other, "{name}");
                assert_eq!(code(root.list(&there, None, None)), other, "{name}");
                assert_eq!(code(fixture.put(name, "x", &ANY)), other, "{name}");
                assert_eq!(code(root.delete(&there, true, &ANY)), other, "{name}");
                assert_eq!(
                    code(root.make_directory(&there, Parents::MustExist, &ANY)),
                    other,
                    "{name}"
                );
                assert_eq!(
                    code(root.rename(&there, &elsewhere, &ANY, &ANY)),
                    other,
                    "{name}"
                );
                let paths = (&there, &elsewhere);
                assert_eq!(
                    code(root.copy_to_staging(paths, true, &ANY, false)),
                    other,
                    "{name}"
                );
            }
            for name in ["d/mount/x", "bound/x"] {
                let other = ErrorCode::OTHER_FILE_SYSTEM;
                assert_eq!(code(root.open_file(&path(name))), other, "{name}");
                assert_eq!(code(root.stat(&path(name))), other, "{name}");
                assert_eq!(code(fixture.put(name, "x", &ANY)), other, "{name}");
            }
            let page = root
                .list(&path(""), None, None)
                .unwrap()
                .next_part(&mut |_| true)
                .unwrap();
            assert_eq!(page.entries[0].attributes.kind, EntryKind::Other, "bound");
            let copy = root.copy_to_staging((&path("d"), &path("e")), true, &ANY, false);
            assert_eq!(copy.unwrap().left_out.count, 1);
            let trash = root.delete(&path("d"), true, &ANY).unwrap().unwrap();
            assert_eq!(code(trash.remove()), ErrorCode::BUSY);
            let left = std::fs::read_dir(fixture.local(STAGING_NAME)).unwrap();
            let left = left.last().unwrap().unwrap().path().join("mount");
            assert_eq!(std::fs::read_to_string(left.join("x")).unwrap(), "kept");
            for at in [left, fixture.local("bound"), fixture.local("file")] {
                unmount(&at);
            }
        });
    }

    #[test]
    fn a_full_disk_is_reported_before_content_is_received() {
        in_mount_namespace("a_full_disk_is_reported_before_content_is_received", || {
            use std::io::Write;
            let fixture = StoreFixture::new();
            mount(
                &["-t", "tmpfs", "-o", "size=1m", "none"],
                &fixture.local(""),
            );
            let root = fixture.another_server();
            assert_eq!(code(root.stage(Some(2 << 20))), ErrorCode::NO_SPACE);
            let check = root.check_put(&path("a"), &ANY, Parents::MustExist, Some(2 << 20));
            assert_eq!(code(check), ErrorCode::NO_SPACE);
            let reserved = root.stage(Some(768 << 10)).unwrap();
            assert_eq!(code(root.stage(Some(512 << 10))), ErrorCode::NO_SPACE);
            let mut undeclared = root.stage(None).unwrap();
            let full = undeclared.write_all(&[0; 512 << 10]).unwrap_err();
            let full = super::Error::system("writing")(full);
            assert_eq!(crate::files::Error::from(full).code(), ErrorCode::NO_SPACE);
            drop((reserved, undeclared));
            root.stage(Some(768 << 10)).unwrap();
            drop(root);
            unmount(&fixture.local(""));
        });
    }
}
