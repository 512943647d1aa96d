//! Each system call of each change, killed in, or failing with each error that it may return.
//!
//! The calls are counted in a change that succeeds; then the change is repeated on a new directory once
//! for each of them. This needs strace, and a server that does all file work in one thread.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quire_client::ClientError;
use quire_shared::ErrorCode;

use crate::strace::{Strace, count};
use crate::workload::{Found, Plan};
use quire_test_harness::client::{stat, store};
use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::server::STAGING;
use quire_test_harness::{Tree, within};

/// System calls of file work, without those of the network and of threads.
const CALLS: &[&str] = &[
    "openat",
    "openat2",
    "statx",
    "newfstatat",
    "fstatfs",
    "faccessat2",
    "flock",
    "mkdirat",
    "renameat2",
    "unlinkat",
    "fadvise64",
    "fallocate",
    "write",
    "writev",
    "pwrite64",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fgetxattr",
    "utimensat",
    "fsync",
    "getdents64",
    "lseek",
    "ioctl",
];

/// Calls that may need space that isn't there.
const TAKE_SPACE: &[&str] = &[
    "openat",
    "mkdirat",
    "renameat2",
    "fallocate",
    "writev",
    "copy_file_range",
    "fsync",
];

/// Errors of a broken disk, and of a full or read-only one, with the calls that may return them.
/// Not `write`: the runtime wakes its threads by that, and contents are written by `writev`.
const ERRORS: &[(&str, &[&str])] = &[
    (
        "EIO",
        &[
            "openat",
            "openat2",
            "statx",
            "mkdirat",
            "renameat2",
            "unlinkat",
            "fallocate",
            "writev",
            "copy_file_range",
            "fchmod",
            "fgetxattr",
            "utimensat",
            "fsync",
            "getdents64",
        ],
    ),
    ("ENOSPC", TAKE_SPACE),
    ("EDQUOT", TAKE_SPACE),
    ("EMFILE", &["openat", "openat2"]),
    (
        "EROFS",
        &[
            "openat",
            "mkdirat",
            "renameat2",
            "unlinkat",
            "fchmod",
            "utimensat",
        ],
    ),
];

/// The fault in the n-th call of a name.
#[derive(Debug, Clone, Copy)]
enum CallFault {
    Kill,
    Error(&'static str),
}

/// One change, with one fault in it.
#[derive(Debug)]
struct Trial<'a> {
    programs: &'a Programs,
    plan: &'a Plan,
    call: &'a str,
    number: usize,
    fault: CallFault,
}

/// How a trial ended.
struct Ended {
    tree: Tree,
    server: ServerProcess,
    outcome: Result<(), ClientError>,
    took: Duration,
}

