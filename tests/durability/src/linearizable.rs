//! Histories of many clients on few names are linearizable: each is as if all requests had happened one
//! after another.
//!
//! Each client's requests and answers are recorded in the order of time, and stateright's checker looks
//! for an order of single steps that explains them. After a kill of the server the outcome of some steps
//! is unknown; the checker may place them anywhere after their start, or nowhere.

mod model;

use std::path::Path;
use std::sync::{Arc, Mutex};

use quire_client::{Client, ClientError};
use quire_server::files::Faults;
use quire_shared::ErrorCode;
use quire_shared::protocol::{Precondition, Version};
use rustix::process::Signal;

use self::model::{Asked, Condition, Heard, History, NameIndex, Recorded, is_linearizable};
use quire_test_harness::client::{delete, get, put, receive, rename, store_as};
use quire_test_harness::content::{Random, content, seed_of};
use quire_test_harness::programs::Programs;
use quire_test_harness::{TestServer, Tree, within};

/// One client of a history.
struct Actor {
    /// Its number; after a kill it continues under another.
    id: usize,
    client: Client,
    random: Random,
    shared: Arc<SharedHistory>,
}

/// What the clients of one history share.
struct SharedHistory {
    /// In the order of time.
    history: Mutex<History>,
    /// Prefix of its names, so that histories don't share any.
    prefix: String,
    /// Versions that clients received, with their names; the index stands for the version.
    versions: Mutex<Vec<(NameIndex, Version)>>,
}

impl SharedHistory {
    fn new(number: u64) -> Arc<Self> {
        Arc::new(Self {
            history: Mutex::default(),
            prefix: format!("h{number}-"),
            versions: Mutex::default(),
        })
    }

    fn name(&self, name: NameIndex) -> String {
        format!("{}{name}", self.prefix)
    }

    fn number_of(&self, name: NameIndex, version: &Version) -> usize {
        let mut versions = self.versions.lock().unwrap();
        let found = versions.iter().position(|(_, known)| known == version);
        found.unwrap_or_else(|| {
            versions.push((name, version.clone()));
            versions.len() - 1
        })
    }

    /// The version of a name that was received last.
    fn last_of(&self, name: NameIndex) -> Option<usize> {
        let versions = self.versions.lock().unwrap();
        versions.iter().rposition(|(known, _)| *known == name)
    }

    fn precondition(&self, condition: Condition) -> Precondition {
        match condition {
            Condition::Any => Precondition::Any,
            Condition::Absent => Precondition::Absent,
            Condition::Match(version) => {
                Precondition::Match(self.versions.lock().unwrap()[version].1.clone())
            }
        }
    }

    fn record(&self, event: Recorded) {
        self.history.lock().unwrap().push(event);
    }

    fn judge(&self) -> bool {
        is_linearizable(&self.history.lock().unwrap())
    }
}

impl Actor {
    /// Does `count` steps, or fewer if the server ends.
    async fn act(mut self, count: usize) {
        for _ in 0..count {
            let kind = self.draw();
            self.shared.record(Recorded::Asked(self.id, kind));
            let Some(outcome) = self.ask(kind).await else {
                return;
            };
            self.shared.record(Recorded::Heard(self.id, outcome));
        }
        self.client.close().await;
    }

    fn draw(&mut self) -> Asked {
        let random = &mut self.random;
        let (one, step) = (random.below(NAMES), 1 + random.below(NAMES - 1));
        let other = (one + step) % NAMES;
        let (kind, absent) = (random.below(10), random.below(4) == 0);
        let condition = |name| match self.shared.last_of(name) {
            _ if absent => Condition::Absent,
            // Others have received it as well, and only one of them can succeed.
            Some(version) if kind % 2 == 0 => Condition::Match(version),
            _ => Condition::Any,
        };
        match kind {
            0 | 1 => Asked::Get(one),
            2..7 => Asked::Put(one, random.next_u64(), condition(one)),
            7 | 8 => Asked::Rename(one, other, condition(other)),
            _ => Asked::Delete(one),
        }
    }

