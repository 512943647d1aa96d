//! The sequential model of a server with a few names, and the checker of histories.
//!
//! The checker is stateright's `LinearizabilityTester`. It tries orders one by one and remembers none,
//! which takes forever where no order is right. So the model remembers which sets of steps were tried in
//! which state, and refuses to enter one twice.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// Events in the order of time.
pub(super) type History = Vec<Recorded>;

/// A name.
pub(super) type NameIndex = usize;

/// The number of a version.
type VersionNumber = usize;

/// A request, or the answer to it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Recorded {
    Asked(usize, Asked),
    Heard(usize, Heard),
}

impl Recorded {
    fn client(self) -> usize {
        let (Self::Asked(client, _) | Self::Heard(client, _)) = self;
        client
    }
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    Get(NameIndex),
    Put(NameIndex, u64, Condition),
    Rename(NameIndex, NameIndex, Condition),
    Delete(NameIndex),
}

/// A precondition on the name that is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Condition {
    Any,
    Absent,
    Match(VersionNumber),
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Content(u64, VersionNumber),
    Changed(VersionNumber),
    Deleted,
    NotFound,
    Exists,
    Conflict,
    /// An answer that is never right.
    Other,
}

/// A step, distinguished from all others by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Invocation {
    number: usize,
    kind: Asked,
}

/// A file: its content, and its version unless no client has received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ModelFile {
    seed: u64,
    version: Option<VersionNumber>,
}

/// Which steps were done, and the state of the names then.
type ExploredState = ([u128; 4], [Option<ModelFile>; NAMES]);

/// The names, and what the checker has tried.
#[derive(Debug, Clone)]
struct ModelServer {
    names: [Option<ModelFile>; NAMES],
    done: [u128; 4],
    /// The versions that files have or had: each is of one state of one file. Follows from `done`.
    versions: [u128; 4],
    tried: Rc<RefCell<HashSet<ExploredState>>>,
    /// Whether an earlier attempt came this far and failed.
    is_hopeless: bool,
}

impl ModelServer {
    fn new() -> Self {
        Self {
            names: [None; NAMES],
            done: [0; 4],
            versions: [0; 4],
            tried: Rc::default(),
            is_hopeless: false,
        }
    }

    /// Marks a step as done; returns whether this state is new.
    fn advance(&mut self, op: &Invocation) -> bool {
        self.done[op.number / 128] |= 1 << (op.number % 128);
        let is_new = self.tried.borrow_mut().insert((self.done, self.names));
        self.is_hopeless |= !is_new;
        !self.is_hopeless
    }

    /// Marks a version as given to a file; returns whether it was unused.
    fn give(&mut self, version: VersionNumber) -> bool {
        let (word, bit) = (version / 128, 1 << (version % 128));
        let is_new = self.versions[word] & bit == 0;
        self.versions[word] |= bit;
        is_new
    }

    /// Whether `condition` can hold of `name`.
    fn may_hold(&self, name: NameIndex, condition: Condition) -> bool {
        match (condition, self.names[name]) {
            (Condition::Any, _) | (Condition::Absent, None) => true,
            (Condition::Absent, Some(_)) | (Condition::Match(_), None) => false,
            (Condition::Match(wanted), Some(file)) => {
                file.version.is_none_or(|version| version == wanted)
            }
        }
    }

    /// Whether `condition` can fail to hold of `name`, with this outcome.
    fn may_fail(&self, name: NameIndex, condition: Condition, outcome: Heard) -> bool {
        match (condition, self.names[name]) {
            (Condition::Absent, Some(_)) => outcome == Heard::Exists,
            (Condition::Match(_), None) => outcome == Heard::Conflict,
            (Condition::Match(wanted), Some(file)) => {
                outcome == Heard::Conflict && file.version != Some(wanted)
            }
            _ => false,
        }
    }

    /// Carries out a step with a known outcome, if that outcome is possible.
    fn step(&mut self, kind: Asked, outcome: Heard) -> bool {
        match (kind, outcome) {
            (Asked::Get(name) | Asked::Delete(name) | Asked::Rename(name, ..), Heard::NotFound) => {
                self.names[name].is_none()
            }
            (Asked::Get(name), Heard::Content(seed, version)) => {
                let Some(file) = self.names[name].filter(|file| file.seed == seed) else {
                    return false;
                };
                let known = Some(version);
                self.names[name] = Some(ModelFile {
                    version: known,
                    ..file
                });
                file.version == known || file.version.is_none() && self.give(version)
            }
            (Asked::Put(name, seed, condition), Heard::Changed(version)) => {
                let can = self.may_hold(name, condition) && self.give(version);
                let version = Some(version);
                self.names[name] = Some(ModelFile { seed, version });
                can
            }
            (Asked::Rename(from, to, condition), Heard::Changed(version)) => {
                let can = self.may_hold(to, condition) && self.give(version);
                let Some(file) = self.names[from].take() else {
                    return false;
                };
                let version = Some(version);
                self.names[to] = Some(ModelFile { version, ..file });
                can
            }
            (Asked::Delete(name), Heard::Deleted) => self.names[name].take().is_some(),
            (Asked::Put(name, _, condition), outcome) => self.may_fail(name, condition, outcome),
            (Asked::Rename(from, to, condition), outcome) => {
                self.names[from].is_some() && self.may_fail(to, condition, outcome)
            }
            _ => false,
        }
    }
}

