//! A server with default settings, an attack on it, and an honest client that uses it meanwhile.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use quire_client::Client;
use rustix::process::Pid;
use serde_json::Value;

use super::client::fetch;
use super::programs::{Programs, ServerProcess};
use super::python::Python;
use super::tree::Tree;
use super::{KIB, content, within};

/// A server with default settings, in a process of its own.
#[derive(Debug)]
pub struct Arena {
    programs: Programs,
    server: ServerProcess,
    python: Python,
    tree: Tree,
}

/// The parameters of an attack, as its script receives them.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// The script.
    pub script: &'static str,
    /// Which of its attacks, if it has several.
    pub which: &'static str,
    /// Duration in seconds.
    pub seconds: u32,
    /// Rate per second of whatever the script counts.
    pub rate: u32,
    /// Number of clients that the script plays.
    pub clients: u32,
    /// Whether the attacker has the key of a client with all rights.
    pub is_authorized: bool,
    /// Whether the attack goes to another server on the same machine. The honest client then sees only
    /// the effect of the processor time that the attack takes.
    pub is_elsewhere: bool,
}

impl Attack {
    /// An attack at full strength by one authorized client.
    pub const fn new(script: &'static str, which: &'static str, seconds: u32) -> Self {
        Self {
            script,
            which,
            seconds,
            rate: 10_000,
            clients: 1,
            is_authorized: true,
            is_elsewhere: false,
        }
    }

    /// The same attack on another server.
    pub fn elsewhere(self) -> Self {
        Self {
            is_elsewhere: true,
            ..self
        }
    }
}

/// The result of an attack.
#[derive(Debug)]
pub struct AttackReport {
    attack: Attack,
    /// The last line of the script's output.
    pub said: Value,
    idle: Served,
    /// What the honest client measured during the attack.
    pub meanwhile: Served,
    memory_before: u64,
    /// Peak memory of the server, in bytes.
    pub memory_peak: u64,
}

/// Times that the honest client measured.
#[derive(Debug, Default)]
pub struct Served {
    gets: Vec<Duration>,
    connects: Vec<Duration>,
}

impl Arena {
    /// Starts a server, or reports what is missing.
    pub fn open(arguments: &[&str]) -> Option<Self> {
        let (programs, python) = (Programs::find()?, Python::find()?);
        let tree = Tree::new()
            .file("small", content(1, 4 * KIB))
            .file("big", []);
        // Larger than the cache, and sparse on the disk.
        let big = fs::File::options().write(true).open(tree.path("big"));
        big.unwrap().set_len(BIG_BYTES).unwrap();
        let log = tree.outside().join("log");
        let server = programs.serve_logged(&tree.root(), arguments, &log);
        Some(Self {
            programs,
            server,
            python,
            tree,
        })
    }

    /// A client with all rights.
    pub async fn client(&self) -> Client {
        within("a connection", self.programs.client(&self.server)).await
    }

