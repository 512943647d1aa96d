//! The two network namespaces: creation, removal, and what can be learnt from inside them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sys;

pub const CLIENT_ADDRESS: &str = "10.77.0.1";
pub const SERVER_ADDRESS: &str = "10.77.1.1";
pub const DEVICE: &str = "wan0";
/// Packets that the TUN device holds until the link reads them: far more than arrive in one
/// turn of the link thread, so that all drops are those of the model.
const DEVICE_QUEUE: u32 = 10_000;
const NAMESPACES: &str = "/run/netns";
const STATE: &str = "/run/linklab";
const GRACE: Duration = Duration::from_secs(2);

/// What a link was made for. The processes found in the namespaces of a finished `run` are
/// its own and are ended; those of an `up` belong to its user and are left alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Purpose {
    Up,
    Run,
}

impl Purpose {
    fn mark(self) -> &'static str {
        match self {
            Purpose::Up => "up",
            Purpose::Run => "run",
        }
    }

    fn from_mark(mark: &str) -> Option<Self> {
        [Purpose::Up, Purpose::Run]
            .into_iter()
            .find(|purpose| purpose.mark() == mark)
    }
}

/// One network namespace, entered through its file.
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    fn open(name: &str) -> io::Result<Self> {
        Ok(Namespace {
            name: name.to_owned(),
            file: File::open(path_of(name))?,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs a function on a thread inside the namespace.
    fn inside<T: Send>(&self, function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    sys::enter_netns(self.file.as_fd())?;
                    function()
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a namespace thread panicked")))
        })
    }

    /// Makes the TUN device and gives it its address and the route to the other side.
    fn set_up(
        &self,
        address: &str,
        peer: &str,
        mtu: usize,
        sysctls: &[(String, String)],
    ) -> io::Result<File> {
        let device = self.inside(|| {
            let device = sys::open_tun(DEVICE)?;
            // No neighbour or router discovery: only the packets of the tools under test are
            // counted. Fails where the kernel has no IPv6, which is as good.
            let _ = write_sysctl(&format!("net.ipv6.conf.{DEVICE}.disable_ipv6"), "1");
            for (key, value) in sysctls {
                write_sysctl(key, value)
                    .map_err(|error| io::Error::other(format!("sysctl {key}: {error}")))?;
            }
            Ok(device)
        })?;
        self.ip_batch(&format!(
            "link set lo up\n\
             link set {DEVICE} mtu {mtu} txqueuelen {DEVICE_QUEUE}\n\
             address add {address}/32 peer {peer}/32 dev {DEVICE}\n\
             link set {DEVICE} up\n"
        ))?;
        Ok(device)
    }

    fn ip_batch(&self, commands: &str) -> io::Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(commands.as_bytes())?;
        }
        succeeded("ip -batch", child.wait()?)
    }

    /// Packets that the TUN device itself dropped because they came faster than they were
    /// read. They never reached the model.
    pub fn device_drops(&self) -> io::Result<u64> {
        let table = self.inside(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        // After the name: 8 receive counters, then transmitted bytes, packets, errors, drops.
        table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(DEVICE)?.strip_prefix(':'))
            .and_then(|counters| counters.split_whitespace().nth(11)?.parse().ok())
            .ok_or_else(|| io::Error::other("no counters of the TUN device"))
    }

    /// Whether a socket is bound to the UDP port.
    pub fn has_udp(&self, port: u16) -> io::Result<bool> {
        self.has_socket(["udp", "udp6"], port, None)
    }

    /// Whether a socket listens on the TCP port.
    pub fn has_tcp(&self, port: u16) -> io::Result<bool> {
        self.has_socket(["tcp", "tcp6"], port, Some("0A"))
    }

    fn has_socket(&self, tables: [&str; 2], port: u16, state: Option<&str>) -> io::Result<bool> {
        self.inside(|| {
            for table in tables {
                match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
                    Ok(text) => {
                        if lists_socket(&text, port, state) {
                            return Ok(true);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(false)
        })
    }
}

fn lists_socket(table: &str, port: u16, state: Option<&str>) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port))
            && state.is_none_or(|state| fields.nth(1) == Some(state))
    })
}

fn write_sysctl(key: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/{}", key.replace('.', "/")), value)
}

fn path_of(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

fn succeeded(what: &str, status: std::process::ExitStatus) -> io::Result<()> {
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{what}: {status}")))
    }
}

fn ip_netns(action: &str, name: &str) -> io::Result<()> {
    let status = Command::new("ip").args(["netns", action, name]).status()?;
    succeeded(&format!("ip netns {action} {name}"), status)
}

