//! strace on a running server: it records system calls, and injects faults into them.
//!
//! It attaches after the start, so that its counts begin with the requests of the test. strace counts
//! the calls of each thread separately; a server built with `fault-injection` does all file work in one
//! thread.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use quire_test_harness::programs::ServerProcess;
use quire_test_harness::skip;

/// strace attached to a server; it detaches when dropped.
#[derive(Debug)]
pub(crate) struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// Attaches to `server` with these options and writes to `output`, or reports why it can't.
    pub(crate) fn attach(
        server: &ServerProcess,
        options: &[String],
        output: &Path,
    ) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-s", "0", "-o"]).arg(output);
        command.args(options);
        command.args(["-p", &server.pid().as_raw_pid().to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                skip(&format!("strace: {error}"));
                return None;
            }
        };
        let mut said = String::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        lines.read_line(&mut said).unwrap();
        // Kept open, because strace continues to print.
        child.stderr = Some(lines.into_inner());
        if !said.contains("attached") {
            child.wait().unwrap();
            skip(&format!("strace can't attach here: {}", said.trim()));
            return None;
        }
        Some(Self {
            child,
            output: output.to_owned(),
        })
    }

    /// Detaches; returns the calls in order.
    pub(crate) fn detach(mut self) -> Vec<Call> {
        self.let_go();
        let text = std::fs::read_to_string(&self.output).unwrap();
        calls(&text)
    }

    fn let_go(&mut self) {
        let strace = Pid::from_child(&self.child);
        // Fails if the server's end was its own.
        let _ = kill_process(strace, Signal::INT);
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                self.child.wait().unwrap();
                let _ = ended.send(());
            });
            if end.recv_timeout(PATIENCE).is_err() {
                // Interrupted while a server's threads end, strace can wait forever for the first
                // of them, which ends only after strace has taken note of all others.
                let _ = kill_process(strace, Signal::KILL);
            }
        });
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.let_go();
        }
    }
}

/// How long strace may take to detach.
const PATIENCE: Duration = Duration::from_secs(10);

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// The thread.
    pub(crate) thread: String,
    /// The call's name.
    pub(crate) name: String,
    /// Its arguments, file handles with their paths, and its result.
    pub(crate) rest: String,
}

impl Call {
    /// Whether it succeeded.
    pub(crate) fn succeeded(&self) -> bool {
        !self.rest.contains(") = -1 ") && !self.rest.ends_with(") = ?")
    }
}

/// How often each call was made by a thread, as the maximum over all threads.
pub(crate) fn count(calls: &[Call]) -> BTreeMap<String, usize> {
    let mut of_threads: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for call in calls {
        *of_threads.entry((&call.name, &call.thread)).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((name, _), count) in of_threads {
        let so_far: &mut usize = most.entry(name.to_owned()).or_default();
        *so_far = count.max(*so_far);
    }
    most
}

/// The calls in strace's output. A call that another thread interrupted is in two lines there; it
/// counts where its second line is.
fn calls(text: &str) -> Vec<Call> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(beginning) = rest.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, beginning);
            continue;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let beginning = begun.remove(thread).unwrap_or_default();
                let end = resumed.split_once(" resumed>").map_or("", |(_, end)| end);
                format!("{beginning}{end}")
            }
            None => rest.to_owned(),
        };
        // The result is in a column of its own where the line is short.
        if let Some((name, rest)) = whole.split_once('(')
            && let Some((arguments, result)) = rest.rsplit_once(" = ")
        {
            calls.push(Call {
                thread: thread.to_owned(),
                name: name.to_owned(),
                rest: format!("{} = {result}", arguments.trim_end()),
            });
        }
    }
    calls
}

#[test]
fn calls_in_two_pieces_are_put_together() {
    let text = "7 fsync(3</a>) = 0\n8 fsync(4</b> <unfinished ...>\n7 close(3) = 0\n\
                8 <... fsync resumed>)       = -1 EIO (injected)\n9 +++ killed by SIGKILL +++\n";
    let calls = calls(text);
    let names: Vec<_> = calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, ["fsync", "close", "fsync"]);
    assert_eq!(calls[2].rest, "4</b>) = -1 EIO (injected)");
    assert!(calls[0].succeeded() && !calls[2].succeeded());
    assert_eq!(count(&calls)["fsync"], 1);
}
