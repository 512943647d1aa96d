//! A disk with a file system on it that logs all writes.
//!
//! The disk is a file that qemu's storage daemon exports through FUSE, behind its filter
//! `blklogwrites`; a loop device makes a block device of it. All of it lies in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use quire_test_harness::skip;
use quire_test_harness::tree::scratch;

/// The file systems that the disk can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// Its name in mkfs and mount.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// Large enough for its mkfs and for what the tests put there, in bytes.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Btrfs => 128 << 20,
            Self::Xfs => 320 << 20,
        }
    }

    /// Whether a power cut leaves a file that is being renamed under only one of its names.
    pub(crate) fn renames_in_one_step(self) -> bool {
        match self {
            Self::Ext4 | Self::Xfs => true,
            // Its log has the names of the directories that were synced, and not of the others.
            Self::Btrfs => false,
        }
    }

    /// Mount options of its images.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Btrfs => "loop,noatime",
            // All images have one identity, so XFS would refuse the next while the one before is still
            // mounted in the namespace that another test has created meanwhile.
            Self::Xfs => "loop,noatime,nouuid",
        }
    }

    fn make(self, device: &Path) -> Result<(), String> {
        let options: &[&str] = match self {
            // No deferred work for the kernel, which would only fill the log.
            Self::Ext4 => &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            Self::Xfs => &["-q"],
            Self::Btrfs => &["-q", "-f"],
        };
        let program = format!("mkfs.{}", self.name());
        run(Command::new(program).args(options).arg(device)).map(drop)
    }
}

/// The disk, mounted. Its log is complete once it was [finished](Self::finish).
#[derive(Debug)]
pub(crate) struct LoggedDisk {
    directory: TempDir,
    file_system: FileSystem,
    daemon: Child,
    device: String,
    mounted: Option<Mounted>,
    /// Writes here get their place in the log.
    exported: File,
}

impl LoggedDisk {
    /// Creates one, or reports what is missing here.
    pub(crate) fn start(file_system: FileSystem) -> Option<Self> {
        match Self::try_start(file_system) {
            Ok(disk) => Some(disk),
            Err(why) => {
                skip(&format!("no power cuts of {}: {why}", file_system.name()));
                None
            }
        }
    }

    fn try_start(file_system: FileSystem) -> Result<Self, String> {
        if !quire_test_harness::is_superuser() {
            return Err("only the superuser has loop devices".into());
        }
        let directory = scratch();
        let at = |name: &str| directory.path().join(name);
        let sized = |name: &str, size| {
            let file = File::create(at(name)).map_err(|error| error.to_string())?;
            file.set_len(size).map_err(|error| error.to_string())
        };
        sized(DISK, file_system.size())?;
        file_system.make(&at(DISK))?;
        sized(DISK_BEFORE, file_system.size())?;
        run(Command::new("cp")
            .args(["--sparse=always"])
            .arg(at(DISK))
            .arg(at(DISK_BEFORE)))?;
        // Room for acknowledgements, outside the loop device.
        let disk = File::options().write(true).open(at(DISK));
        disk.and_then(|disk| disk.set_len(file_system.size() + MARK_BYTES as u64))
            .map_err(|error| error.to_string())?;
        sized(LOG, LOG_BYTES)?;
        sized(EXPORT, 0)?;
        let daemon = start_daemon(directory.path())?;
        let device = match attach(&at(EXPORT), file_system.size()) {
            Ok(device) => device,
            Err(why) => {
                stop_daemon(daemon);
                return Err(why);
            }
        };
        std::fs::create_dir(at(MOUNT_POINT)).unwrap();
        let exported = File::options().write(true).open(at(EXPORT)).unwrap();
        let mut disk = Self {
            directory,
            file_system,
            daemon,
            device,
            mounted: None,
            exported,
        };
        let target = disk.directory.path().join(MOUNT_POINT);
        disk.mounted = Some(Mounted::device(
            Path::new(&disk.device),
            file_system,
            target,
        )?);
        Ok(disk)
    }

    /// The root of the file system.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join(MOUNT_POINT)
    }

    /// A handle that logs acknowledgements from any thread.
    pub(crate) fn marks(&self) -> Marks {
        Marks {
            exported: self.exported.try_clone().unwrap(),
            offset: self.file_system.size(),
        }
    }

    /// Unmounts it; returns the directory with [`DISK_BEFORE`] and [`LOG`].
    pub(crate) fn finish(mut self) -> TempDir {
        drop(self.mounted.take());
        // The daemon counts its entries in the log when it flushes.
        self.exported.sync_all().unwrap();
        self.take_down();
        std::mem::replace(&mut self.directory, scratch())
    }

    fn take_down(&mut self) {
        drop(self.mounted.take());
        if !self.device.is_empty() {
            let detached = run(Command::new("losetup").arg("-d").arg(&self.device));
            detached.unwrap();
            self.device.clear();
            // Exits once the export is unused.
            self.exported = File::open("/dev/null").unwrap();
            quit(&mut self.daemon);
        }
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// Logs acknowledgements among the writes of the file system.
#[derive(Debug)]
pub(crate) struct Marks {
    exported: File,
    offset: u64,
}

impl Marks {
    /// Logs that `count` steps of `worker` were acknowledged.
    pub(crate) fn acknowledged(&self, worker: u64, count: u64) {
        let mut sector = [0; MARK_BYTES];
        sector[..8].copy_from_slice(&worker.to_le_bytes());
        sector[8..16].copy_from_slice(&count.to_le_bytes());
        self.exported.write_all_at(&sector, self.offset).unwrap();
    }
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    target: PathBuf,
}

impl Mounted {
    fn device(device: &Path, file_system: FileSystem, target: PathBuf) -> Result<Self, String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", file_system.name(), "-o", "noatime"]);
        run(mount.arg(device).arg(&target))?;
        Ok(Self { target })
    }

    /// Mounts the file `image`, or returns why it can't.
    pub(crate) fn image(
        image: &Path,
        file_system: FileSystem,
        target: PathBuf,
    ) -> Result<Self, String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", file_system.name(), "-o", file_system.options()]);
        run(mount.arg(image).arg(&target))?;
        Ok(Self { target })
    }
}