impl Trial<'_> {
    async fn run(&self) -> Option<Ended> {
        let tree = Tree::new();
        self.plan.lay_out(&tree.root());
        let mut server = self.programs.serve(&tree.root());
        let client = self.programs.client(&server).await;
        // The threads exist by then: strace may miss one that starts while it attaches.
        client.stat(stat("w0")).await.unwrap();
        let (call, number) = (self.call, self.number);
        let fault = match self.fault {
            CallFault::Kill => format!("inject={call}:signal=KILL:when={number}"),
            CallFault::Error(error) => format!("inject={call}:error={error}:when={number}"),
        };
        let options = [
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            fault,
        ];
        let output = self.programs.state.path().join("trace");
        let strace = Strace::attach(&server, &options, &output)?;
        let start = Instant::now();
        let outcome = tokio::select! {
            outcome = self.plan.carry_out(&client, |_| {}) => outcome,
            () = within("an answer", server.gone()) => Err(ClientError::Truncated),
        };
        let took = start.elapsed();
        drop(strace);
        Some(Ended {
            tree,
            server,
            outcome,
            took,
        })
    }

    /// Kills the server in the call; acknowledged changes must be there, and nothing torn.
    async fn kill(&self) -> Option<()> {
        let ended = self.run().await?;
        // Kills a server that survived because the call was not made this time.
        drop(ended.server);
        let mut found = Found::default();
        let acknowledged = u64::from(ended.outcome.is_ok());
        self.plan
            .check(&ended.tree.root(), acknowledged, &mut found);
        let outcome = &ended.outcome;
        assert!(found.is_nothing(), "{self:?}, {outcome:?}: {found:?}");
        let again = self.programs.serve(&ended.tree.root());
        assert!(!ended.tree.has(STAGING), "{self:?} left something");
        drop(again);
        Some(())
    }

    /// Lets the call fail; returns how long the answer took.
    async fn fail(&self) -> Option<Duration> {
        let ended = self.run().await?;
        let client = self.programs.client(&ended.server).await;
        let next = store(&client, "s/next", b"small").await;
        let mut found = Found::default();
        match &ended.outcome {
            Ok(()) => self.plan.check(&ended.tree.root(), 1, &mut found),
            // Visible but perhaps not durable: the server must refuse all further changes.
            Err(_) if code(&next) == Some(ErrorCode::READ_ONLY) => {
                let is_late = matches!(self.call, "fsync" | "statx" | "fchmod");
                assert!(is_late, "{self:?} made the server read-only");
                self.plan.check(&ended.tree.root(), 0, &mut found);
            }
            // Of many changes, those before the failure have happened.
            Err(_) if self.plan.is_many_changes() => {
                self.plan.check(&ended.tree.root(), 0, &mut found);
            }
            Err(error) => {
                assert!(error.code().is_some(), "{self:?}: {error}");
                self.plan.check_untouched(&ended.tree.root(), &mut found);
            }
        }
        let outcome = &ended.outcome;
        assert!(found.is_nothing(), "{self:?}, {outcome:?}: {found:?}");
        let is_over = code(&next) == Some(ErrorCode::READ_ONLY);
        if !is_over {
            next.unwrap_or_else(|error| panic!("{self:?}: the next put: {error}"));
        }
        // Files that couldn't be removed wait for the next start, and so does a deleted directory whose
        // deletion may not be durable, or whose content could not be removed after the answer.
        let is_removed_later = ended.outcome.is_ok() && self.plan.deletes_a_directory();
        if !is_over && !is_removed_later && self.call != "unlinkat" && ended.tree.has(STAGING) {
            let left = ended.tree.names(STAGING);
            assert!(left.is_empty(), "{self:?} left {left:?}");
        }
        client.close().await;
        Some(ended.took)
    }
}

fn code<T>(result: &Result<T, ClientError>) -> Option<ErrorCode> {
    result.as_ref().err().and_then(ClientError::code)
}

/// How often a successful change makes each call.
async fn calls(programs: &Programs, plan: &Plan) -> Option<Vec<(&'static str, usize)>> {
    let tree = Tree::new();
    plan.lay_out(&tree.root());
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    client.stat(stat("w0")).await.unwrap();
    let options = ["-e".to_owned(), format!("trace={}", CALLS.join(","))];
    let output = programs.state.path().join("trace");
    let strace = Strace::attach(&server, &options, &output)?;
    plan.carry_out(&client, |_| {}).await.unwrap();
    let counts = count(&strace.detach());
    client.close().await;
    let counted = CALLS
        .iter()
        .filter_map(|call| Some((*call, *counts.get(*call)?)));
    Some(counted.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_any_call_of_any_change_has_lost_nothing() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let mut trials = 0;
    for plan in &Plan::of_each_kind() {
        let Some(calls) = calls(&programs, plan).await else {
            return;
        };
        for (call, count) in calls {
            for number in 1..=count {
                let fault = CallFault::Kill;
                let trial = Trial {
                    programs: &programs,
                    plan,
                    call,
                    number,
                    fault,
                };
                if trial.kill().await.is_none() {
                    return;
                }
                trials += 1;
            }
        }
    }
    report(&format!("{trials} kills, one in each call"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_fails_the_change_and_leaves_the_old_content() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let (mut trials, mut slowest) = (0, Duration::ZERO);
    for plan in &Plan::of_each_kind() {
        let Some(calls) = calls(&programs, plan).await else {
            return;
        };
        for (error, may_have) in ERRORS {
            let may_have = BTreeSet::from_iter(*may_have);
            for (call, count) in calls.iter().filter(|(call, _)| may_have.contains(call)) {
                for number in 1..=*count {
                    let fault = CallFault::Error(error);
                    let trial = Trial {
                        programs: &programs,
                        plan,
                        call,
                        number,
                        fault,
                    };
                    let Some(took) = trial.fail().await else {
                        return;
                    };
                    trials += 1;
                    slowest = slowest.max(took);
                }
            }
        }
    }
    report(&format!(
        "{trials} calls failed; the slowest answer took {slowest:?}"
    ));
}

#[expect(clippy::print_stderr, reason = "these runs are read by people")]
fn report(text: &str) {
    eprintln!("{text}");
}
