//! Download of directory trees: contents, order, and changes during the transfer.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::RecvStream;
use quire_client::Client;
use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer};
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::path::RawName;
use quire_shared::protocol::{
    Attributes, EntryKind, Failure, GetTree, Left, Reply, Trailer, TreeItem,
};
use quire_transport::error_code::to_quic;

use super::{FailedEntry, noting_failures};
use quire_test_harness::client::{path, refusal, stat, store};
use quire_test_harness::raw::{encoded, message, reply};
use quire_test_harness::tree::{HOSTILE_NAMES, names, scratch};
use quire_test_harness::{KIB, LARGE, Raw, TestServer, Tree, assert_same, content, within};

fn get_tree(directory: &str, enclose_max: usize) -> GetTree {
    GetTree {
        path: path(directory),
        digest: DigestKind::Blake3,
        enclose_max: enclose_max as u64,
        details: Default::default(),
        describe_linked: false,
    }
}

/// Fetches the tree `from` to `to`; returns the names and codes of failures.
pub(crate) async fn fetch_tree(
    client: &Client,
    from: &str,
    to: &Path,
) -> (Arc<Transfer>, Vec<FailedEntry>) {
    let (transfer, failed) = noting_failures();
    let item = DownloadJob {
        from: path(from),
        to: to.to_owned(),
        contents: false,
    };
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    within(
        "a tree",
        transfer::fetch(client, vec![item], options, &transfer),
    )
    .await;
    let failed = failed.lock().unwrap().clone();
    (transfer, failed)
}

/// One item of a received tree.
#[derive(Debug, PartialEq)]
enum ReceivedItem {
    Described(String, EntryKind),
    /// A file that came whole, and its length.
    File(String, usize),
    Changed(String),
    Entered(String),
    Missed(String, ErrorCode),
    Left(Left),
}

/// Receives a tree to its end, and checks each content.
async fn steps(recv: &mut RecvStream) -> Vec<ReceivedItem> {
    let (mut steps, mut depth) = (Vec::new(), 1);
    while depth > 0 {
        steps.push(match message::<TreeItem>(recv).await.unwrap() {
            TreeItem::Described(entry) => {
                ReceivedItem::Described(entry.name.as_str().to_owned(), entry.attributes.kind)
            }
            TreeItem::Enclosed(entry) => {
                let name = entry.name.as_str().to_owned();
                let size = usize::try_from(entry.attributes.size).unwrap();
                let mut body = vec![0; size];
                within("a body", recv.read_exact(&mut body)).await.unwrap();
                match reply::<Trailer>(recv).await.unwrap() {
                    Reply::Ok(trailer) => {
                        let mut hasher = DigestKind::Blake3.hasher();
                        hasher.update(&body);
                        // P30
                        assert_eq!(trailer.digest, hasher.finish(), "{name}");
                        ReceivedItem::File(name, size)
                    }
                    Reply::Failed(failure) => {
                        assert_eq!(failure.code(), ErrorCode::CHANGED);
                        ReceivedItem::Changed(name)
                    }
                }
            }
            TreeItem::Entered(entry) => {
                depth += 1;
                ReceivedItem::Entered(entry.name.as_str().to_owned())
            }
            TreeItem::Missed(missed) => {
                ReceivedItem::Missed(missed.name.as_str().to_owned(), missed.failure.code())
            }
            TreeItem::Left(left) => {
                depth -= 1;
                ReceivedItem::Left(left)
            }
        });
    }
    assert_eq!(within("the end", recv.read_to_end(1)).await.unwrap(), b"");
    steps
}

const AT_END: Left = Left {
    unnameable: 0,
    failure: None,
    raw_names: Vec::new(),
};

