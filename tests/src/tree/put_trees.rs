//! Upload of many files and directories on one stream: what is stored, answered and refused.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::RecvStream;
use quire_client::Client;
use quire_client::ErrorKind;
use quire_client::transfer::{self, StoreOptions, Transfer, UploadJob};
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    LastItem, MakeDirectory, Message, Outcome, Precondition, Preserve, Put, PutItem, PutMany,
    Reply, SetAttributes, Trailer,
};

use super::{FailedEntry, noting_failures};
use quire_test_harness::client::{make_directory, path, put};
use quire_test_harness::raw::{refusal_on, reply};
use quire_test_harness::{KIB, Raw, TestServer, Tree, assert_same, content, within};

/// Stores the tree `from` as `to`; returns the names and codes of failures.
pub(crate) async fn store_tree(
    client: &Client,
    from: &Path,
    to: &str,
    overwrite: bool,
) -> (Arc<Transfer>, Vec<FailedEntry>) {
    let (transfer, failed) = noting_failures();
    let item = UploadJob {
        from: from.to_owned(),
        to: path(to),
    };
    let options = StoreOptions {
        recursive: true,
        overwrite,
        digest: DigestKind::Xxh3,
        ..StoreOptions::default()
    };
    let storing = transfer::store(client, vec![item], options, &transfer);
    within("a tree", storing).await;
    let failed = failed.lock().unwrap().clone();
    (transfer, failed)
}

/// Every file and directory at and below `at`: path, mode, time, content.
pub(crate) fn described(at: &Path) -> Vec<(String, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![at.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let below = path.strip_prefix(at).unwrap().to_str().unwrap().to_owned();
        let content = if metadata.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            waiting.extend(entries.map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&path).unwrap()
        };
        found.push((below, metadata.mode(), metadata.mtime(), content));
    }
    found.sort();
    found
}