    /// Current and peak memory of the server, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        (
            status(self.server.pid(), "VmRSS"),
            status(self.server.pid(), "VmHWM"),
        )
    }

    /// The last lines of the server's log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.tree.outside().join("log")).unwrap();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Runs an attack to its end while an honest client uses the server.
    pub async fn run(&self, attack: Attack) -> AttackReport {
        let client = self.client().await;
        let idle = self.serve(&client, IDLE_GETS, std::future::pending()).await;
        let (memory_before, _) = self.memory();
        let other = attack.is_elsewhere.then(|| self.other());
        let target = other.as_ref().map_or(&self.server, |(server, _)| server);
        let mut command = self.python.script(attack.script);
        command
            .arg(target.port().to_string())
            .args(["--seconds", &attack.seconds.to_string()])
            .args(["--rate", &attack.rate.to_string()])
            .args(["--clients", &attack.clients.to_string()])
            .env("WHICH", attack.which);
        if attack.is_authorized {
            let identity = self.programs.state_dir().join("client.pem");
            command.arg("--identity").arg(identity);
        }
        let running = tokio::task::spawn_blocking(move || command.output().unwrap());
        let mut output = None;
        let meanwhile = self
            .serve(&client, usize::MAX, async {
                output = Some(running.await.unwrap());
            })
            .await;
        let output = output.expect("the service ended with the attack");
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text.lines().last().map(serde_json::from_str);
        let Some(Ok(said)) = said else {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("{attack:?} failed\n{text}{errors}\n{}", self.log());
        };
        within("a close", client.close()).await;
        AttackReport {
            attack,
            said,
            idle,
            meanwhile,
            memory_before,
            memory_peak: self.memory().1,
        }
    }

    /// Another server, with files of its own.
    fn other(&self) -> (ServerProcess, Tree) {
        let tree = Tree::new();
        let log = tree.outside().join("log");
        (self.programs.serve_logged(&tree.root(), &[], &log), tree)
    }

    /// Fetches a file repeatedly as an honest client, and reconnects now and then.
    async fn serve(&self, client: &Client, gets: usize, end: impl Future<Output = ()>) -> Served {
        let mut served = Served::default();
        let work = async {
            while served.gets.len() < gets {
                let start = Instant::now();
                let bytes = within("a get", fetch(client, "small")).await.unwrap();
                served.gets.push(start.elapsed());
                assert_eq!(bytes.len(), 4 * KIB);
                if served.gets.len() % GETS_PER_CONNECT == 0 {
                    let start = Instant::now();
                    let other = self.client().await;
                    served.connects.push(start.elapsed());
                    within("a get", fetch(&other, "small")).await.unwrap();
                    within("a close", other.close()).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = end => {}
        }
        served
    }
}

/// A field of `/proc/PID/status`: in bytes if it is in kB there, else as it is.
pub fn status(pid: Pid, name: &str) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let mut words = line.split_whitespace().skip(1);
    let number: u64 = words.next().unwrap().parse().unwrap();
    number * if words.next() == Some("kB") { 1024 } else { 1 }
}

impl AttackReport {
    /// Prints the result, and checks that memory stayed below its limit.
    #[track_caller]
    pub fn check(self) -> Value {
        say(&self.to_string());
        assert!(self.memory_peak <= MEMORY_MAX, "{self}");
        self.said
    }
}

/// Prints a figure for a run by hand.
#[expect(clippy::print_stderr, reason = "figures are what such a run is for")]
pub fn say(figure: &str) {
    eprintln!("{figure}");
}

impl fmt::Display for AttackReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attack {
            script,
            which,
            seconds,
            is_elsewhere,
            ..
        } = self.attack;
        let place = if is_elsewhere { " elsewhere" } else { "" };
        let mebibytes = |bytes: u64| bytes / 1024 / 1024;
        write!(
            f,
            "{script} {which} {seconds} s{place}: {} | idle: {} | meanwhile: {} | memory {} MiB, peak {}",
            self.said,
            self.idle,
            self.meanwhile,
            mebibytes(self.memory_before),
            mebibytes(self.memory_peak),
        )
    }
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |times: &[Duration], share: usize| {
            let mut times = times.to_vec();
            times.sort_unstable();
            let index = (times.len() * share / 100).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or_default()
        };
        write!(
            f,
            "{} gets p50 {:.1?} p99 {:.1?}, {} connects p50 {:.1?} worst {:.1?}",
            self.gets.len(),
            at(&self.gets, 50),
            at(&self.gets, 99),
            self.connects.len(),
            at(&self.connects, 50),
            at(&self.connects, 100),
        )
    }
}

/// Memory limit of the server under any attack.
pub const MEMORY_MAX: u64 = 512 * 1024 * 1024;

/// Log lines that a failure shows.
const LOG_LINES: usize = 20;

/// Larger than any window and any cache.
const BIG_BYTES: u64 = 1024 * 1024 * 1024;

/// Gets before an attack, for comparison.
const IDLE_GETS: usize = 200;

/// Gets between two reconnects.
const GETS_PER_CONNECT: usize = 20;

/// Pause between two gets, so that the honest client isn't a flood itself.
const PAUSE: Duration = Duration::from_millis(5);
