//! Whole trees, from a server that may send them in any state.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quire_client::ClientError;
use quire_client::ErrorKind;
use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer, TransferEvent};
use quire_shared::codec;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::path::RawName;
use quire_shared::protocol::{
    Attributes, Entry, EntryKind, Failure, GetHeader, Left, Message, Missed, Reply, Request,
    Trailer, TreeItem,
};
use quire_shared::{ErrorCode, Name};
use quire_transport::stream::{Priority, Sender};
use tempfile::TempDir;

use quire_test_harness::fake::FakeConnection;
use quire_test_harness::within;

use crate::{attributes, entry, failed, header, names, path, trailer};

/// Bytes of a tree, as a server may send them.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn message(mut self, message: &impl Message) -> Self {
        codec::append(message, &mut self.0).unwrap();
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn entered(self, name: &str) -> Self {
        self.message(&TreeItem::Entered(entry(name, EntryKind::Directory)))
    }

    fn described(self, name: &str, kind: EntryKind) -> Self {
        self.message(&TreeItem::Described(entry(name, kind)))
    }

    fn left(self) -> Self {
        self.message(&TreeItem::Left(Left::default()))
    }

    /// A file with the content `abc`, and a trailer for `proved`.
    fn file(self, name: &str, proved: &[u8]) -> Self {
        self.message(&TreeItem::Enclosed(entry(name, EntryKind::File)))
            .bytes(b"abc")
            .message(&Reply::Ok(trailer(proved)))
    }
}

/// What became of a tree.
struct FetchedTree {
    directory: TempDir,
    transfer: Arc<Transfer>,
    errors: Arc<Mutex<Vec<FailedItem>>>,
}

/// What failed, with which code, and in words.
type FailedItem = (String, Option<ErrorCode>, String);

impl FetchedTree {
    fn target(&self) -> std::path::PathBuf {
        self.directory.path().join("top")
    }

    /// The names and errors that were reported.
    fn errors(&self) -> Vec<(String, String)> {
        let errors = self.errors.lock().unwrap();
        let errors = errors.iter();
        errors
            .map(|(name, _, text)| (name.clone(), text.clone()))
            .collect()
    }

    fn codes(&self) -> Vec<(String, Option<ErrorCode>)> {
        let errors = self.errors.lock().unwrap();
        let errors = errors.iter();
        errors
            .map(|(name, code, _)| (name.clone(), *code))
            .collect()
    }

    /// Fails unless nothing is outside of the target.
    fn assert_confined(&self) {
        assert_eq!(names(self.directory.path()), ["top"]);
    }
}

/// Fetches `d` from a server that plays `script`, in pieces of `piece` bytes, and prepares the
/// place for it as `prepare` does.
async fn fetch_from(script: Script, piece: usize, prepare: impl FnOnce(&Path)) -> FetchedTree {
    let pair = FakeConnection::open().await;
    let directory = tempfile::tempdir().unwrap();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&errors);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            let error = (name.to_string(), error.code(), error.to_string());
            log.lock().unwrap().push(error);
        }
    });
    let fetched = FetchedTree {
        directory,
        transfer,
        errors,
    };
    prepare(&fetched.target());
    let items = vec![DownloadJob {
        from: path("d"),
        to: fetched.target(),
        contents: false,
    }];
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    tokio::select! {
        () = transfer::fetch(&pair.client, items, options, &fetched.transfer) => {}
        () = serve(&pair, script, piece) => {}
    }
    fetched
}

