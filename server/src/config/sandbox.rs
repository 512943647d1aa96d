//! Landlock sandbox: the kernel confines the whole process to its own directories.
//!
//! Each path is confined when it is opened (`openat2`); the sandbox holds even if that has a bug.
//! It is set before any thread starts, because only threads that start later inherit it. The root,
//! the state directory and the directory of the authorized-keys file stay reachable. TCP sockets can
//! bind the ports of the configuration and connect nowhere, and no program can be started.

use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope,
};

use quire_transport::body::journal::BOOT_ID_PATH;

use crate::config::Config;

/// How far the process is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    /// To its directories.
    Whole,
    /// To its directories, as far as this kernel's version of Landlock can.
    Partial,
    /// Not at all: the kernel has no Landlock.
    Unavailable,
    /// Not at all: it is disabled.
    Off,
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "Landlock sandbox: on",
            Self::Partial => "Landlock sandbox: on, without rights that this kernel doesn't know",
            Self::Unavailable => "Landlock sandbox: not supported by this kernel",
            Self::Off => "Landlock sandbox: off",
        })
    }
}

impl Sandbox {
    /// Confines this thread, and all threads that it starts later, to what a server with `config`
    /// needs.
    ///
    /// # Errors
    /// If the kernel has Landlock and refuses.
    pub fn enter(config: &Config) -> Result<Self, RulesetError> {
        let root = if config.read_only {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::from_all(NEWEST) & !never()
        };
        let mut places = vec![(config.root.clone(), root)];
        if let Some(state) = &config.state_dir {
            places.push((state.clone(), own()));
        }
        if let Some(file) = &config.authorized_keys {
            let named = parent(file.path());
            // The file may be a symbolic link into another directory.
            let real = file.path().canonicalize();
            let real = real.map_or_else(|_| named.clone(), |real| parent(&real));
            places.extend([(named, own()), (real, own())]);
        }
        places.push((BOOT_ID_PATH.into(), AccessFs::ReadFile.into()));
        let status = confine(&places, &config.tcp_ports)?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Self::Whole,
            RulesetStatus::PartiallyEnforced => Self::Partial,
            RulesetStatus::NotEnforced => Self::Unavailable,
        })
    }
}

fn confine(
    places: &[(PathBuf, BitFlags<AccessFs>)],
    tcp_ports: &[u16],
) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (path, access) in places {
        // A missing directory is reported later, by the code that opens it.
        if let Ok(directory) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, *access))?;
        }
    }
    for port in tcp_ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    ruleset.restrict_self()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The newest Landlock version whose rights are used; older kernels enforce those they know.
const NEWEST: ABI = ABI::V6;

/// Rights that a server doesn't need, not even in the root.
fn never() -> BitFlags<AccessFs> {
    AccessFs::Execute
        | AccessFs::MakeChar
        | AccessFs::MakeBlock
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::IoctlDev
}

/// Rights in the server's own directories: read keys, and write what pairing adds.
fn own() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Refer
        | AccessFs::Truncate
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;

    use super::*;

    #[expect(
        clippy::print_stderr,
        reason = "a test that tries nothing must not look like a success"
    )]
    /// Runs `work` in a thread of its own, because a sandbox can't be left.
    fn confined(tcp_ports: &[u16], work: impl FnOnce(&Path, &Path) + Send + 'static) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let tcp_ports = tcp_ports.to_owned();
        let ran = std::thread::spawn(move || {
            let root = path.join("root");
            let outside = path.join("outside");
            fs::create_dir(&root).unwrap();
            fs::write(&outside, "secret").unwrap();
            let all = AccessFs::from_all(NEWEST) & !never();
            let status = confine(&[(root.clone(), all)], &tcp_ports).unwrap();
            if status.ruleset == RulesetStatus::NotEnforced {
                return false;
            }
            work(&root, &outside);
            true
        });
        if !ran.join().unwrap() {
            eprintln!("skipped: this kernel has no Landlock");
        }
    }

    #[test]
    fn what_is_inside_can_be_changed() {
        confined(&[], |root, _| {
            fs::create_dir_all(root.join("a/b")).unwrap();
            fs::write(root.join("a/b/f"), "content").unwrap();
            fs::rename(root.join("a/b/f"), root.join("g")).unwrap();
            assert_eq!(fs::read(root.join("g")).unwrap(), b"content");
            fs::remove_file(root.join("g")).unwrap();
            fs::remove_dir_all(root.join("a")).unwrap();
        });
    }

    #[test]
    fn what_is_outside_is_out_of_reach() {
        confined(&[], |root, outside| {
            let denied = |result: std::io::Result<()>| {
                let kind = result.unwrap_err().kind();
                assert!(
                    matches!(
                        kind,
                        ErrorKind::PermissionDenied | ErrorKind::CrossesDevices
                    ),
                    "{kind}"
                );
            };
            denied(fs::read(outside).map(|_| ()));
            denied(fs::write(outside, "x"));
            denied(fs::read(root.join("../outside")).map(|_| ()));
            denied(fs::remove_file(outside));
            denied(fs::rename(outside, root.join("inside")));
            denied(fs::hard_link(outside, root.join("inside")));
            denied(fs::read_dir("/etc").map(|_| ()));
            let beside = outside.with_file_name("link");
            denied(symlink(outside, beside));
            let tcp = std::net::TcpListener::bind("127.0.0.1:0");
            denied(tcp.map(|_| ()));
            let program = std::process::Command::new("/bin/true").status();
            denied(program.map(|_| ()));
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        });
    }

    #[test]
    fn a_tcp_port_of_the_configuration_can_be_bound() {
        // Reserved by a listener until the sandbox is set, so that no other test gets it.
        let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = reserved.local_addr().unwrap().port();
        confined(&[port], move |_, _| {
            drop(reserved);
            std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
            std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
        });
    }
}