impl SequentialSpec for ModelServer {
    type Op = Invocation;
    type Ret = Heard;

    /// A step with an unknown outcome. Versions that no client received are unknown.
    fn invoke(&mut self, op: &Invocation) -> Heard {
        let before = self.names;
        match op.kind {
            Asked::Put(name, seed, condition) if self.may_hold(name, condition) => {
                let version = None;
                self.names[name] = Some(ModelFile { seed, version });
            }
            Asked::Rename(from, to, condition) if self.may_hold(to, condition) => {
                if let Some(file) = self.names[from].take() {
                    let version = None;
                    self.names[to] = Some(ModelFile { version, ..file });
                }
            }
            Asked::Delete(name) => self.names[name] = None,
            Asked::Get(_) | Asked::Put(..) | Asked::Rename(..) => {}
        }
        // Without an effect it need not have happened.
        self.is_hopeless |= self.names == before;
        self.advance(op);
        Heard::Other
    }

    fn is_valid_step(&mut self, op: &Invocation, outcome: &Heard) -> bool {
        !self.is_hopeless && self.step(op.kind, *outcome) && self.advance(op)
    }
}

/// Whether an order of single steps explains the history.
pub(super) fn is_linearizable(history: &[Recorded]) -> bool {
    // Steps that were cut off need not have happened. Nearly always it is enough to assume those puts
    // whose content was read, which leaves far fewer orders to try.
    let is_seen = |put| {
        let mut heard = history.iter();
        heard.any(
            |event| matches!(event, Recorded::Heard(_, Heard::Content(seed, _)) if *seed == put),
        )
    };
    let was_seen = |kind| matches!(kind, Asked::Put(_, seed, _) if is_seen(seed));
    explains(history, was_seen) || explains(history, |_| true)
}

/// Whether an order explains the history if, of the steps that were cut off, at most those happened
/// that `may_happen` accepts.
fn explains(history: &[Recorded], may_happen: impl Fn(Asked) -> bool) -> bool {
    let is_heard = |client, later: &[Recorded]| {
        let mut of_client = later.iter().filter(|event| event.client() == client);
        of_client.next().is_some()
    };
    let mut judge = LinearizabilityTester::new(ModelServer::new());
    for (number, event) in history.iter().enumerate() {
        match *event {
            // The checker tries clients in the order of their numbers. Steps that may not have happened
            // come last, as another client's, because they would be tried everywhere first otherwise.
            Recorded::Asked(client, kind) if !is_heard(client, &history[number + 1..]) => {
                if may_happen(kind) {
                    judge
                        .on_invoke(usize::MAX - client, Invocation { number, kind })
                        .unwrap();
                }
            }
            Recorded::Asked(client, kind) => {
                judge
                    .on_invoke(client, Invocation { number, kind })
                    .unwrap();
            }
            Recorded::Heard(client, outcome) => {
                judge.on_return(client, outcome).unwrap();
            }
        }
    }
    judge.is_consistent()
}

#[test]
fn the_judge_knows_right_from_wrong() {
    let put = |name, seed, condition| Asked::Put(name, seed, condition);
    let first = [
        Recorded::Asked(0, put(0, 7, Condition::Absent)),
        Recorded::Asked(1, Asked::Get(0)),
        Recorded::Heard(0, Heard::Changed(0)),
    ];
    let with = |rest: &[Recorded]| is_linearizable(&[&first[..], rest].concat());
    // At the same time: before or after.
    assert!(with(&[Recorded::Heard(1, Heard::NotFound)]));
    assert!(with(&[Recorded::Heard(1, Heard::Content(7, 0))]));
    assert!(!with(&[Recorded::Heard(1, Heard::Content(8, 0))]));
    assert!(!with(&[Recorded::Heard(1, Heard::Content(7, 1))]));
    // Afterwards: it is there.
    let late = [
        Recorded::Heard(1, Heard::NotFound),
        Recorded::Asked(1, Asked::Get(0)),
    ];
    assert!(!with(
        &[&late[..], &[Recorded::Heard(1, Heard::NotFound)]].concat()
    ));
    // Of two changes of one version, one succeeds.
    let both = [
        Recorded::Heard(1, Heard::Content(7, 0)),
        Recorded::Asked(0, put(0, 8, Condition::Match(0))),
        Recorded::Asked(1, put(0, 9, Condition::Match(0))),
        Recorded::Heard(0, Heard::Changed(1)),
    ];
    assert!(with(
        &[&both[..], &[Recorded::Heard(1, Heard::Conflict)]].concat()
    ));
    assert!(!with(
        &[&both[..], &[Recorded::Heard(1, Heard::Changed(2))]].concat()
    ));
    // One that was cut off may have happened or not.
    let cut = [
        Recorded::Heard(1, Heard::NotFound),
        Recorded::Asked(1, Asked::Rename(0, 1, Condition::Any)),
    ];
    for outcome in [Heard::NotFound, Heard::Content(7, 5)] {
        let get = [
            Recorded::Asked(2, Asked::Get(1)),
            Recorded::Heard(2, outcome),
        ];
        assert!(with(&[&cut[..], &get].concat()), "{outcome:?}");
    }
}

/// Names of the model.
const NAMES: usize = super::NAMES;