/// Answers all requests: the tree as `script` says, `d/f` with `abc`, others not at all.
async fn serve(pair: &FakeConnection, script: Script, piece: usize) {
    let mut streams = Vec::new();
    loop {
        let (request, mut sender, receiver) = pair.request().await;
        match request {
            Request::GetTree(_) => {
                let top = Reply::Ok(attributes(EntryKind::Directory));
                sender.send(&top).await.unwrap();
                play(&mut sender, &script.0, piece).await;
            }
            Request::Get(get) if get.path == path("d/f") => {
                sender.send(&Reply::Ok(header(3))).await.unwrap();
                sender.send_bytes(Bytes::from_static(b"abc")).await.unwrap();
                sender.send(&Reply::Ok(trailer(b"abc"))).await.unwrap();
            }
            _ => {
                let gone = failed::<GetHeader>(ErrorCode::NOT_FOUND);
                sender.send(&gone).await.unwrap();
            }
        }
        let _ = sender.finish();
        // Dropping one would tell the client to stop.
        streams.push((sender, receiver));
    }
}

async fn play(sender: &mut Sender, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        // A client that has seen enough stops the stream.
        if sender
            .send_bytes(Bytes::copy_from_slice(piece))
            .await
            .is_err()
        {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn seconds(path: &Path) -> u64 {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs()
}

#[tokio::test]
async fn a_tree_arrives_with_its_times_and_without_links() {
    let gone = Missed {
        name: Name::new("gone").unwrap(),
        failure: Failure::new(ErrorCode::NOT_FOUND),
    };
    for piece in [1, 7, 4096] {
        let script = Script::default()
            .file("a", b"abc")
            .entered("empty")
            .left()
            .described("f", EntryKind::File)
            .message(&TreeItem::Missed(gone.clone()))
            .described("link", EntryKind::Symlink)
            .described("pipe", EntryKind::Other)
            .entered("z")
            .file("a", b"abc")
            .left()
            .left();
        let fetched = fetch_from(script, piece, |_| {}).await;
        let (target, transfer) = (fetched.target(), &fetched.transfer);
        assert_eq!(names(&target), ["a", "empty", "f", "z"]);
        for file in ["a", "f", "z/a"] {
            assert_eq!(fs::read(target.join(file)).unwrap(), b"abc", "{file}");
        }
        for path in ["", "a", "empty", "f", "z", "z/a"] {
            assert_eq!(seconds(&target.join(path)), 1_000_000_000, "{path}");
        }
        assert_eq!((transfer.files(), transfer.directories()), (3, 3));
        assert_eq!((transfer.skipped(), transfer.failed()), (2, 1));
        assert_eq!((transfer.moved(), transfer.expected()), (9, 9));
        assert_eq!(
            transfer.first_failure(),
            Some(ErrorKind::NotFound),
            "one file had gone"
        );
    }
}

// P42
#[tokio::test]
async fn a_file_that_is_damaged_or_changed_fails_alone_and_leaves_nothing() {
    let changed = failed::<Trailer>(ErrorCode::CHANGED);
    let script = Script::default()
        .file("bad", b"xyz")
        .message(&TreeItem::Enclosed(entry("changed", EntryKind::File)))
        .bytes(b"ab?")
        .message(&changed)
        .file("good", b"abc")
        .left();
    let fetched = fetch_from(script, 4096, |_| {}).await;
    assert_eq!(names(&fetched.target()), ["good"]);
    let [bad, changed] = fetched.errors().try_into().unwrap();
    assert_eq!(bad, ("/d/bad".into(), ClientError::Damaged.to_string()));
    assert_eq!(
        changed,
        ("/d/changed".into(), ClientError::Changed.to_string())
    );
    assert_eq!(fetched.transfer.first_failure(), Some(ErrorKind::Damaged));
}

// P6, P40
#[tokio::test]
async fn a_stream_that_ends_before_the_tree_does_is_an_error_and_what_came_stays() {
    for script in [
        Script::default().file("a", b"abc"),
        Script::default().file("a", b"abc").entered("b").left(),
        Script::default().file("a", b"abc").bytes(&[0, 0]),
        Script::default()
            .file("a", b"abc")
            .message(&TreeItem::Enclosed(entry("b", EntryKind::File)))
            .bytes(b"ab"),
    ] {
        let fetched = fetch_from(script, 4096, |_| {}).await;
        assert_eq!(fs::read(fetched.target().join("a")).unwrap(), b"abc");
        assert!(!fetched.target().join("b").is_file());
        let expected = ("/d".into(), ClientError::Truncated.to_string());
        assert_eq!(fetched.errors(), [expected]);
        assert_eq!(fetched.transfer.first_failure(), Some(ErrorKind::Damaged));
    }
}

// P40, P41
#[tokio::test]
async fn what_is_no_tree_is_refused() {
    let enclosed = |size: u64, kind| {
        let attributes = Attributes {
            size,
            ..attributes(kind)
        };
        let name = Name::new("b").unwrap();
        TreeItem::Enclosed(Entry { name, attributes })
    };
    let start = || Script::default().file("b", b"abc");
    let scripts = [
        ("a name twice", start().file("b", b"abc").left()),
        ("a name too late", start().entered("a").left().left()),
        ("one end too many", start().left().left()),
        ("bytes behind the end", start().left().bytes(b"x")),
        ("no message", start().bytes(&[0, 0, 0, 1, 0xff])),
        (
            "a directory that is only described",
            start().described("c", EntryKind::Directory).left(),
        ),
        (
            "a file that is entered",
            start().message(&TreeItem::Entered(entry("c", EntryKind::File))),
        ),
        (
            "content of a directory",
            Script::default().message(&enclosed(3, EntryKind::Directory)),
        ),
        (
            "content over the limit",
            Script::default().message(&enclosed(ENCLOSED_BYTES_MAX as u64 + 1, EntryKind::File)),
        ),
    ];
    for (what, script) in scripts {
        let fetched = fetch_from(script, 4096, |_| {}).await;
        let errors = fetched.errors();
        assert_eq!(errors.len(), 1, "{what}: {errors:?}");
        assert_eq!(errors[0].0, "/d", "{what}");
        assert!(errors[0].1.contains("unexpected"), "{what}: {errors:?}");
        fetched.assert_confined();
    }
}

// P33
#[tokio::test]
async fn a_name_that_leads_elsewhere_is_refused() {
    for name in ["..", ".", "", "/etc/x", "../x", "a/b", ".quire-x", "a\0b"] {
        // A file header with this name, byte by byte: no `Name` would have it.
        let mut cbor = vec![0x82, 1, 0xa2, 0, 0x60 + u8::try_from(name.len()).unwrap()];
        cbor.extend_from_slice(name.as_bytes());
        let whole = codec::encode(&TreeItem::Enclosed(entry("n", EntryKind::File))).unwrap();
        // Behind the length, the heads of two containers and of the name, and the name.
        cbor.extend_from_slice(&whole[4 + 4 + 2..]);
        let mut bytes = u32::try_from(cbor.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(cbor);
        let script = Script::default().file("a", b"abc").bytes(&bytes);
        let fetched = fetch_from(script.bytes(b"abc"), 4096, |_| {}).await;
        let errors = fetched.errors();
        assert_eq!(errors.len(), 1, "{name:?}: {errors:?}");
        assert!(errors[0].1.contains("path"), "{name:?}: {errors:?}");
        fetched.assert_confined();
        assert_eq!(names(&fetched.target()), ["a"]);
    }
}

#[tokio::test]
async fn what_goes_into_a_directory_that_cannot_be_made_is_left_out() {
    let script = Script::default()
        .entered("a")
        .file("x", b"abc")
        .entered("y")
        .described("f", EntryKind::File)
        .left()
        .left()
        .file("b", b"abc")
        .left();
    let in_the_way = |target: &Path| {
        fs::create_dir(target).unwrap();
        fs::write(target.join("a"), "mine").unwrap();
        fs::write(target.join("b"), "mine").unwrap();
    };
    let fetched = fetch_from(script, 4096, in_the_way).await;
    let failed: Vec<_> = fetched.errors().into_iter().map(|(name, _)| name).collect();
    assert_eq!(failed, ["/d/a", "/d/b"]);
    assert!(fetched.errors()[0].1.ends_with("3 below it"));
    assert_eq!(fetched.transfer.failed(), 5);
    for file in ["a", "b"] {
        assert_eq!(fs::read(fetched.target().join(file)).unwrap(), b"mine");
    }
    assert_eq!(fetched.transfer.files(), 0);
}

#[tokio::test]
async fn the_rest_of_a_directory_may_be_missing() {
    let left = Left {
        unnameable: 2,
        failure: Some(Failure::new(ErrorCode::DISK)),
        raw_names: vec![RawName::new(b"\n\xff").unwrap()],
    };
    let script = Script::default()
        .entered("a")
        .message(&TreeItem::Left(left))
        .file("b", b"abc")
        .left();
    let fetched = fetch_from(script, 4096, |_| {}).await;
    let expected = [
        ("/d/a".to_owned(), Some(ErrorCode::DISK)),
        ("/d/a".to_owned(), None),
    ];
    assert_eq!(fetched.codes(), expected);
    let told = &fetched.errors()[1].1;
    assert!(told.ends_with(r": \n\xff and others"), "{told}");
    assert_eq!(names(&fetched.target()), ["a", "b"]);
}

/// Answers each request for a file with `LARGE` bytes, once the whole tree was sent.
async fn serve_large(pair: &FakeConnection, tree: Script) {
    let tree = Bytes::from(tree.0);
    let sent = Arc::new(tokio::sync::Semaphore::new(0));
    let mut answers = tokio::task::JoinSet::new();
    loop {
        let (request, mut sender, receiver) = pair.request().await;
        let (tree, sent) = (tree.clone(), Arc::clone(&sent));
        answers.spawn(async move {
            sender.set_priority(Priority::Bulk);
            if let Request::GetTree(_) = request {
                let top = Reply::Ok(attributes(EntryKind::Directory));
                sender.send(&top).await.unwrap();
                sender.send_bytes(tree).await.unwrap();
                sent.close();
            } else {
                // Nobody adds permits: it ends when the tree was sent.
                let _ = sent.acquire().await;
                let body = vec![0; LARGE];
                let trailer = Reply::Ok(trailer(&body));
                sender.send(&Reply::Ok(header(LARGE as u64))).await.unwrap();
                sender.send_bytes(body.into()).await.unwrap();
                sender.send(&trailer).await.unwrap();
            }
            let _ = sender.finish();
            // Dropping it would tell the client to stop.
            receiver
        });
    }
}

/// Bytes of a file that is fetched by itself.
const LARGE: usize = 512 * 1024;

#[tokio::test]
async fn large_files_arrive_while_the_tree_waits_for_them_with_a_full_window() {
    // More than the client queues, so that it stops reading the tree until some have arrived.
    const LARGE_FILES: usize = 330;
    // Almost the window of a stream, which the connection lacks until the tree is read.
    const SMALL_FILES: usize = 31;
    let small = vec![0; 1024 * 1024];
    let mut script = Script::default();
    for number in 0..LARGE_FILES {
        script = script.described(&format!("a{number:04}"), EntryKind::File);
    }
    for number in 0..SMALL_FILES {
        let mut entry = entry(&format!("b{number:04}"), EntryKind::File);
        entry.attributes.size = small.len() as u64;
        script = script
            .message(&TreeItem::Enclosed(entry))
            .bytes(&small)
            .message(&Reply::Ok(trailer(&small)));
    }
    let pair = FakeConnection::open().await;
    let directory = tempfile::tempdir().unwrap();
    let items = vec![DownloadJob {
        from: path("d"),
        to: directory.path().join("top"),
        contents: false,
    }];
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    let transfer = Transfer::new(|_| {});
    let fetching = async {
        tokio::select! {
            () = transfer::fetch(&pair.client, items, options, &transfer) => {}
            () = serve_large(&pair, script.left()) => {}
        }
    };
    within("a tree of large files", fetching).await;
    assert_eq!(transfer.failed(), 0);
    assert_eq!(transfer.files(), (LARGE_FILES + SMALL_FILES) as u64);
}