// P43, P44
#[tokio::test]
async fn a_tree_is_stored_with_contents_modes_and_times() {
    let source = Tree::new().directory("d/empty/in/empty");
    for size in [0, 1, 4 * KIB, ENCLOSED_BYTES_MAX, ENCLOSED_BYTES_MAX + 1] {
        source.write(&format!("d/sizes/{size}"), content(size as u64, size));
    }
    for file in 0..500 {
        source.write(
            &format!("d/many/{}/{file}", file % 9),
            content(file, 5 * KIB),
        );
    }
    let source = source.mode("d/sizes/1", 0o640).mode("d/empty/in", 0o700);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in [
        "d/sizes/4096",
        "d/sizes",
        "d/empty/in/empty",
        "d/empty",
        "d",
    ] {
        let file = File::open(source.path(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let (transfer, failed) = store_tree(&client, &source.path("d"), "new/d", false).await;
    assert_eq!(failed, []);
    let expected = described(&source.path("d"));
    assert_eq!(
        transfer.files() + transfer.directories(),
        expected.len() as u64
    );
    assert_eq!(transfer.moved(), transfer.expected());
    assert_eq!(described(&tree.path("new/d")), expected);
    client.close().await;
    server.stop().await;
}

// P43
#[tokio::test]
async fn what_is_there_is_kept_unless_asked_and_fails_alone() {
    let source = Tree::new()
        .file("d/a", "new")
        .file("d/b", "new")
        .file("d/in the way/x", "new");
    let tree = Tree::new()
        .file("d/b", "old")
        .file("d/in the way", "file")
        .mode("d", 0o755);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::open(source.path("d"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let (transfer, mut failed) = store_tree(&client, &source.path("d"), "d", false).await;
    failed.sort_by(|one, other| one.0.cmp(&other.0));
    let exists = Some(ErrorCode::EXISTS);
    let expected = ["/d/b", "/d/in the way"].map(|name| (name.to_owned(), exists));
    assert_eq!(failed, expected);
    assert_eq!(transfer.first_failure(), Some(ErrorKind::Conflict));
    assert_eq!(
        transfer.failed(),
        3,
        "with what is in the way of a directory"
    );
    assert_same(tree.read("d/a"), "new");
    assert_same(tree.read("d/b"), "old");
    let modified = || fs::metadata(tree.path("d")).unwrap().mtime();
    assert_ne!(modified(), 1_000_000_000, "it was there, and keeps its own");
    let (_, failed) = store_tree(&client, &source.path("d"), "d", true).await;
    assert_eq!(failed, [("/d/in the way".to_owned(), exists)]);
    assert_same(tree.read("d/b"), "new");
    assert_same(tree.read("d/in the way"), "file");
    assert_eq!(modified(), 1_000_000_000);
    client.close().await;
    server.stop().await;
}

/// Encoded items.
#[derive(Default)]
pub(crate) struct PutItems(pub(crate) Vec<u8>);

impl PutItems {
    fn message(mut self, message: &impl Message) -> Self {
        codec::append(message, &mut self.0).unwrap();
        self
    }

    fn put(self, put: &Put, body: &[u8], proved: &[u8]) -> Self {
        let mut items = self.message(&PutItem::File(put.clone()));
        items.0.extend_from_slice(body);
        let mut hasher = put.digest.hasher();
        hasher.update(proved);
        items.message(&Trailer {
            digest: hasher.finish(),
            grew: false,
        })
    }

    pub(crate) fn file(self, name: &str, body: &[u8]) -> Self {
        self.put(&put(name, body.len()), body, body)
    }

    pub(crate) fn last(self) -> Self {
        self.message(&PutItem::Last(LastItem {}))
    }
}

/// Sends `items` and FIN.
pub(crate) async fn offer(raw: &Raw, items: PutItems) -> RecvStream {
    let (mut send, recv) = raw.begin(PutMany {}).await;
    // A server that has seen enough stops the stream.
    let _ = send.write_all(&items.0).await;
    let _ = send.finish();
    recv
}

/// The codes of `count` outcomes, in the order of the items, and then FIN.
pub(crate) async fn outcomes(recv: &mut RecvStream, count: usize) -> Vec<Option<ErrorCode>> {
    let mut codes = vec![None; count];
    let mut indices = Vec::new();
    for _ in 0..count {
        let Reply::Ok(outcome) = reply::<Outcome>(recv).await.unwrap() else {
            panic!("the request as a whole was refused");
        };
        let index = usize::try_from(outcome.index).unwrap();
        indices.push(index);
        codes[index] = outcome
            .result
            .into_result()
            .err()
            .map(|failure| failure.code());
    }
    indices.sort_unstable();
    assert_eq!(indices, Vec::from_iter(0..count));
    assert_eq!(within("the end", recv.read_to_end(1)).await.unwrap(), b"");
    codes
}

// P23, P30, P31, P43
#[tokio::test]
async fn each_item_is_answered_by_itself() {
    let tree = Tree::new().file("there", "old").directory("directory");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let absent = Put {
        precondition: Precondition::Absent,
        ..put("there", 3)
    };
    let make = MakeDirectory {
        make_parents: true,
        ..make_directory("p/q")
    };
    let set = |name: &str| {
        PutItem::Attributes(SetAttributes {
            path: path(name),
            modified: None,
            mode: Some(0o700),
            preserve: Preserve::Usual,
            details: None,
        })
    };
    let items = PutItems::default()
        .file("good", b"content")
        .put(&put("damaged", 3), b"abc", b"xyz")
        .put(&absent, b"new", b"new")
        .file("directory", b"x")
        .file("missing/x", b"x")
        .message(&PutItem::Directory(make))
        .file("p/q/f", b"in it")
        .message(&set("p/q"))
        .message(&set("missing"))
        .message(&set(""))
        .message(&PutItem::Directory(make_directory("there")))
        .last();
    let mut recv = offer(&raw, items).await;
    let expected = [
        None,
        Some(ErrorCode::DAMAGED),
        Some(ErrorCode::EXISTS),
        Some(ErrorCode::IS_DIRECTORY),
        Some(ErrorCode::NOT_FOUND),
        None,
        None,
        None,
        Some(ErrorCode::NOT_FOUND),
        Some(ErrorCode::INVALID_PATH),
        Some(ErrorCode::EXISTS),
    ];
    assert_eq!(outcomes(&mut recv, expected.len()).await, expected);
    assert_same(tree.read("good"), "content");
    assert_same(tree.read("there"), "old");
    assert_same(tree.read("p/q/f"), "in it");
    assert_eq!(
        fs::metadata(tree.path("p/q")).unwrap().mode() & 0o777,
        0o700
    );
    assert!(!tree.has("damaged"));
    raw.close().await;
    server.stop().await;
}

// P45, P6
#[tokio::test]
async fn a_stream_that_breaks_the_rules_is_refused_as_a_whole() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let pieces = Put {
        size: None,
        ..put("f", 0)
    };
    let start = PutItems::default;
    for (what, items, code) in [
        ("no end", start(), ErrorCode::MALFORMED),
        (
            "an end within a file",
            start().message(&PutItem::File(put("f", 3))),
            ErrorCode::MALFORMED,
        ),
        (
            "a file without a size",
            start().message(&PutItem::File(pieces)).last(),
            ErrorCode::MALFORMED,
        ),
        (
            "a file over the limit",
            start().message(&PutItem::File(put("f", ENCLOSED_BYTES_MAX + 1))),
            ErrorCode::MESSAGE_TOO_LONG,
        ),
        (
            "more than the last",
            start().last().message(&PutItem::Last(LastItem {})),
            ErrorCode::MALFORMED,
        ),
    ] {
        let mut recv = offer(&raw, items).await;
        assert_eq!(refusal_on(&mut recv).await, code, "{what}");
    }
    assert!(!tree.has("f"));
    raw.close().await;
    server.stop().await;
}

// P16
#[tokio::test]
async fn rights_hold_for_each_item_and_a_drop_box_may_set_attributes_of_what_it_made() {
    let tree = Tree::new().directory("in/old");
    let rules = "read,/in=create";
    let server = TestServer::builder(&tree).anonymous(rules).start().await;
    let raw = Raw::connect(&server, &server.keys().stranger).await;
    let (mut send, mut recv) = raw.begin(PutMany {}).await;
    let items = PutItems::default()
        .message(&PutItem::Directory(make_directory("in/new")))
        .file("in/new/f", b"x")
        .file("out", b"x");
    send.write_all(&items.0).await.unwrap();
    for _ in 0..3 {
        let outcome = reply::<Outcome>(&mut recv).await.unwrap().into_result();
        let outcome = outcome.unwrap();
        let refused = outcome.result.into_result().err();
        let code = refused.map(|failure| failure.code());
        let expected = (outcome.index == 2).then_some(ErrorCode::NOT_AUTHORIZED);
        assert_eq!(code, expected);
    }
    let mut rest = PutItems::default();
    for name in ["in/new", "in/old"] {
        rest = rest.message(&PutItem::Attributes(SetAttributes {
            path: path(name),
            modified: None,
            mode: Some(0o711),
            preserve: Preserve::Usual,
            details: None,
        }));
    }
    send.write_all(&rest.last().0).await.unwrap();
    send.finish().unwrap();
    for index in [3, 4] {
        let outcome = reply::<Outcome>(&mut recv).await.unwrap().into_result();
        let outcome = outcome.unwrap();
        let is_refused = matches!(outcome.result, Reply::Failed(_));
        assert_eq!(is_refused, outcome.index == 4, "{index}");
    }
    let mode = |name| fs::metadata(tree.path(name)).unwrap().mode() & 0o777;
    assert_eq!(mode("in/new"), 0o711);
    assert_ne!(mode("in/old"), 0o711);
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reader_is_told_once_that_it_may_not_store_a_tree() {
    let source = Tree::new().file("d/a", "x").file("d/b", "x");
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.connect(&server.keys().reader).await.unwrap();
    let (transfer, failed) = store_tree(&client, &source.path("d"), "d", false).await;
    assert_eq!(failed.len(), 1);
    assert_eq!(transfer.first_failure(), Some(ErrorKind::Refused));
    assert!(!tree.has("d"));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn files_that_are_there_are_refused_before_their_bytes_go() {
    let source = Tree::new();
    for file in 0..50 {
        source.write(&format!("d/{}/{file}", file % 3), content(file, 5 * KIB));
    }
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    store_tree(&client, &source.path("d"), "d", false).await;
    source.write("d/new", "x");
    let (transfer, failed) = store_tree(&client, &source.path("d"), "d", false).await;
    assert_eq!(failed.len(), 50);
    assert_eq!((transfer.files(), transfer.moved()), (1, 1));
    client.close().await;
    server.stop().await;
}