// P40, P42
#[tokio::test]
async fn a_tree_is_fetched_with_contents_modes_and_times() {
    let tree = Tree::new().directory("d/empty/in/empty");
    let sizes = [0, 1, 4 * KIB, ENCLOSED_BYTES_MAX - 1, ENCLOSED_BYTES_MAX];
    for size in sizes.into_iter().chain([ENCLOSED_BYTES_MAX + 1]) {
        tree.write(&format!("d/sizes/{size}"), content(size as u64, size));
    }
    for (seed, name) in HOSTILE_NAMES.iter().enumerate() {
        tree.write(&format!("d/{name}/{name}"), content(seed as u64, 100));
    }
    for file in 0..500 {
        tree.write(&format!("d/many/{file}"), content(file, 5 * KIB));
    }
    symlink("..", tree.path("d/link")).unwrap();
    let tree = tree
        .fifo("d/fifo")
        .file("d/.quire-left", "hidden")
        .mode("d/sizes/1", 0o640)
        .mode("d/empty/in", 0o700);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["d/sizes/4096", "d/empty/in/empty", "d/empty", "d"] {
        let file = File::open(tree.path(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    let to = here.path().join("d");
    let (transfer, failed) = fetch_tree(&client, "d", &to).await;
    assert_eq!(failed, []);
    assert_eq!(transfer.skipped(), 2);
    assert_eq!(transfer.moved(), transfer.expected());
    let expected = described(&tree.path("d"));
    assert_eq!(
        transfer.files() + transfer.directories(),
        expected.len() as u64
    );
    assert_eq!(described(&to), expected);
    client.close().await;
    server.stop().await;
}

/// Every file and directory at and below `at`: path, kind and mode, time, content.
fn described(at: &Path) -> Vec<(String, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut waiting = vec![at.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let below = path
            .strip_prefix(at)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let content = match () {
            () if below.contains(".quire-") => continue,
            () if metadata.is_file() => fs::read(&path).unwrap(),
            () if metadata.is_dir() => {
                waiting.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
                Vec::new()
            }
            () => continue,
        };
        found.push((below, metadata.mode(), metadata.mtime(), content));
    }
    found.sort();
    found
}

// P40, P41
#[tokio::test]
async fn items_come_in_order_and_large_files_are_only_described() {
    let tree = Tree::new()
        .file("d/a", content(1, 10))
        .file("d/b/x", content(2, 11))
        .file("d/b/y", "")
        .directory("d/c")
        .link("d/l", "a")
        .file("d/z", content(3, 9));
    let unnameable = std::ffi::OsStr::from_bytes(b"b\xff");
    fs::write(tree.path("d/b").join(unnameable), "").unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for (enclose_max, is_enclosed) in [(10, true), (0, false)] {
        let (mut send, mut recv) = raw.begin(get_tree("d", enclose_max)).await;
        send.finish().unwrap();
        let Reply::Ok(top) = reply::<Attributes>(&mut recv).await.unwrap() else {
            panic!("refused");
        };
        assert_eq!(top.kind, EntryKind::Directory);
        let file = |name: &str, size| match is_enclosed || size == 0 {
            true => ReceivedItem::File(name.to_owned(), size),
            false => ReceivedItem::Described(name.to_owned(), EntryKind::File),
        };
        let expected = [
            file("a", 10),
            ReceivedItem::Entered("b".to_owned()),
            ReceivedItem::Described("x".to_owned(), EntryKind::File),
            file("y", 0),
            ReceivedItem::Left(Left {
                unnameable: 1,
                failure: None,
                raw_names: vec![RawName::new(b"b\xff").unwrap()],
            }),
            ReceivedItem::Entered("c".to_owned()),
            ReceivedItem::Left(AT_END),
            ReceivedItem::Described("l".to_owned(), EntryKind::Symlink),
            file("z", 9),
            ReceivedItem::Left(AT_END),
        ];
        assert_eq!(steps(&mut recv).await, expected);
    }
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_directory_is_refused_and_fetched_as_what_it_is() {
    let tree = Tree::new().file("f", "content").link("l", "f").fifo("p");
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let raw = server.raw().await;
    for (name, code) in [
        ("f", ErrorCode::NOT_DIRECTORY),
        ("l", ErrorCode::SPECIAL_FILE),
        ("p", ErrorCode::SPECIAL_FILE),
        ("missing", ErrorCode::NOT_FOUND),
        ("f/x", ErrorCode::NOT_DIRECTORY),
    ] {
        let request = encoded(get_tree(name, 0));
        assert_eq!(raw.refusal(&request).await, code, "{name}");
    }
    let client = server.client().await;
    let to = here.path().join("f");
    let (_, failed) = fetch_tree(&client, "f", &to).await;
    assert_eq!(failed, []);
    assert_same(fs::read(to).unwrap(), "content");
    let (_, failed) = fetch_tree(&client, "l", &here.path().join("l")).await;
    assert_eq!(failed, [("/l".to_owned(), Some(ErrorCode::SPECIAL_FILE))]);
    raw.close().await;
    client.close().await;
    server.stop().await;
}

/// A tree larger than all windows and read-ahead, with names such as `d/a/000`.
fn large() -> (Tree, usize) {
    let files = LARGE / ENCLOSED_BYTES_MAX + 8;
    let tree = Tree::new().directory("d/b");
    for file in 0..files {
        let bytes = content(file as u64, ENCLOSED_BYTES_MAX);
        tree.write(&format!("d/a/{file:03}"), bytes);
    }
    (tree, files)
}

/// The stream of the tree `d`, which the server has started to send.
async fn walking(raw: &Raw) -> RecvStream {
    let (mut send, mut recv) = raw.begin(get_tree("d", ENCLOSED_BYTES_MAX)).await;
    send.finish().unwrap();
    let begun = reply::<Attributes>(&mut recv).await.unwrap();
    begun.into_result().unwrap();
    recv
}

// P21
#[tokio::test]
async fn a_stalled_client_delays_no_change_and_learns_what_became_of_the_rest() {
    let (tree, files) = large();
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    let mut recv = walking(&raw).await;
    let last = format!("d/a/{:03}", files - 1);
    within("a put", store(&client, &last, b"new"))
        .await
        .unwrap();
    for file in 0..files - 1 {
        fs::remove_file(tree.path(&format!("d/a/{file:03}"))).unwrap();
    }
    let steps = steps(&mut recv).await;
    let whole = |step: &&ReceivedItem| matches!(step, ReceivedItem::File(_, ENCLOSED_BYTES_MAX));
    let sent = steps.iter().filter(whole).count();
    assert!(sent < files - 1, "{sent} of {files} were read ahead");
    assert!(steps.contains(&ReceivedItem::File(format!("{:03}", files - 1), 3)));
    assert_eq!(steps.last(), Some(&ReceivedItem::Left(AT_END)));
    assert_eq!(client.stat(stat(&last)).await.unwrap().size, 3);
    client.close().await;
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_another_when_the_walk_comes_back_to_it_is_left() {
    let (tree, _) = large();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let mut recv = walking(&raw).await;
    // The walk is in `d/a`, whose files exceed all windows.
    fs::rename(tree.path("d"), tree.path("e")).unwrap();
    let tree = tree.directory("d/b");
    let steps = steps(&mut recv).await;
    let missing = Left {
        unnameable: 0,
        failure: Some(Failure::new(ErrorCode::NOT_FOUND)),
        raw_names: Vec::new(),
    };
    assert_eq!(steps.last(), Some(&ReceivedItem::Left(missing)));
    assert!(!steps.contains(&ReceivedItem::Entered("b".to_owned())));
    assert!(tree.has("e/b"));
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_wants_no_more_of_a_tree_ends_it() {
    let (tree, _) = large();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let mut recv = walking(&raw).await;
    recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
    // Fails if anything is left of the request.
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reader_may_fetch_a_tree() {
    let tree = Tree::new().file("d/f", "content");
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.connect(&server.keys().reader).await.unwrap();
    let (_, failed) = fetch_tree(&client, "", &here.path().join("all")).await;
    assert_eq!(failed, []);
    assert_same(fs::read(here.path().join("all/d/f")).unwrap(), "content");
    assert_eq!(
        refusal(store(&client, "d/g", b"x").await),
        ErrorCode::NOT_AUTHORIZED
    );
    client.close().await;
    server.stop().await;
}

// P39
#[tokio::test]
async fn rules_hold_for_each_file_and_directory_of_a_tree() {
    let tree = Tree::new()
        .file("d/a", "content")
        .file("d/private/secret", "hidden")
        .file("d/names/f", "shown by name only")
        .file("d/in/x", "hidden");
    let rules = "read,/d/private=none,/d/names=list,/d/in=get";
    let server = TestServer::builder(&tree).anonymous(rules).start().await;
    let client = server.connect(&server.keys().stranger).await.unwrap();
    let here = scratch();
    let (_, failed) = fetch_tree(&client, "d", &here.path().join("d")).await;
    let refused = Some(ErrorCode::NOT_AUTHORIZED);
    assert_eq!(failed, [("/d/names/f".to_owned(), refused)]);
    assert_eq!(names(&here.path().join("d")), ["a", "names"]);
    let raw = Raw::connect(&server, &server.keys().stranger).await;
    for hidden in ["d/private", "d/missing/x"] {
        let request = encoded(get_tree(hidden, 0));
        assert_eq!(
            raw.refusal(&request).await,
            ErrorCode::NOT_FOUND,
            "{hidden}"
        );
    }
    raw.close().await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn files_that_are_there_are_refused_before_their_bytes_come() {
    let tree = Tree::new();
    for file in 0..50 {
        tree.write(&format!("d/{}/{file}", file % 3), content(file, 5 * KIB));
    }
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    let to = here.path().join("d");
    fetch_tree(&client, "d", &to).await;
    fs::remove_file(to.join("1/1")).unwrap();
    let (transfer, failed) = fetch_tree(&client, "d", &to).await;
    assert_eq!(failed.len(), 49);
    assert_eq!((transfer.files(), transfer.moved()), (1, 5 * KIB as u64));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_too_deep_for_a_path_fails_alone_and_by_name() {
    let tree = Tree::new().file("d/a", "x").file("d/z", "x");
    let deep = format!("d/b{}", "/x".repeat(260));
    let tree = tree.directory(&deep);
    let (server, here) = (TestServer::start(&tree).await, scratch());
    let client = server.client().await;
    let to = here.path().join("d");
    let (transfer, failed) = fetch_tree(&client, "d", &to).await;
    let [(name, _)] = failed.try_into().unwrap();
    assert!(name.starts_with("/d/b/x/x"), "{name}");
    assert_eq!(transfer.files(), 2);
    assert_eq!(names(&to), ["a", "b", "z"]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_tree_fetched_into_itself_has_what_was_there_before() {
    let tree = Tree::new()
        .file("d/a/f", "x")
        .directory("d/into")
        .file("d/z/f", "x");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let to = tree.path("d/into/d");
    let (_, failed) = fetch_tree(&client, "d", &to).await;
    assert_eq!(failed, []);
    assert_eq!(names(&to), ["a", "into", "z"]);
    assert!(names(&to.join("into")).is_empty());
    assert_eq!(names(&to.join("z")), ["f"]);
    client.close().await;
    server.stop().await;
}
