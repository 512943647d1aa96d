//! Files with holes: the other end has the same holes, and the holes don't travel.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use quire_client::download::PartUse;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Changed, Failure, Get, GetHeader, Put, PutOffset, Reply, Request, ResumePut, Time, Trailer,
    Version,
};
use quire_shared::{ErrorCode, RemotePath, codec};
use quire_test_harness::client::{copy, get, path, put};
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::raw::{encoded, message, refusal_on, reply};
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{KIB, TestServer, Tree, assert_same, content, skip, within};

use super::resume::{MIB, interrupt_get, is_written};
use super::resume_puts::{interrupt_put, is_received};
use crate::tree::get_trees::fetch_tree;
use crate::tree::put_trees::store_tree;

/// The size of the files here.
const SPARSE: usize = 24 * MIB;

/// Where the data of each file is: offset and length.
const LAYOUTS: [(&str, &[(usize, usize)]); 6] = [
    ("hole-at-start", &[(SPARSE - MIB, MIB)]),
    ("hole-in-middle", &[(0, MIB), (SPARSE - MIB - 5, MIB + 5)]),
    ("hole-at-end", &[(0, 3 * MIB + 1)]),
    ("all-hole", &[]),
    (
        "islands",
        &[
            (MIB, 1),
            (3 * MIB, 4 * KIB),
            (3 * MIB + 8 * KIB, 4 * KIB),
            (20 * MIB, 64 * KIB),
        ],
    ),
    ("holes-of-64-KiB", &[(0, 64 * KIB), (128 * KIB, 64 * KIB)]),
];

/// Makes a file that has data only where `islands` says.
fn make_sparse(at: &Path, islands: &[(usize, usize)]) {
    let file = File::create(at).unwrap();
    file.set_len(SPARSE as u64).unwrap();
    for (number, (offset, length)) in islands.iter().enumerate() {
        let data = content(number as u64 + 1, *length);
        file.write_all_at(&data, *offset as u64).unwrap();
    }
}

fn taken(at: &Path) -> u64 {
    fs::metadata(at).unwrap().blocks() * 512
}

/// Checks that two files have the same content, and that the second one has holes.
#[track_caller]
fn assert_same_holes(from: &Path, to: &Path) {
    assert_same(fs::read(to).unwrap(), fs::read(from).unwrap());
    let (from, to) = (taken(from), taken(to));
    assert!(to <= from + 512 * KIB as u64, "{from} became {to}");
}

/// Whether files may have holes where tests keep theirs.
fn holes_are_there() -> bool {
    let local = scratch();
    let file = local.path().join("f");
    make_sparse(&file, &[]);
    let are_there = taken(&file) < MIB as u64;
    if !are_there {
        skip("the file system of the tests has no holes");
    }
    are_there
}

/// A directory with a file of each layout.
fn layouts() -> tempfile::TempDir {
    let local = scratch();
    for (name, islands) in LAYOUTS {
        make_sparse(&local.path().join(name), islands);
    }
    local
}

