//! Uploads that are interrupted and go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::resume::{MIB, PATH, SIZE};
use quire_client::download::PartUse;
use quire_client::upload::{Links, LocalFile, Stored};
use quire_client::{Client, ErrorKind};
use quire_shared::RemotePath;
use quire_shared::protocol::{Precondition, Put, PutOffset, ResumePut};
use quire_test_harness::client::{path, put};
use quire_test_harness::programs::Programs;
use quire_test_harness::raw::reply;
use quire_test_harness::relay::Relay;
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{Raw, TestServer, Tree, assert_same, content, within};

/// What has been sent when an upload is interrupted.
const INTERRUPTED: u64 = 6 * MIB as u64;

/// A server to which the upload of a file `f` was interrupted.
struct InterruptedPut {
    server: TestServer,
    client: Client,
    tree: Tree,
    local: tempfile::TempDir,
}

impl InterruptedPut {
    async fn new() -> Self {
        let tree = Tree::new();
        let server = TestServer::start(&tree).await;
        let local = scratch();
        fs::write(local.path().join("f"), content(1, SIZE)).unwrap();
        let client = server.client().await;
        let interrupted = Self {
            server,
            client,
            tree,
            local,
        };
        interrupted.interrupt().await;
        interrupted
    }

    /// Interrupts an upload by the end of its connection.
    async fn interrupt(&self) {
        interrupt_put(&self.server, &self.source(), INTERRUPTED).await;
        self.settle().await;
    }

    /// Waits until nobody writes the part.
    async fn settle(&self) {
        is_received(&self.client).await;
    }

    fn source(&self) -> PathBuf {
        self.local.path().join("f")
    }

    /// The files of the part, its journal last.
    fn left(&self) -> [PathBuf; 2] {
        let staging = self.tree.path(".quire-staging");
        let names: Vec<_> = names(&staging)
            .into_iter()
            .filter(|name| name.starts_with("upload-"))
            .collect();
        let [part, journal] = &*names else {
            panic!("{names:?}");
        };
        [staging.join(part), staging.join(journal)]
    }

    fn there(&self) -> u64 {
        fs::metadata(&self.left()[0]).unwrap().len()
    }

    async fn unfinished(&self) -> Vec<(u64, bool)> {
        unfinished(&self.client).await
    }

    /// Uploads again; the content must be right, and nothing else be left.
    async fn again(&self) -> Stored {
        let stored = self.client.upload(path("f")).from_file(self.source()).await;
        let stored = stored.unwrap();
        assert_same(self.tree.read("f"), fs::read(self.source()).unwrap());
        assert_eq!(stored.bytes, SIZE as u64);
        assert_eq!(self.unfinished().await, []);
        stored
    }

    async fn end(self) {
        self.client.close().await;
        self.server.stop().await;
    }
}

/// Interrupts an upload to the file `f` by the end of its connection, when so much was sent.
pub(super) async fn interrupt_put(server: &TestServer, source: &Path, bytes: u64) {
    let relay = Relay::start(server.address(), PATH, 1).await;
    let connector = server.connector(relay.address(), &server.keys().writer);
    let client = connector.connect().await.unwrap();
    let moved = AtomicU64::new(0);
    let request = client.upload(path("f")).progress(&moved);
    let until = async {
        while moved.load(Ordering::Relaxed) < bytes {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        stored = request.from_file(source) => panic!("not interrupted: {stored:?}"),
        () = within("some bytes", until) => {}
    }
    client.close().await;
}

/// Waits until nothing more comes of any upload.
pub(super) async fn is_received(client: &Client) {
    let is_idle = async {
        while unfinished(client).await.iter().any(|(_, active)| *active) {
            tokio::task::yield_now().await;
        }
    };
    within("the end of the request", is_idle).await;
}

/// What the server says it has, and whether more is coming.
async fn unfinished(client: &Client) -> Vec<(u64, bool)> {
    let listed = client.unfinished_uploads(RemotePath::default(), false);
    let listed = listed.await.unwrap();
    let found = listed.iter().map(|part| (part.received, part.is_active));
    found.collect()
}

#[tokio::test]
async fn a_put_goes_on_where_it_was_interrupted() {
    let interrupted = InterruptedPut::new().await;
    let there = interrupted.there();
    assert!(there >= INTERRUPTED / 3, "{there}");
    assert_eq!(interrupted.unfinished().await, [(there, false)]);
    let stored = interrupted.again().await;
    assert_eq!(stored.part, PartUse::Continued(there));
    interrupted.end().await;
}

// P47
#[tokio::test]
async fn a_part_that_was_damaged_is_found_out_by_the_digest_of_the_whole() {
    let interrupted = InterruptedPut::new().await;
    let [part, _] = interrupted.left();
    let mut bytes = fs::read(&part).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&part, bytes).unwrap();
    let stored = interrupted.again().await;
    assert_eq!(stored.part, PartUse::Discarded);
    interrupted.end().await;
}

