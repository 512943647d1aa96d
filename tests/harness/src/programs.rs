//! The programs as separate processes that can be killed and traced.
//!
//! cargo tells only a package's own tests where its programs are. So they are looked for where
//! `cargo test --workspace` puts them: two directories above this test.

use std::io::{BufRead, BufReader, read_to_string};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use quire_certs::{Role, StateDir, load_or_create};
use quire_client::known_servers::ServerId;
use quire_client::trust::ServerVerifier;
use quire_client::{Client, ClientError};
use rustix::process::{Pid, Signal, kill_process};

use super::tree::scratch;
use super::{DEADLINE, skip, within};

/// Both programs, and a state directory that they share.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
    /// Keys and trust of both, and the directory that the client runs in.
    pub state: tempfile::TempDir,
}

impl Programs {
    /// Finds both, or reports that they are missing.
    pub fn find() -> Option<Self> {
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().unwrap().parent().unwrap().to_owned();
        let is_built = |name: &str| directory.join(name).is_file();
        if !is_built("quire") || !is_built("quire-server") {
            skip("the programs aren't built; `cargo test --workspace` builds them");
            return None;
        }
        let state = scratch();
        Some(Self { directory, state })
    }

    /// The state directory of both.
    pub fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// Starts a server of `root`, and returns when it listens.
    pub fn serve(&self, root: &Path) -> ServerProcess {
        self.serve_with(root, &[])
    }

    /// As [`serve`](Self::serve), on a port where another server was before.
    pub fn serve_at(&self, port: u16, root: &Path) -> ServerProcess {
        let command = Command::new(self.directory.join("quire-server"));
        self.start_with(command, root, Stdio::piped(), port)
    }

    /// As [`serve`](Self::serve), with more arguments.
    pub fn serve_with(&self, root: &Path, arguments: &[&str]) -> ServerProcess {
        let mut command = Command::new(self.directory.join("quire-server"));
        command.args(arguments);
        self.start(command, root)
    }

    /// As [`serve`](Self::serve), with more arguments, and with the log in the file `log`: a pipe that
    /// is never read would fill up and stop the server.
    pub fn serve_logged(&self, root: &Path, arguments: &[&str], log: &Path) -> ServerProcess {
        let mut command = Command::new(self.directory.join("quire-server"));
        command.args(arguments);
        let log = std::fs::File::create(log).unwrap();
        self.start_with(command, root, log.into(), 0)
    }

    /// Starts a server that leaves out `fault`, if it was built with faults.
    #[cfg(feature = "fault-injection")]
    pub fn serve_faulty(&self, root: &Path, fault: quire_server::files::Fault) -> ServerProcess {
        let mut command = Command::new(self.directory.join("quire-server"));
        command.env("QUIRE_FAULTS", format!("{fault:?}"));
        self.start(command, root)
    }

    /// Traces the calls that make changes durable to the file `trace`, if there is strace.
    pub fn serve_traced(&self, root: &Path, trace: &Path) -> Option<ServerProcess> {
        let is_there = Command::new("strace").arg("-V").output().is_ok();
        if !is_there {
            skip("there is no strace");
            return None;
        }
        let mut command = Command::new("strace");
        // With `-D`, strace is the grandchild, and the server is the child.
        command.args([
            "-D",
            "-f",
            "-qq",
            "-e",
            "trace=fsync,fdatasync,renameat2",
            "-o",
        ]);
        command.arg(trace).arg(self.directory.join("quire-server"));
        Some(self.start(command, root))
    }

    fn start(&self, command: Command, root: &Path) -> ServerProcess {
        self.start_with(command, root, Stdio::piped(), 0)
    }

    /// Starts a server on `port`, or on any that is free if that is zero.
    fn start_with(
        &self,
        mut command: Command,
        root: &Path,
        log: Stdio,
        port: u16,
    ) -> ServerProcess {
        let listen = format!("127.0.0.1:{port}");
        command.arg(root).args(["--listen", &listen, "--state-dir"]);
        command.arg(self.state_dir()).env_remove("RUST_LOG");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().unwrap();
        let (said, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().try_for_each(|line| said.send(line)));
        let line = || lines.recv_timeout(DEADLINE).expect("the server's start");
        let fingerprint = line().unwrap();
        assert!(fingerprint.starts_with("fingerprint "), "{fingerprint}");
        let listening = line().unwrap();
        let address = listening.strip_prefix("listening on ").expect(&listening);
        let (_, port) = address.rsplit_once(':').unwrap();
        ServerProcess {
            port: port.parse().unwrap(),
            child: Some(child),
        }
    }

    /// Starts the client without waiting for it.
    pub fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Runs the client to its end.
    pub fn quire(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the client with `stdout` as its standard output.
    pub fn quire_into(&self, arguments: &[&str], stdout: impl Into<Stdio>) -> Output {
        let mut command = self.command(arguments);
        command.stdout(stdout).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap()
    }

    /// Runs a shell script in which `quire` is the client and `$HOST` is `server`.
    pub fn shell(&self, server: &ServerProcess, script: &str) -> Output {
        let function = r#"quire() { "$QUIRE" "$@" --state-dir "$STATE"; }"#;
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{function}\n{script}")])
            .env("QUIRE", self.directory.join("quire"))
            .env("STATE", self.state_dir())
            .env("HOST", server.host());
        command
            .current_dir(self.state.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// A command that runs the client without input.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.join("quire"));
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state_dir());
        command
            .current_dir(self.state.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the client, which must exit with this status.
    #[track_caller]
    pub fn expect(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.quire(arguments);
        let (stdout, stderr) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert_eq!(
            output.status.code(),
            Some(status),
            "quire {arguments:?}\nstdout: {stdout}\nstderr: {stderr}"
        );
        stdout
    }

    /// Runs a transfer, and returns what `-v` says limited it: the limit, a colon, and figures.
    pub fn limit(&self, arguments: &[&str]) -> String {
        let ran = self.quire(&[arguments, &["--force", "-v"]].concat());
        let text = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{text}");
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix("limited by "));
        line.expect(&text).to_owned()
    }

    /// A connection with the owner's key.
    pub async fn client(&self, server: &ServerProcess) -> Client {
        self.try_client(server).await.unwrap()
    }

    /// A connection with the owner's key, or the error if the server is gone.
    pub async fn try_client(&self, server: &ServerProcess) -> Result<Client, ClientError> {
        let dir = StateDir::open(Some(&self.state_dir())).unwrap();
        let id = ServerId::new("127.0.0.1", server.port).unwrap();
        let identity = load_or_create(&dir, Role::Client).unwrap();
        let verifier = ServerVerifier::new(id.clone(), &dir).unwrap();
        Client::connect(&id, &identity, verifier).await
    }
}

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct ServerProcess {
    port: u16,
    child: Option<Child>,
}

impl ServerProcess {
    /// The host part of the client's operands.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The process ID.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// Waits until the process has ended by itself.
    #[cfg(feature = "fault-injection")]
    pub async fn gone(&mut self) {
        let child = self.child.as_mut().unwrap();
        while child.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Waits for the end; returns the exit status and the log.
    pub async fn end(mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let ending = tokio::task::spawn_blocking(move || {
            let status = child.wait().unwrap();
            let log = read_to_string(child.stderr.take().unwrap()).unwrap();
            (status.code(), log)
        });
        within("the end of the server", ending).await.unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
