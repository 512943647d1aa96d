//! The order of sync calls: what is durable when a change is acknowledged.
//!
//! Journaling file systems make more durable than a sync asks for, so power cuts on them can't show that
//! each sync is needed. POSIX promises less: a file is durable once it was synced, a name once its
//! directory was. This test reads a server's calls in order and checks them against that: no file gets
//! its name before it is durable, and after each acknowledgement no directory has a change that isn't.

use std::collections::BTreeSet;
use std::path::Path;

use crate::strace::{Call, Strace};
use crate::workload::Plan;
use quire_test_harness::Tree;
use quire_test_harness::client::stat;
use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::server::STAGING;

/// Calls that change something or make it durable, and the one that a `stat` makes.
const CALLS: &str = "trace=openat,write,writev,pwrite64,pwritev,copy_file_range,ftruncate,\
                     fallocate,fchmod,fchown,fsetxattr,utimensat,mkdirat,renameat,renameat2,linkat,unlinkat,fsync,\
                     fdatasync,syncfs,statx,newfstatat";

/// Changes that aren't durable yet, by path.
#[derive(Debug, Default)]
struct PendingChanges {
    /// Files and directories with changed content or permissions; directories with changed names.
    paths: BTreeSet<String>,
    faults: Vec<String>,
}

impl PendingChanges {
    fn follow(&mut self, call: &Call, staging: &str) {
        if !call.succeeded() {
            return;
        }
        let named = match call.name.as_str() {
            // The rest is written data, which may look like anything.
            "write" | "writev" | "pwrite64" | "pwritev" => call.rest.split(", ").next(),
            _ => Some(call.rest.as_str()),
        };
        let places = places(named.unwrap_or_default());
        match (call.name.as_str(), &places[..]) {
            ("fsync" | "fdatasync", [path]) => {
                self.paths.remove(path);
            }
            ("openat", [path]) if call.rest.contains("O_CREAT") => {
                self.change_names_around(path, staging);
                self.paths.insert(path.clone());
            }
            // Sockets and events have no path.
            (
                "write" | "writev" | "pwrite64" | "pwritev" | "ftruncate" | "fallocate" | "fchmod"
                | "fchown" | "fsetxattr" | "utimensat",
                [path],
            ) if path.starts_with('/') => {
                self.paths.insert(path.clone());
            }
            ("copy_file_range", [_, path]) => {
                self.paths.insert(path.clone());
            }
            ("mkdirat", [path]) => self.change_names_around(path, staging),
            ("unlinkat", [path]) => {
                self.paths.remove(path);
                self.change_names_around(path, staging);
            }
            ("renameat" | "renameat2", [from, to]) => {
                let below = format!("{from}/");
                let is_moved = |path: &&String| *path == from || path.starts_with(&below);
                for path in self.paths.iter().filter(is_moved) {
                    self.faults
                        .push(format!("{path} became {to} before it was durable"));
                }
                self.paths
                    .retain(|path| path != from && !path.starts_with(&below));
                self.change_names_around(from, staging);
                self.change_names_around(to, staging);
            }
            _ => {}
        }
    }

    /// Records that names in the parent of `path` change. The staging directory and its names don't
    /// matter, because no client knows of them.
    fn change_names_around(&mut self, path: &str, staging: &str) {
        let (directory, _) = path.rsplit_once('/').unwrap_or_default();
        if directory != staging && path != staging {
            self.paths.insert(directory.to_owned());
        }
    }

    /// The client has received success now.
    fn acknowledged(&mut self, what: &Plan, staging: &str) {
        let below = format!("{staging}/");
        let visible = self.paths.iter().filter(|path| !path.starts_with(&below));
        for path in visible {
            self.faults
                .push(format!("{path} was not durable after {what:?}"));
        }
        self.paths.clear();
    }
}

/// The paths of a call: that of a file handle, or of a handle and a name together.
fn places(rest: &str) -> Vec<String> {
    let mut places: Vec<String> = Vec::new();
    let arguments = rest
        .rsplit_once(") = ")
        .map_or(rest, |(arguments, _)| arguments);
    for argument in arguments.split(", ") {
        if let Some(name) = argument.strip_prefix('"') {
            let name = name.trim_end_matches("...").trim_end_matches('"');
            if let Some(directory) = places.last_mut() {
                directory.push_str(&format!("/{name}"));
            }
        } else if let Some((_, path)) = argument.split_once('<') {
            places.push(path.trim_end_matches('>').to_owned());
        }
    }
    places
}

/// Carries out each kind of change; returns what the server did in the wrong order. `None` where the
/// calls can't be traced.
async fn faults(
    programs: &Programs,
    serve: impl Fn(&Path) -> ServerProcess,
) -> Option<Vec<String>> {
    let mut faults = Vec::new();
    for plan in Plan::of_each_kind() {
        let tree = Tree::new();
        plan.lay_out(&tree.root());
        let server = serve(&tree.root());
        let client = programs.client(&server).await;
        // The threads exist by then: strace may miss one that starts while it attaches.
        client.stat(stat("w0")).await.unwrap();
        let output = programs.state.path().join("trace");
        let options = [
            "-e".to_owned(),
            CALLS.to_owned(),
            "-s".into(),
            "4096".into(),
        ];
        let strace = Strace::attach(&server, &options, &output)?;
        plan.carry_out(&client, |_| {}).await.unwrap();
        // Marks this point among the calls, after all that came before the answer.
        client.stat(stat(AFTERWARDS)).await.unwrap_err();
        let calls = strace.detach();
        client.close().await;
        let end = calls.iter().position(|call| call.rest.contains(AFTERWARDS));
        let staging = tree.path(STAGING).display().to_string();
        let mut unsynced = PendingChanges::default();
        for call in &calls[..end.expect("the calls of the server are traced")] {
            unsynced.follow(call, &staging);
        }
        unsynced.acknowledged(&plan, &staging);
        faults.append(&mut unsynced.faults);
    }
    Some(faults)
}

#[tokio::test]
async fn what_is_acknowledged_was_made_durable_call_by_call() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let Some(faults) = faults(&programs, |root| programs.serve(root)).await else {
        return;
    };
    assert!(faults.is_empty(), "{faults:#?}");
}

#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn each_sync_that_is_left_out_is_found_out() {
    use quire_server::files::Fault;
    let Some(programs) = Programs::find() else {
        return;
    };
    let syncs = Fault::ALL.iter().filter(|fault| **fault != Fault::Locks);
    let mut unnoticed = Vec::new();
    for fault in syncs {
        let found = faults(&programs, |root| programs.serve_faulty(root, *fault)).await;
        let Some(found) = found else { return };
        if found.is_empty() {
            unnoticed.push(fault);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?}");
}

/// A name that the client stats after each success.
const AFTERWARDS: &str = "afterwards";
