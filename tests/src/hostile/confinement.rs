//! Nothing outside the root is reached, whatever the request and however the root changes meanwhile.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use minicbor::Encoder;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use quire_server::files::{Caller, Files};
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Copy, Delete, Entry, List, MakeDirectory, Precondition, Put, Request,
};
use quire_shared::{Name, RemotePath};
use tokio::task::JoinSet;

use quire_test_harness::arena::say;
use quire_test_harness::client::{
    copy, delete, delete_all, fetch, list, make_directory, rename, store,
};
use quire_test_harness::tree::names;
use quire_test_harness::{TestServer, Tree, files};
use quire_transport::body::BodySink;

/// Content that must never be sent.
const CANARY: &str = "what lies outside";

/// Fewest rounds of each task of the race.
const ROUNDS_MIN: u32 = 150;

/// A name that exists nowhere inside the root.
const HIDDEN: &str = "hidden";

/// Names that some programs treat specially, and some that lead nowhere.
const NAMES: &[&str] = &[
    "a",
    "b",
    "d",
    "f",
    "absolute",
    "upwards",
    "within",
    "loop",
    "dangling",
    "outside",
    "canary",
    "..",
    ".",
    "",
    "/",
    "//",
    "/etc",
    "../outside",
    "..\\outside",
    "a/../..",
    "%2e%2e",
    "..%2f",
    "\u{2025}",
    "\u{ff0e}\u{ff0e}",
    "..\0",
    "\0",
    "~",
    "~root",
    "C:",
    "nul",
    "$HOME",
    "*",
    ".quire-staging",
    ".QUIRE-STAGING",
    ".quire-x",
    "a\n",
    "-rf",
    "\u{1b}[2J",
    "d\u{301}",
];

/// A root with every kind of way out, and a directory with a canary beside it.
fn tree() -> Tree {
    let tree = Tree::new()
        .file("a", "inside")
        .file("d/f", "inside")
        .directory("d/d")
        .link("within", "d")
        .link("dangling", "nowhere")
        .link("loop", "loop")
        .link("upwards", "../outside")
        .link("d/upwards", "../../outside");
    let outside = tree.outside();
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("canary"), CANARY).unwrap();
    std::fs::write(outside.join(HIDDEN), "").unwrap();
    symlink(&outside, tree.path("absolute")).unwrap();
    symlink(outside.join("canary"), tree.path("b")).unwrap();
    tree
}

#[track_caller]
fn assert_untouched(outside: &Path) {
    assert_eq!(names(outside), ["canary", HIDDEN]);
    let canary = std::fs::read_to_string(outside.join("canary")).unwrap();
    assert_eq!(canary, CANARY);
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(NAMES).prop_map(str::to_owned),
        1 => "\\PC{0,12}",
        1 => (0..300_usize).prop_map(|length| "x".repeat(length)),
    ]
}

fn path() -> impl Strategy<Value = Vec<String>> {
    vec(name(), 0..5)
}

/// A request of any kind with these paths, in bytes that no honest client would send.
fn request(kind: u8, from: &[String], to: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    let path = |encoder: &mut Encoder<&mut Vec<u8>>, names: &[String]| {
        encoder.array(names.len() as u64).unwrap();
        for name in names {
            encoder.str(name).unwrap();
        }
    };
    encoder.array(2).unwrap().u8(kind).unwrap();
    let has_two = matches!(kind, 6 | 9);
    let has_flag = matches!(kind, 7..=9);
    let pairs = 1 + u64::from(has_two) + u64::from(has_flag);
    encoder.map(pairs).unwrap().u8(0).unwrap();
    path(&mut encoder, from);
    if has_two {
        encoder.u8(1).unwrap();
        path(&mut encoder, to);
    }
    if has_flag {
        let key = if kind == 9 { 2 } else { 1 };
        encoder.u8(key).unwrap().bool(true).unwrap();
    }
    bytes
}

/// Puts a file of one byte, with the directories above it.
async fn put_a_byte(files: &Files, caller: &Caller, path: RemotePath) {
    let put = Put {
        path,
        size: Some(1),
        modified: None,
        mode: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        make_parents: true,
        preserve: Default::default(),
        details: None,
    };
    let Ok(mut upload) = files.put(caller, put).await else {
        return;
    };
    upload.write(vec![Bytes::from_static(b"x")]).await.unwrap();
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(b"x");
    let _ = upload.commit(&hasher.finish()).await;
}