/// A small disk that a test may fill; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    // Dropped in this order.
    mounted: Option<Mounted>,
    directory: TempDir,
}

impl SmallDisk {
    /// Creates one with ext4, of this many bytes and inodes, or reports what is missing here.
    pub(crate) fn new(bytes: u64, inodes: u32) -> Option<Self> {
        match Self::make(bytes, inodes) {
            Ok(disk) => Some(disk),
            Err(why) => {
                skip(&format!("no small disk: {why}"));
                None
            }
        }
    }

    fn make(bytes: u64, inodes: u32) -> Result<Self, String> {
        if !quire_test_harness::is_superuser() {
            return Err("only the superuser has loop devices".into());
        }
        let directory = scratch();
        let image = directory.path().join(DISK);
        let file = File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(bytes).map_err(|error| error.to_string())?;
        let mut mkfs = Command::new("mkfs.ext4");
        // No blocks reserved for root.
        mkfs.args(["-q", "-m", "0", "-N", &inodes.to_string()]);
        run(mkfs.arg(&image))?;
        std::fs::create_dir(directory.path().join(MOUNT_POINT)).unwrap();
        let mut disk = Self {
            mounted: None,
            directory,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Mounts it, again if it was mounted.
    pub(crate) fn mount(&mut self) -> Result<(), String> {
        drop(self.mounted.take());
        let image = self.directory.path().join(DISK);
        let mounted = Mounted::image(&image, FileSystem::Ext4, self.root())?;
        self.mounted = Some(mounted);
        Ok(())
    }

    /// Changes its mount options while it is in use.
    pub(crate) fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,{options}")]);
        run(mount.arg(self.root())).unwrap();
    }

    /// The root of the file system.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join(MOUNT_POINT)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut unmounted = Ok(String::new());
        // Another test that starts a program has our open files until its exec.
        for _ in 0..UNMOUNT_ATTEMPTS {
            unmounted = run(Command::new("umount").arg(&self.target));
            if unmounted.is_ok() {
                break;
            }
        }
        if !std::thread::panicking() {
            unmounted.unwrap();
        }
    }
}

/// Starts the daemon, and returns when its export exists.
fn start_daemon(directory: &Path) -> Result<Child, String> {
    let at = |name: &str| directory.join(name).display().to_string();
    let mut command = Command::new("qemu-storage-daemon");
    for node in [
        format!("driver=file,node-name=disk,filename={}", at(DISK)),
        format!("driver=file,node-name=log,filename={}", at(LOG)),
        "driver=blklogwrites,node-name=logged,file=disk,log=log".to_owned(),
    ] {
        command.args(["--blockdev", &node]);
    }
    let export = format!(
        "type=fuse,id=export,node-name=logged,mountpoint={},writable=on,growable=off,allow-other=off",
        at(EXPORT)
    );
    command.args(["--export", &export]);
    // Options are applied in order: the monitor greets when the export exists.
    command.args([
        "--chardev",
        "stdio,id=monitor",
        "--monitor",
        "chardev=monitor",
    ]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut daemon = command
        .spawn()
        .map_err(|error| format!("qemu-storage-daemon: {error}"))?;
    let mut greeting = String::new();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap());
    lines.read_line(&mut greeting).unwrap();
    if greeting.contains("QMP") {
        // Kept open, because closing it would end the daemon's answers.
        daemon.stdout = Some(lines.into_inner());
        return Ok(daemon);
    }
    let output = daemon.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("qemu-storage-daemon: {said}"))
}

fn stop_daemon(mut daemon: Child) {
    quit(&mut daemon);
}

fn quit(daemon: &mut Child) {
    let stdin = daemon.stdin.as_mut().unwrap();
    let asked = stdin.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}\n");
    asked.unwrap();
    daemon.wait().unwrap();
}

fn attach(file: &Path, size: u64) -> Result<String, String> {
    let mut losetup = Command::new("losetup");
    losetup.args(["--show", "-f", "--sizelimit", &size.to_string()]);
    run(losetup.arg(file)).map(|device| device.trim().to_owned())
}

/// Runs a program to its end; returns its output, or its error message.
fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()))
}

/// The disk as it was before it was mounted.
pub(crate) const DISK_BEFORE: &str = "before";

/// The log of all writes.
pub(crate) const LOG: &str = "log";

/// Bytes of an acknowledgement in the log: a sector.
pub(crate) const MARK_BYTES: usize = 512;

/// Each iteration takes the milliseconds of starting a program; the wait is shorter than one of them.
const UNMOUNT_ATTEMPTS: usize = 100;

const DISK: &str = "disk";
const EXPORT: &str = "export";
const MOUNT_POINT: &str = "mnt";

/// More than the log of any test; only written blocks take memory.
const LOG_BYTES: u64 = 8 << 30;