// P59
#[tokio::test]
async fn a_file_keeps_its_holes_in_both_directions_and_when_it_is_copied() {
    if !holes_are_there() {
        return;
    }
    let (local, got, tree) = (layouts(), scratch(), Tree::new());
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for (kind, (name, _)) in DigestKind::ALL.into_iter().cycle().zip(LAYOUTS) {
        let source = local.path().join(name);
        let upload = client.upload(path(name)).digest(kind);
        let stored = upload.from_file(&source).await.unwrap();
        assert_eq!(stored.bytes, SPARSE as u64);
        assert_eq!(stored.digest, kind.of(&fs::read(&source).unwrap()));
        assert_same_holes(&source, &tree.path(name));

        let target = got.path().join(name);
        let download = client.download(path(name)).digest(kind);
        let fetched = download.to_file(&target).await.unwrap();
        assert_eq!(
            (fetched.bytes, fetched.digest),
            (stored.bytes, stored.digest)
        );
        assert_same_holes(&source, &target);

        client.copy(copy(name, "copy")).await.unwrap();
        assert_same_holes(&source, &tree.path("copy"));

        let bytes = client.download(path(name)).to_vec().await.unwrap();
        assert_same(bytes, fs::read(&source).unwrap());
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn files_of_a_tree_keep_their_holes() {
    if !holes_are_there() {
        return;
    }
    let (local, got, tree) = (layouts(), scratch(), Tree::new());
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let (_, failed) = store_tree(&client, local.path(), "t", false).await;
    assert_eq!(failed, []);
    let (_, failed) = fetch_tree(&client, "t", &got.path().join("t")).await;
    assert_eq!(failed, []);
    for (name, _) in LAYOUTS {
        let source = local.path().join(name);
        assert_same_holes(&source, &tree.path("t").join(name));
        assert_same_holes(&source, &got.path().join("t").join(name));
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_has_no_holes_gets_none() {
    let (local, tree) = (scratch(), Tree::new());
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let (source, target) = (local.path().join("f"), local.path().join("g"));
    fs::write(&source, vec![0; 4 * MIB]).unwrap();
    client.upload(path("f")).from_file(&source).await.unwrap();
    client.download(path("f")).to_file(&target).await.unwrap();
    for file in [tree.path("f"), target] {
        assert!(taken(&file) >= 4 * MIB as u64, "{}", file.display());
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn ranges_begin_and_end_in_data_and_in_holes() {
    if !holes_are_there() {
        return;
    }
    let (tree, local) = (Tree::new(), scratch());
    make_sparse(&tree.path("f"), LAYOUTS[4].1);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let whole = tree.read("f");
    for (from, to) in [
        (0, 1),
        (MIB, MIB + 1),
        (MIB / 2, 2 * MIB),
        (3 * MIB + 4, 3 * MIB + 10 * KIB),
        (5 * MIB, 20 * MIB + 7),
        (20 * MIB + 7, SPARSE),
        (SPARSE, SPARSE),
    ] {
        let download = || client.download(path("f")).range(from as u64..to as u64);
        assert_same(download().to_vec().await.unwrap(), &whole[from..to]);
        let target = local.path().join(format!("{from}"));
        download().to_file(&target).await.unwrap();
        assert_same(fs::read(target).unwrap(), &whole[from..to]);
    }
    client.close().await;
    server.stop().await;
}

/// The whole answer to a get of a file, as raw bytes.
async fn raw_answer(server: &TestServer, takes_extents: bool) -> Vec<u8> {
    let raw = server.raw().await;
    let get = Get {
        takes_extents,
        ..get("f")
    };
    let (mut send, mut recv) = raw.begin(get).await;
    send.finish().unwrap();
    let bytes = within("an answer", recv.read_to_end(2 * SPARSE))
        .await
        .unwrap();
    raw.close().await;
    bytes
}

// P58
#[tokio::test]
async fn a_hole_travels_as_its_length_to_those_who_know_of_that() {
    if !holes_are_there() {
        return;
    }
    let tree = Tree::new();
    make_sparse(&tree.path("f"), &[(2 * MIB, 4 * KIB)]);
    let server = TestServer::start(&tree).await;
    let framed = raw_answer(&server, true).await;
    assert!(framed.len() < 8 * KIB, "{}", framed.len());
    let plain = raw_answer(&server, false).await;
    assert!(plain.len() > SPARSE, "{}", plain.len());
    // The end of the answer, with the digest, is the same.
    let end = |bytes: &[u8]| bytes[bytes.len() - 16..].to_vec();
    assert_eq!(end(&framed), end(&plain));
    let numbers = [
        0,
        2 * MIB as u64,
        4 * KIB as u64,
        (22 * MIB - 4 * KIB) as u64,
    ];
    let [none, first, data, last] = numbers.map(u64::to_be_bytes);
    let island = content(1, 4 * KIB);
    let body = [&none[..], &first, &data, &last, &island].concat();
    assert!(framed.windows(body.len()).any(|part| part == body));
    server.stop().await;
}

/// The data of a file whose transfer is interrupted.
const INTERRUPTED_DATA: &[(usize, usize)] = &[(0, 16 * MIB), (22 * MIB, MIB)];

/// What has come of it then: the end is in the data, or in the hole.
const PART_ENDS: [usize; 3] = [3 * MIB + 7, 16 * MIB, 19 * MIB + 1];

#[tokio::test]
async fn a_get_goes_on_in_data_and_in_a_hole() {
    if !holes_are_there() {
        return;
    }
    for there in PART_ENDS {
        let (tree, local) = (Tree::new(), scratch());
        make_sparse(&tree.path("f"), INTERRUPTED_DATA);
        let server = TestServer::start(&tree).await;
        let client = server.client().await;
        let target = local.path().join("f");
        interrupt_get(&server, &target, 4 * MIB as u64).await;
        let part = part_in(local.path());
        is_written(&part).await;
        keep_first(&part, &tree.path("f"), there);
        let fetched = client.download(path("f")).to_file(&target).await.unwrap();
        assert_eq!(fetched.part, PartUse::Continued(there as u64));
        assert_eq!(fetched.bytes, SPARSE as u64);
        assert_same_holes(&tree.path("f"), &target);
        assert_eq!(names(local.path()), ["f"]);
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_put_goes_on_in_data_and_in_a_hole() {
    if !holes_are_there() {
        return;
    }
    for there in PART_ENDS {
        let (tree, local) = (Tree::new(), scratch());
        let source = local.path().join("f");
        make_sparse(&source, INTERRUPTED_DATA);
        let server = TestServer::start(&tree).await;
        let client = server.client().await;
        interrupt_put(&server, &source, 6 * MIB as u64).await;
        is_received(&client).await;
        keep_first(&part_in(&tree.path(".quire-staging")), &source, there);
        let stored = client.upload(path("f")).from_file(&source).await.unwrap();
        assert_eq!(stored.part, PartUse::Continued(there as u64));
        assert_eq!(stored.bytes, SPARSE as u64);
        assert_same_holes(&source, &tree.path("f"));
        client.close().await;
        server.stop().await;
    }
}

/// The part that was left in a directory.
fn part_in(directory: &Path) -> PathBuf {
    let is_part = |name: &String| {
        let is_left = name.starts_with("upload-") || name.starts_with(".quire-get-");
        is_left && !name.ends_with(".journal")
    };
    let left = names(directory).into_iter().find(is_part);
    directory.join(left.expect("something is left"))
}

/// Makes a part have the first `length` bytes of `of`.
fn keep_first(part: &Path, of: &Path, length: usize) {
    let data = length.min(16 * MIB);
    let part = File::options().write(true).open(part).unwrap();
    part.write_all_at(&fs::read(of).unwrap()[..data], 0)
        .unwrap();
    part.set_len(length as u64).unwrap();
}

/// Plays a server of an earlier version on the next request, which is an upload.
async fn take_as_before(connection: &quinn::Connection, knows_parts: bool) -> Vec<u8> {
    if !knows_parts {
        let (_, mut send, _recv) = fake::request(connection).await;
        let failure = Failure::new(ErrorCode::UNSUPPORTED);
        fake::send(&mut send, &Reply::<Changed>::Failed(failure)).await;
        send.finish().unwrap();
    }
    let (request, mut send, mut recv) = fake::request(connection).await;
    if let Request::ResumePut(resume) = &request {
        assert!(resume.in_extents.is_some());
        let offset = 0;
        let in_extents = false;
        let answer = PutOffset { offset, in_extents };
        fake::send(&mut send, &Reply::Ok(answer)).await;
    }
    let mut body = vec![0; SPARSE];
    recv.read_exact(&mut body).await.unwrap();
    let trailer: Trailer = message(&mut recv).await.unwrap();
    assert_eq!(trailer.digest, DigestKind::Xxh3.of(&body));
    let version = Version::new(b"1").unwrap();
    fake::send(&mut send, &Reply::Ok(Changed { version })).await;
    send.finish().unwrap();
    body
}

#[tokio::test]
async fn a_server_of_an_earlier_version_gets_the_zeros() {
    for knows_parts in [true, false] {
        let local = scratch();
        let source = local.path().join("f");
        make_sparse(&source, LAYOUTS[1].1);
        let expected = fs::read(&source).unwrap();
        let server = FakeServer::start(async move |connection| {
            let body = take_as_before(&connection, knows_parts).await;
            assert_same(body, expected);
        });
        let client = server.client().await;
        let stored = client.upload(path("f")).from_file(&source).await.unwrap();
        assert_eq!(stored.bytes, SPARSE as u64);
        client.close().await;
        server.stop().await;
    }
}

const THEN: Time = Time {
    seconds: 1,
    nanoseconds: 0,
};

/// The upload of a file that is one hole.
fn all_hole(name: &str, size: u64) -> ResumePut {
    let put = Put {
        size: Some(size),
        modified: Some(THEN),
        ..put(name, 0)
    };
    let in_extents = Some(0);
    ResumePut { put, in_extents }
}

/// An extent without its data.
fn extent(data: u64, hole: u64) -> Vec<u8> {
    [data.to_be_bytes(), hole.to_be_bytes()].concat()
}

/// Bodies of `SPARSE` bytes that no sender may send.
fn wrong_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let size = SPARSE as u64;
    let half = extent(0, size / 2);
    vec![
        ("nothing", extent(0, 0)),
        (
            "nothing, in the middle",
            [half.clone(), extent(0, 0)].concat(),
        ),
        ("one byte", extent(1, 0)),
        ("a short hole", extent(0, 64 * KIB as u64 - 1)),
        ("too long a hole", extent(0, 1 << 60)),
        ("too long by one", extent(0, size + 1)),
        ("too much data", extent(u64::MAX, 0)),
        ("more than can be counted", extent(u64::MAX, size + 1)),
        (
            "too long a rest",
            [half.clone(), extent(0, size / 2 + 1)].concat(),
        ),
        (
            "more behind the end",
            [extent(0, size), extent(0, size)].concat(),
        ),
        ("no beginning", Vec::new()),
        ("half a beginning", extent(0, size)[..9].to_vec()),
        ("half of its data", [extent(size, 0), vec![7; MIB]].concat()),
        ("half of its extents", half),
    ]
}

// P58
#[tokio::test]
async fn a_server_refuses_extents_that_break_the_rules() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for (number, (what, body)) in wrong_bodies().into_iter().enumerate() {
        let name = number.to_string();
        let (mut send, mut recv) = raw.begin(all_hole(&name, SPARSE as u64)).await;
        let answer = reply::<PutOffset>(&mut recv).await.unwrap();
        let offset = answer.into_result().unwrap();
        assert!(
            offset.in_extents && offset.offset == 0,
            "{what}: {offset:?}"
        );
        let _ = send.write_all(&body).await;
        let _ = send.finish();
        let code = refusal_on(&mut recv).await;
        assert_eq!(code, ErrorCode::MALFORMED, "{what}");
        assert!(!tree.has(&name), "{what}");
    }
    let client = server.client().await;
    is_received(&client).await;
    let removed = client.unfinished_uploads(RemotePath::default(), true);
    assert!(!removed.await.unwrap().is_empty());
    client.close().await;
    raw.close().await;
    server.stop().await;
}

// P58
#[tokio::test]
async fn a_client_refuses_extents_that_break_the_rules() {
    for (what, body) in wrong_bodies() {
        let header = GetHeader {
            version: Version::new(b"1").unwrap(),
            size: SPARSE as u64,
            length: SPARSE as u64,
            modified: THEN,
            mode: 0o644,
            in_extents: true,
            details: None,
        };
        let answer = [codec::encode(&Reply::Ok(header)).unwrap(), body].concat();
        let server = FakeServer::start(async move |connection| {
            let (_, mut send, _recv) = fake::request(&connection).await;
            let _ = send.write_all(&answer).await;
            let _ = send.finish();
        });
        let client = server.client().await;
        let local = scratch();
        let target = local.path().join("f");
        client
            .download(path("f"))
            .to_file(&target)
            .await
            .unwrap_err();
        assert!(!target.exists(), "{what}");
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_size_beyond_every_disk_is_refused_also_for_a_hole() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let request = encoded(all_hole("f", 1 << 60));
    assert_eq!(raw.refusal(&request).await, ErrorCode::NO_SPACE);
    raw.close().await;
    server.stop().await;
}