#[tokio::test]
async fn a_part_is_used_only_with_a_journal_that_belongs_to_it() {
    type Damage = fn(&str) -> String;
    let damages: [(&str, Damage); 5] = [
        ("it is empty", |_| String::new()),
        ("it is cut off", |text| text[..text.len() / 2].to_owned()),
        ("it is of another file", |text| {
            text.replace("path 66", "path 67")
        }),
        ("it is of another client", |text| {
            text.replace("owner ", "owner x")
        }),
        (
            "it is of another start of the system, before a sync",
            |text| text.replace("boot ", "boot 0"),
        ),
    ];
    for (why, damage) in damages {
        let interrupted = InterruptedPut::new().await;
        let [_, journal] = interrupted.left();
        let text = fs::read_to_string(&journal).unwrap();
        assert_ne!(damage(&text), text, "{why}");
        fs::write(&journal, damage(&text)).unwrap();
        let stored = interrupted.again().await;
        assert_eq!(stored.part, PartUse::None, "{why}");
        interrupted.end().await;
    }
}

#[tokio::test]
async fn after_a_restart_of_the_system_only_what_was_synced_counts() {
    let interrupted = InterruptedPut::new().await;
    let [part, journal] = interrupted.left();
    let text = fs::read_to_string(&journal).unwrap();
    let synced = MIB + 4096;
    let text = text.replace("boot ", "boot 0");
    fs::write(&journal, format!("{text}synced {synced}\nsynced 99")).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    bytes[synced..].fill(0);
    fs::write(&part, bytes).unwrap();
    let stored = interrupted.again().await;
    assert_eq!(stored.part, PartUse::Continued(synced as u64));
    interrupted.end().await;
}

#[tokio::test]
async fn a_journal_that_is_ahead_of_its_part_is_no_harm() {
    let interrupted = InterruptedPut::new().await;
    let [part, journal] = interrupted.left();
    let text = fs::read_to_string(&journal).unwrap();
    let text = text.replace("boot ", "boot 0");
    fs::write(&journal, format!("{text}synced {SIZE}\n")).unwrap();
    let part = fs::File::options().write(true).open(part).unwrap();
    part.set_len(2 * MIB as u64).unwrap();
    let stored = interrupted.again().await;
    assert_eq!(stored.part, PartUse::Continued(2 * MIB as u64));
    interrupted.end().await;
}