/// Carries out a request as a front end would; only the bytes that come out matter.
async fn carry_out(files: &Files, caller: &Caller, request: Request) {
    match request {
        Request::Get(get) => {
            let Ok(mut content) = files.get(caller, &get).await else {
                return;
            };
            let mut bytes = Vec::new();
            while let Ok(Some(piece)) = content.next(usize::MAX).await {
                bytes.extend_from_slice(&piece);
            }
            assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "{get:?}");
        }
        Request::Hash(hash) => drop(files.hash(caller, &hash.path, hash.digest).await),
        Request::Put(put) => put_a_byte(files, caller, put.path).await,
        Request::List(list) => {
            let request = List {
                path: list.path,
                after: None,
            };
            let Ok(listing) = files.list(caller, request).await else {
                return;
            };
            let (part, _) = listing.next(|_| true).await.unwrap();
            let is_hidden = |entry: &Entry| entry.name.as_str() == HIDDEN;
            assert!(!part.entries.iter().any(is_hidden));
        }
        Request::Stat(stat) => drop(files.stat(caller, &stat).await),
        Request::Rename(rename) => drop(files.rename(caller, rename).await),
        Request::Delete(delete) => {
            let delete = Delete {
                recursive: true,
                ..delete
            };
            drop(files.delete(caller, delete).await);
        }
        Request::MakeDirectory(make) => {
            let make = MakeDirectory {
                make_parents: true,
                ..make
            };
            drop(files.make_directory(caller, make).await);
        }
        Request::Copy(copy) => {
            let copy = Copy {
                recursive: true,
                ..copy
            };
            drop(files.copy(caller, copy).await);
        }
        _ => {}
    }
}

// P33
#[tokio::test]
async fn of_a_hundred_thousand_paths_none_leads_out() {
    let mut tree = tree();
    let mut files = files::open(&tree.root());
    let mut caller = files::caller(&files, "write");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = (2..=10_u8, path(), path());
    let mut refused = 0;
    let mut tried = 0;
    for round in 0..100_000 {
        let (kind, from, to) = strategy.new_tree(&mut runner).unwrap().current();
        let Ok(request) = codec::decode::<Request>(&request(kind, &from, &to)) else {
            refused += 1;
            continue;
        };
        tried += 1;
        carry_out(&files, &caller, request).await;
        // Deletions have left little by then.
        if round % 500 == 499 {
            assert_untouched(&tree.outside());
            drop(files);
            tree = self::tree();
            files = files::open(&tree.root());
            caller = files::caller(&files, "write");
        }
    }
    assert!(
        refused > 10_000 && tried > 10_000,
        "{refused} refused, {tried} tried"
    );
    assert_untouched(&tree.outside());
}

/// Replaces a directory by a link that leads out, and back, until told to stop.
fn flip(tree: &Tree, is_over: &mpsc::Receiver<()>) {
    let (directory, link) = (tree.path("d"), tree.path("absolute"));
    while is_over.try_recv() == Err(mpsc::TryRecvError::Empty) {
        let here = rustix::fs::CWD;
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        // Fails while the server holds the directory.
        let _ = rustix::fs::renameat_with(here, &directory, here, &link, flags);
    }
}

// P19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_turns_into_a_link_and_back_leads_nowhere() {
    race(Duration::ZERO).await;
}

// P19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "60 s"]
async fn a_directory_that_turns_into_a_link_and_back_leads_nowhere_for_a_minute() {
    race(Duration::from_secs(60)).await;
}

/// Sends every request for a directory that is replaced by a link and back all the time, for at least
/// some rounds and this long.
async fn race(time: Duration) {
    let end = Instant::now() + time;
    let tree = tree();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let (going_on, is_over) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        // Moved in here, so that the other thread ends on a failure as well.
        let going_on = going_on;
        let flipped = &tree;
        scope.spawn(move || flip(flipped, &is_over));
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let mut tasks = JoinSet::new();
                for task in 0..4 {
                    let client = client.clone();
                    tasks.spawn(async move {
                        for round in 0_u32.. {
                            if round >= ROUNDS_MIN && Instant::now() >= end {
                                return round;
                            }
                            let mine = format!("d/{task}");
                            for name in ["d/canary", "d/f", mine.as_str()] {
                                if let Ok(content) = fetch(&client, name).await {
                                    assert_ne!(content, CANARY.as_bytes());
                                }
                            }
                            if let Ok(entries) = list(&client, "d").await {
                                assert!(entries.iter().all(|entry| entry.name != name(HIDDEN)));
                            }
                            let _ = store(&client, &mine, b"inside").await;
                            let _ = client
                                .rename(rename(&mine, &format!("{mine}-{round}")))
                                .await;
                            let _ = client
                                .copy(copy("d/canary", &format!("taken-{task}")))
                                .await;
                            let _ = client
                                .make_directory(make_directory(&format!("{mine}-dir")))
                                .await;
                            let _ = client.delete(delete("d/canary")).await;
                            let _ = client.delete(delete_all(&format!("{mine}-dir"))).await;
                            let _ = client.delete(delete(&format!("{mine}-{round}"))).await;
                        }
                        unreachable!("rounds end at their time");
                    });
                }
                let rounds = tasks.join_all().await;
                say(&format!("{rounds:?} rounds of eleven requests"));
            });
        });
        drop(going_on);
    });
    assert_untouched(&tree.outside());
    for task in 0..4 {
        let taken = std::fs::read(tree.path(&format!("taken-{task}"))).unwrap_or_default();
        assert_ne!(taken, CANARY.as_bytes());
    }
    client.close().await;
    server.stop().await;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }
}