/// The processes whose network namespace is the named one.
fn inhabitants(namespace: &str) -> io::Result<Vec<i32>> {
    let wanted = fs::metadata(path_of(namespace))?;
    let own = std::process::id() as i32;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process can end while we look at it.
        let Ok(theirs) = fs::metadata(entry.path().join("ns/net")) else {
            continue;
        };
        if pid != own && (theirs.dev(), theirs.ino()) == (wanted.dev(), wanted.ino()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Ends the processes in a namespace, at first politely.
fn evict(namespace: &str) -> io::Result<()> {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        for pid in inhabitants(namespace)? {
            // It may have ended by itself.
            let _ = sys::kill(pid, signal);
        }
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if inhabitants(namespace)?.is_empty() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Err(io::Error::other(format!(
        "processes {:?} stay in namespace {namespace}",
        inhabitants(namespace)?
    )))
}

/// The pair of namespaces of a link, exclusively ours while this value lives.
pub struct NamespacePair {
    pub client: Namespace,
    pub server: Namespace,
    claim: Claim,
}

impl NamespacePair {
    /// Makes both namespaces with a TUN device in each; the devices are returned in the order
    /// client, server.
    pub fn create(
        claim: Claim,
        mtu: usize,
        sysctls: &[(String, String)],
    ) -> io::Result<(Self, [File; 2])> {
        let [client, server] = claim.names();
        // From here on the claim removes on drop whatever has been made.
        ip_netns("add", &client)?;
        ip_netns("add", &server)?;
        let pair = NamespacePair {
            client: Namespace::open(&client)?,
            server: Namespace::open(&server)?,
            claim,
        };
        let (a, b) = (CLIENT_ADDRESS, SERVER_ADDRESS);
        let devices = [
            pair.client.set_up(a, b, mtu, sysctls)?,
            pair.server.set_up(b, a, mtu, sysctls)?,
        ];
        Ok((pair, devices))
    }

    /// Removes both namespaces.
    pub fn remove(mut self) -> io::Result<()> {
        self.claim.release()
    }
}

/// The right to make and remove the namespaces of one link name: a lock that ends with the
/// process, on a file that says whether namespaces of ours may exist.
pub struct Claim {
    name: String,
    purpose: Purpose,
    file: File,
    released: bool,
}

impl Claim {
    /// Claims a link name and removes what a crashed owner left behind. `None` when another
    /// process holds it.
    pub fn take(name: &str, purpose: Purpose) -> io::Result<Option<Self>> {
        fs::create_dir_all(STATE)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(Path::new(STATE).join(name))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut mark = String::new();
        file.read_to_string(&mut mark)?;
        let mut claim = Claim {
            name: name.to_owned(),
            purpose,
            file,
            released: true,
        };
        match Purpose::from_mark(&mark) {
            Some(before) => {
                eprintln!("linklab: removing what an earlier session left behind");
                claim.purpose = before;
                claim.release()?;
                claim.purpose = purpose;
            }
            None => {
                if let Some(name) = claim.names().iter().find(|name| path_of(name).exists()) {
                    return Err(io::Error::other(format!(
                        "the network namespace {name} exists, and linklab did not make it"
                    )));
                }
            }
        }
        claim.write_mark(purpose.mark())?;
        claim.released = false;
        Ok(Some(claim))
    }

    fn names(&self) -> [String; 2] {
        [
            format!("{}client", self.name),
            format!("{}server", self.name),
        ]
    }

    fn write_mark(&mut self, mark: &str) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(mark.as_bytes())
    }

    /// Removes the namespaces, then says that there are none.
    pub fn release(&mut self) -> io::Result<()> {
        self.released = true;
        let mut result = Ok(());
        for name in self.names() {
            if !path_of(&name).exists() {
                continue;
            }
            let evicted = match self.purpose {
                Purpose::Run => evict(&name),
                Purpose::Up => inhabitants(&name).map(|pids| {
                    if !pids.is_empty() {
                        eprintln!("linklab: {name} is gone, but processes {pids:?} stay in it");
                    }
                }),
            };
            result = result.and(evicted).and(ip_netns("del", &name));
        }
        if result.is_ok() {
            self.write_mark("")?;
        }
        result
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.released
            && let Err(error) = self.release()
        {
            eprintln!("linklab: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lists_socket;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 01004D0A:1452 01014D0A:E7A8 01 00000000:00000000 00:00000000 00000000     0
";

    #[test]
    fn a_listening_socket_is_told_from_a_connected_one() {
        assert!(lists_socket(TCP, 0x1451, Some("0A")));
        assert!(!lists_socket(TCP, 0x1452, Some("0A")));
        assert!(lists_socket(TCP, 0x1452, None));
        assert!(!lists_socket(TCP, 0x1453, None));
    }
}