// P46
#[tokio::test]
async fn another_file_or_condition_begins_anew() {
    let interrupted = InterruptedPut::new().await;
    let there = interrupted.there();
    let source = fs::File::options().write(true).open(interrupted.source());
    let source = source.unwrap();
    let modified = source.metadata().unwrap().modified().unwrap();
    source.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let upload = |to: &str| interrupted.client.upload(path(to));
    let stored = upload("f").from_file(interrupted.source()).await.unwrap();
    assert_eq!(stored.part, PartUse::None);
    source.set_modified(modified).unwrap();
    let over = upload("f").overwrite(true);
    let stored = over.from_file(interrupted.source()).await.unwrap();
    assert_eq!(stored.part, PartUse::None);
    let stored = upload("g").from_file(interrupted.source()).await.unwrap();
    assert_eq!(stored.part, PartUse::None);
    assert_eq!(interrupted.unfinished().await, [(there, false)]);
    // What has the name now is in the way, and refused before anything is sent.
    let refused = upload("f").from_file(interrupted.source()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let removed = interrupted.client.unfinished_uploads(path("f"), true);
    assert_eq!(removed.await.unwrap().len(), 1);
    interrupted.end().await;
}

#[tokio::test]
async fn another_client_neither_sees_nor_removes_a_part() {
    let interrupted = InterruptedPut::new().await;
    let there = interrupted.there();
    let identity = &interrupted.server.keys().reader;
    let other = interrupted.server.connect(identity).await.unwrap();
    for remove in [false, true] {
        let listed = other.unfinished_uploads(RemotePath::default(), remove);
        assert!(listed.await.unwrap().is_empty());
    }
    assert_eq!(interrupted.unfinished().await, [(there, false)]);
    other.close().await;
    interrupted.again().await;
    interrupted.end().await;
}

#[tokio::test]
async fn a_part_is_listed_by_its_path_and_removed_when_asked() {
    let interrupted = InterruptedPut::new().await;
    let list = |at: &str, remove| interrupted.client.unfinished_uploads(path(at), remove);
    assert!(list("d", true).await.unwrap().is_empty());
    let [part] = &*list("f", true).await.unwrap() else {
        panic!("not listed");
    };
    assert_eq!((part.size, part.path.clone()), (SIZE as u64, path("f")));
    assert!(part.expires > part.last);
    assert_eq!(interrupted.unfinished().await, []);
    assert_eq!(interrupted.again().await.part, PartUse::None);
    interrupted.end().await;
}

#[tokio::test]
async fn a_later_request_takes_over_what_an_earlier_one_receives() {
    let interrupted = InterruptedPut::new().await;
    let there = interrupted.there();
    // A client that sends nothing more, as one whose network is gone.
    let keys = interrupted.server.keys();
    let raw = Raw::connect(&interrupted.server, &keys.writer).await;
    let local = LocalFile::open(&interrupted.source(), Links::Follow).await;
    let put = Put {
        modified: local.unwrap().modified(),
        precondition: Precondition::Absent,
        ..put("f", SIZE)
    };
    let (_sending, mut receiving) = raw
        .begin(ResumePut {
            put,
            in_extents: None,
        })
        .await;
    let answer = reply::<PutOffset>(&mut receiving).await.unwrap();
    assert_eq!(answer.into_result().unwrap().offset, there);
    assert_eq!(interrupted.unfinished().await, [(there, true)]);
    let stored = interrupted.again().await;
    assert_eq!(stored.part, PartUse::Continued(there));
    raw.close().await;
    interrupted.end().await;
}

#[tokio::test]
async fn a_server_that_keeps_nothing_takes_uploads_all_the_same() {
    let tree = Tree::new();
    let keep_nothing = |config: &mut quire_server::Config| config.keep_uploads = Duration::ZERO;
    let server = TestServer::builder(&tree).with(keep_nothing).start().await;
    let client = server.client().await;
    let local = scratch();
    let source = local.path().join("f");
    fs::write(&source, content(1, 2 * MIB)).unwrap();
    let stored = client.upload(path("f")).from_file(&source).await.unwrap();
    assert_eq!(stored.part, PartUse::None);
    assert_same(tree.read("f"), fs::read(source).unwrap());
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_put_goes_on_after_kills_of_both_sides() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    let source = programs.state.path().join("f");
    fs::write(&source, content(1, SIZE)).unwrap();
    let mut server = programs.serve(&tree.root());
    let port = server.port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let relay = Relay::start(address, PATH, 1).await;
    let to = format!("127.0.0.1:{}/f", relay.address().port());
    let put = ["put", "--json", source.to_str().unwrap(), &to];
    for part in 1..3 {
        let mut client = programs.begin(&put);
        let staging = tree.path(".quire-staging");
        let has_come = || {
            let entries = fs::read_dir(&staging).into_iter().flatten().flatten();
            let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
            sizes.max().unwrap_or(0) >= part * INTERRUPTED
        };
        let come = async {
            while !has_come() {
                tokio::task::yield_now().await;
            }
        };
        within("some bytes", come).await;
        client.kill().unwrap();
        client.wait().unwrap();
        drop(server);
        // What else a killed server leaves goes.
        for junk in ["0123", "upload-of-nobody", "upload-1.journal"] {
            fs::write(staging.join(junk), "half").unwrap();
        }
        server = programs.serve_at(port, &tree.root());
        let host = format!("127.0.0.1:{port}");
        let said = programs.expect(0, &["uploads", "--json", &host]);
        let event: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&event["path"], &event["size"]),
            (&"/f".into(), &SIZE.into())
        );
        assert_eq!(
            (&event["active"], &event["removed"]),
            (&false.into(), &false.into())
        );
        for field in ["bytes", "last", "expires"] {
            assert!(!event[field].is_null(), "{said}");
        }
        let left = names(&staging);
        assert!(left.iter().all(|name| name.len() > 50), "{left:?}");
    }
    let mut command = programs.command(&put);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    let ended = within("the end of the transfer", ended).await.unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{said}");
    let continued = said.split("\"continued\":").nth(1).unwrap();
    let continued: u64 = continued
        .split(|character: char| !character.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(continued >= 2 * INTERRUPTED, "{said}");
    assert_same(tree.read("f"), content(1, SIZE));
    drop(server);
}