    /// The server's answer; `None` if it no longer answers.
    async fn ask(&self, kind: Asked) -> Option<Heard> {
        let (client, shared) = (&self.client, &self.shared);
        let changed = |name, version: &Version| Heard::Changed(shared.number_of(name, version));
        let heard = match kind {
            Asked::Get(name) => match client.get(get(&shared.name(name))).await {
                Ok(download) => receive(download).await.map(|(bytes, fetched)| {
                    let seed = seed_of(&bytes).expect("a content is whole");
                    assert_eq!(bytes.len(), length(seed), "a content is whole");
                    Heard::Content(seed, shared.number_of(name, &fetched.version))
                }),
                Err(error) => Err(error),
            },
            Asked::Put(name, seed, condition) => {
                let mut put = put(&shared.name(name), length(seed));
                put.precondition = shared.precondition(condition);
                let stored = store_as(client, put, &content(seed, length(seed))).await;
                stored.map(|stored| changed(name, &stored.version))
            }
            Asked::Rename(from, to, condition) => {
                let mut rename = rename(&shared.name(from), &shared.name(to));
                rename.target = shared.precondition(condition);
                let renamed = client.rename(rename).await;
                renamed.map(|renamed| changed(to, &renamed.version))
            }
            Asked::Delete(name) => {
                let deleted = client.delete(delete(&shared.name(name))).await;
                deleted.map(|_| Heard::Deleted)
            }
        };
        match heard {
            Ok(outcome) => Some(outcome),
            Err(error) => refusal(&error),
        }
    }
}

/// What a refusal says of the names; `None` if the server is gone.
fn refusal(error: &ClientError) -> Option<Heard> {
    Some(match error.code() {
        Some(ErrorCode::NOT_FOUND) => Heard::NotFound,
        Some(ErrorCode::EXISTS) => Heard::Exists,
        Some(ErrorCode::CONFLICT) => Heard::Conflict,
        Some(_) => Heard::Other,
        None => return None,
    })
}

/// Sizes within and beyond the pieces in which bodies move.
fn length(seed: u64) -> usize {
    [8, 4096, 70_000][usize::try_from(seed % 3).unwrap()]
}

/// Runs `count` histories on a server with these faults; returns how many can't be explained. With
/// faults, one is enough.
async fn violations(count: u64, root: &Path, faults: Faults) -> u64 {
    let server = TestServer::builder_at(root).faults(faults).start().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.client().await);
    }
    let mut violations = 0;
    for number in 0..count {
        let shared = SharedHistory::new(number);
        let mut running = tokio::task::JoinSet::new();
        for (id, client) in clients.iter().enumerate() {
            let actor = Actor {
                id,
                client: client.clone(),
                random: Random::new(number << 8 | id as u64),
                shared: Arc::clone(&shared),
            };
            running.spawn(actor.act(STEPS));
        }
        within("a history", running.join_all()).await;
        violations += u64::from(!shared.judge());
        if violations > 0 && faults != Faults::default() {
            break;
        }
    }
    for client in clients {
        client.close().await;
    }
    server.stop().await;
    violations
}

/// Runs `count` histories during which the server is killed; returns how many can't be explained.
async fn violations_with_kills(programs: &Programs, count: u64) -> u64 {
    let mut violations = 0;
    for number in 0..count {
        let tree = Tree::new();
        let shared = SharedHistory::new(number);
        let mut random = Random::new(number);
        for life in 0..2 {
            let server = programs.serve(&tree.root());
            let mut running = tokio::task::JoinSet::new();
            for id in 0..CLIENTS {
                let actor = Actor {
                    id: life * CLIENTS + id,
                    client: programs.client(&server).await,
                    random: Random::new(random.next_u64()),
                    shared: Arc::clone(&shared),
                };
                running.spawn(actor.act(STEPS / 3));
            }
            if life == 0 {
                let enough = random.below(CLIENTS * STEPS / 3);
                while shared.history.lock().unwrap().len() < enough {
                    tokio::task::yield_now().await;
                }
                server.signal(Signal::KILL);
                server.end().await;
                // The clients would wait for an answer until the connection times out.
                running.shutdown().await;
            }
            within("a history", running.join_all()).await;
        }
        violations += u64::from(!shared.judge());
    }
    violations
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_histories_are_linearizable() {
    let tree = Tree::new();
    assert_eq!(violations(100, &tree.root(), Faults::default()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_with_a_kill_in_them_are_linearizable() {
    if let Some(programs) = Programs::find() {
        assert_eq!(violations_with_kills(&programs, 20).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn five_hundred_histories_are_linearizable() {
    let tree = Tree::new();
    assert_eq!(violations(500, &tree.root(), Faults::default()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn five_hundred_histories_with_kills_are_linearizable() {
    if let Some(programs) = Programs::find() {
        assert_eq!(violations_with_kills(&programs, 500).await, 0);
    }
}

#[cfg(feature = "fault-injection")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_locks_is_found_out() {
    use quire_server::files::Fault;
    // On a disk rather than in memory: while a sync takes time, the section that locks protect is long.
    let root = tempfile::tempdir().unwrap();
    let violations = violations(1000, root.path(), Faults::only(Fault::Locks)).await;
    assert!(violations > 0, "the missing locks went unnoticed");
}

/// Clients of a history.
const CLIENTS: usize = 8;

/// Steps of each.
const STEPS: usize = 12;

/// Names that the clients compete for.
const NAMES: usize = 4;
