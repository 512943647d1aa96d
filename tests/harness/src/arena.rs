//! A server as its users run it, an attack on it, and somebody who wants to be served meanwhile.

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

/// What an attack is, as its script is told.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// The script.
    pub script: &'static str,
    /// Which of its attacks, if it has several.
    pub which: &'static str,
    /// How long it goes on, in seconds.
    pub seconds: u32,
    /// How much of what it counts it does in a second.
    pub rate: u32,
    /// How many clients it plays.
    pub clients: u32,
    /// Whether it has the key of a client that may do all.
    pub is_authorized: bool,
    /// Whether it goes at another server on the same machine: what the good client sees then is what
    /// attackers do to it by their use of the processors.
    pub is_elsewhere: bool,
}

impl Attack {
    /// An attack of one authorized client with as much as it can.
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

/// What came of an attack.
#[derive(Debug)]
pub struct AttackReport {
    attack: Attack,
    /// What the script says.
    pub said: Value,
    idle: Served,
    /// What the good client saw while it went on.
    pub meanwhile: Served,
    memory_before: u64,
    /// The most memory that the server has had, in bytes.
    pub memory_peak: u64,
}

/// How long a good client waited.
#[derive(Debug, Default)]
pub struct Served {
    gets: Vec<Duration>,
    connects: Vec<Duration>,
}

impl Arena {
    /// Starts a server, or says what is missing.
    pub fn open(arguments: &[&str]) -> Option<Self> {
        let (programs, python) = (Programs::find()?, Python::find()?);
        let tree = Tree::new()
            .file("small", content(1, 4 * KIB))
            .file("big", []);
        // More than the cache holds, and nothing on the disk.
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

    /// Its client, which may do all.
    pub async fn client(&self) -> Client {
        within("a connection", self.programs.client(&self.server)).await
    }

    /// The memory that the server has now, and the most that it has had, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        (
            status(self.server.pid(), "VmRSS"),
            status(self.server.pid(), "VmHWM"),
        )
    }

    /// The last lines that the server has logged.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.tree.outside().join("log")).unwrap();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Lets an attack run its course, while a good client goes on with its work.
    pub async fn bear(&self, attack: Attack) -> AttackReport {
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

    /// Has a good client fetch a file again and again, and connect anew now and then.
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

/// A figure in the kernel's account of a process, in bytes, or as it is if that isn't its unit.
pub fn status(pid: Pid, name: &str) -> u64 {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let mut words = line.split_whitespace().skip(1);
    let number: u64 = words.next().unwrap().parse().unwrap();
    number * if words.next() == Some("kB") { 1024 } else { 1 }
}

impl AttackReport {
    /// Says what came of it, and that nobody was kept waiting for good nor all memory used.
    #[track_caller]
    pub fn check(self) -> Value {
        say(&self.to_string());
        assert!(self.memory_peak <= MEMORY_MAX, "{self}");
        self.said
    }
}

/// Says a figure, for those who run the test by hand.
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

/// What the server may have of memory under any attack.
pub const MEMORY_MAX: u64 = 512 * 1024 * 1024;

/// Lines of the log that a failure shows.
const LOG_LINES: usize = 20;

/// A file that no window and no cache holds.
const BIG_BYTES: u64 = 1024 * 1024 * 1024;

/// Gets that show how long one takes without an attack.
const IDLE_GETS: usize = 200;

/// A connection is made after so many gets.
const GETS_PER_CONNECT: usize = 20;

/// Between two gets, so that a good client isn't a flood itself.
const PAUSE: Duration = Duration::from_millis(5);
