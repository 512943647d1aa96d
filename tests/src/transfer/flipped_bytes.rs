//! Single bytes that change between the computation of a digest and its comparison, at every position:
//! a changed content or digest is always noticed, and no file is written.
//!
//! Data before a content has no digest: a change there, for instance of a mode, may go unnoticed, but
//! the content stays right.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use quire_client::ErrorKind;
use quire_server::config::limits::Limit;
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::path::RESERVED_PREFIX;
use quire_shared::protocol::{
    Attributes, Changed, Done, Entry, EntryKind, Failure, Left, Message, Put, PutItem, Reply,
    Request, Time, Trailer, TreeItem, Version,
};

use super::cut_gets::{answer, save_over};
use super::cut_puts::{in_pieces, whole};
use crate::tree::get_trees::fetch_tree;
use crate::tree::put_trees::{PutItems, offer, outcomes};
use quire_test_harness::arena::say;
use quire_test_harness::client::{name, put};
use quire_test_harness::content::Random;
use quire_test_harness::fake::FakeServer;
use quire_test_harness::raw::{self, encoded};
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, Raw, TestServer, Tree, assert_same, content, within};

/// A byte, and which of its bits change.
#[derive(Debug, Clone, Copy)]
struct Flip {
    at: usize,
    bits: u8,
}

impl Flip {
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes[self.at] ^= self.bits;
        bytes
    }
}

/// How many changes are tried.
#[derive(Debug, Clone, Copy)]
enum Each {
    /// One change per byte.
    Byte,
    /// Every change of every byte.
    Value,
}

/// Changes of every byte of `range`.
fn flips(range: Range<usize>, each: Each) -> Vec<Flip> {
    let mut random = Random::new(range.end as u64);
    let mut flips = Vec::new();
    for at in range {
        match each {
            Each::Byte => flips.push(Flip {
                at,
                bits: drawn(&mut random),
            }),
            Each::Value => flips.extend((1..=u8::MAX).map(|bits| Flip { at, bits })),
        }
    }
    flips
}

/// Changes of some bytes of `range`.
fn some_flips(range: Range<usize>, count: usize) -> Vec<Flip> {
    let mut random = Random::new(range.end as u64);
    let mut flip = || Flip {
        at: range.start + random.below(range.len()),
        bits: drawn(&mut random),
    };
    (0..count).map(|_| flip()).collect()
}

/// Some bits, at least one.
fn drawn(random: &mut Random) -> u8 {
    1 + u8::try_from(random.below(255)).unwrap()
}

/// The positions of a content in a message: its bytes, then its digest.
#[derive(Debug, Clone, Copy)]
struct Layout {
    body: usize,
    trailer: usize,
    end: usize,
}

impl Layout {
    /// Whether the digest detects a change of this byte.
    fn is_proved(self, at: usize) -> bool {
        let digest = self.end - DIGEST_BYTES..self.end;
        (self.body..self.trailer).contains(&at) || digest.contains(&at)
    }
}

fn message<M: Message>(message: &M) -> Vec<u8> {
    codec::encode(message).unwrap()
}

fn trailer(body: &[u8]) -> Trailer {
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(body);
    Trailer {
        digest: hasher.finish(),
        grew: false,
    }
}

/// A server that answers requests accepted by `is_meant` with `bytes`, each time with another change,
/// and refuses all others.
fn answers(bytes: Vec<u8>, flips: Vec<Flip>, is_meant: fn(&Request) -> bool) -> FakeServer {
    FakeServer::start(async move |connection| {
        let mut flips = flips.into_iter();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let answer = match raw::message(&mut recv).await {
                Ok(request) if is_meant(&request) => flips.next().unwrap().of(&bytes),
                _ => message(&Reply::<Done>::Failed(Failure::new(ErrorCode::NOT_FOUND))),
            };
            // A client that has seen enough stops the rest.
            let _ = send.write_all(&answer).await;
            let _ = send.finish();
        }
    })
}

/// Fetches a file with each of `flips` in turn.
async fn get_flipped(body: &[u8], choose: impl FnOnce(Layout) -> Vec<Flip>) {
    let whole = answer(body);
    let trailer = whole.len() - message(&Reply::Ok(trailer(body))).len();
    let parts = Layout {
        body: trailer - body.len(),
        trailer,
        end: whole.len(),
    };
    let flips = choose(parts);
    let is_get = |request: &Request| matches!(request, Request::Get(_));
    let fake = answers(whole, flips.clone(), is_get);
    let client = fake.client().await;
    for flip in flips {
        match save_over(&client).await {
            Err(error) if parts.is_proved(flip.at) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{flip:?}: {error}");
            }
            Err(_) => {}
            Ok(saved) => {
                assert!(flip.at < parts.body, "{flip:?} was not noticed");
                assert_same(saved, body);
            }
        }
    }
    client.close().await;
    fake.stop().await;
}

// P22
#[tokio::test]
async fn a_byte_of_a_get_that_changes_is_noticed() {
    get_flipped(&content(1, 300), |parts| flips(0..parts.end, Each::Byte)).await;
    let some = |parts: Layout| some_flips(parts.body..parts.end, 50);
    get_flipped(&content(2, 300 * KIB), some).await;
}

/// The readable files below `directory`, by name.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let unlock = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    if !directory.exists() {
        return found;
    }
    unlock(directory).unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
            continue;
        }
        unlock(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        found.push((name, fs::read(&path).unwrap()));
    }
    found.sort();
    found
}

/// The answer with a directory of two files, and the position of the first file's content.
fn tree_answer(bodies: &[Vec<u8>; 2]) -> (Vec<u8>, Layout) {
    let attributes = |kind, size: usize| Attributes {
        kind,
        size: size as u64,
        modified: Time {
            seconds: 0,
            nanoseconds: 0,
        },
        mode: 0o755,
        version: Version::new(b"1").unwrap(),
        target: None,
        details: None,
        hard_link: None,
    };
    let file = |text: &str, body: &[u8]| {
        let entry = Entry {
            name: name(text),
            attributes: attributes(EntryKind::File, body.len()),
        };
        let item = message(&TreeItem::Enclosed(entry));
        (item.len(), [item, body.to_vec()].concat())
    };
    let proof = |body: &[u8]| message(&Reply::Ok(trailer(body)));
    let top = message(&Reply::Ok(attributes(EntryKind::Directory, 0)));
    let (header, first) = file("a", &bodies[0]);
    let parts = Layout {
        body: top.len() + header,
        trailer: top.len() + first.len(),
        end: top.len() + first.len() + proof(&bodies[0]).len(),
    };
    let second = file("b", &bodies[1]).1;
    let left = message(&TreeItem::Left(Left::default()));
    let all = [
        top,
        first,
        proof(&bodies[0]),
        second,
        proof(&bodies[1]),
        left,
    ];
    (all.concat(), parts)
}

/// Fetches a directory of two files with each of `flips` in turn.
async fn get_tree_flipped(bodies: [Vec<u8>; 2], choose: impl FnOnce(Layout, usize) -> Vec<Flip>) {
    let (whole, first) = tree_answer(&bodies);
    let flips = choose(first, whole.len());
    let is_tree = |request: &Request| matches!(request, Request::GetTree(_));
    let fake = answers(whole, flips.clone(), is_tree);
    let client = fake.client().await;
    for flip in flips {
        let local = scratch();
        let to = local.path().join("t");
        let (transfer, _) = fetch_tree(&client, "t", &to).await;
        let found = files(local.path());
        for (name, body) in &found {
            assert!(bodies.contains(body), "{flip:?} is in {name}");
        }
        if first.is_proved(flip.at) {
            // The other file isn't affected.
            assert_eq!(
                transfer.first_failure(),
                Some(ErrorKind::Damaged),
                "{flip:?}"
            );
            assert_eq!(found, [("b".to_owned(), bodies[1].clone())], "{flip:?}");
        } else if (first.trailer..first.end).contains(&flip.at) {
            assert!(
                transfer.first_failure().is_some(),
                "{flip:?} was not noticed"
            );
            assert!(!found.iter().any(|(name, _)| name == "a"), "{flip:?}");
        }
    }
    client.close().await;
    fake.stop().await;
}

// P30, P41
#[tokio::test]
async fn a_byte_of_a_fetched_tree_that_changes_is_noticed() {
    let small = [content(1, 300), content(2, 30)];
    get_tree_flipped(small, |_, end| flips(0..end, Each::Byte)).await;
    let large = [content(3, 300 * KIB), content(4, 30)];
    get_tree_flipped(large, |first, _| some_flips(first.body..first.end, 50)).await;
}

/// A server without a limit for malformed requests.
async fn patient_server(tree: &Tree) -> TestServer {
    let server = TestServer::builder(tree);
    let server = server.limits(|limits| limits.abort_rate = Limit(None));
    server.start().await
}

/// Sends `bytes` and FIN, and receives any answer.
async fn send_anything(raw: &Raw, bytes: &[u8]) {
    let (mut send, mut recv) = raw.open().await;
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let _ = within("any answer", recv.read_to_end(64 * KIB)).await;
}

/// The files that clients stored in `tree`, which is empty afterwards.
fn take_files(tree: &Tree) -> Vec<(String, Vec<u8>)> {
    let mut taken = Vec::new();
    for name in tree.names("") {
        let path = tree.path(&name);
        if name.starts_with(RESERVED_PREFIX) {
            continue;
        } else if path.is_dir() {
            fs::remove_dir(path).unwrap();
        } else {
            taken.push((name, fs::read(&path).unwrap()));
            fs::remove_file(path).unwrap();
        }
    }
    taken
}

/// Puts a file with each of `flips` in turn.
async fn put_flipped(whole: &[u8], body: &[u8], parts: Layout, flips: &[Flip]) {
    let tree = Tree::new();
    let server = patient_server(&tree).await;
    let raw = server.raw().await;
    for &flip in flips {
        let bytes = flip.of(whole);
        if flip.at < parts.body {
            send_anything(&raw, &bytes).await;
            for (name, stored) in take_files(&tree) {
                assert!(stored == body, "{flip:?} is in {name}");
            }
            continue;
        }
        let code = raw.refusal(&bytes).await;
        let expected = match parts.is_proved(flip.at) {
            true => &[ErrorCode::DAMAGED][..],
            false => REFUSALS,
        };
        assert!(expected.contains(&code), "{flip:?}: {code:?}");
        assert_eq!(take_files(&tree), [], "{flip:?}");
    }
    // The changes were the reason for the refusals.
    raw.ask::<Changed>(whole).await.into_result().unwrap();
    assert_same(tree.read("f"), body);
    raw.close().await;
    server.stop().await;
}

/// A put of `body` with a declared length.
fn declared(body: &[u8]) -> (Vec<u8>, Layout) {
    let (request, whole) = (put("f", body.len()), whole(put("f", body.len()), body));
    let header = encoded(request).len();
    let parts = Layout {
        body: header,
        trailer: header + body.len(),
        end: whole.len(),
    };
    (whole, parts)
}

/// A put of `body` in pieces, whose lengths are as likely to be the reason for a refusal.
fn pieces(body: &[u8], lengths: &[usize]) -> (Vec<u8>, Layout) {
    let whole = in_pieces(put("f", 0), body, lengths);
    let header = encoded(Put {
        size: None,
        ..put("f", 0)
    });
    let parts = Layout {
        body: header.len(),
        trailer: header.len(),
        end: whole.len(),
    };
    (whole, parts)
}

async fn small_puts_flipped(choose: impl Fn(Range<usize>) -> Vec<Flip>) {
    let body = content(1, 300);
    for (whole, parts) in [declared(&body), pieces(&body, &[1, 255, 44])] {
        put_flipped(&whole, &body, parts, &choose(0..parts.end)).await;
    }
}

// P23
#[tokio::test]
async fn a_byte_of_a_put_that_changes_is_noticed() {
    small_puts_flipped(|range| flips(range, Each::Byte)).await;
    let body = content(2, 300 * KIB);
    for (whole, parts) in [declared(&body), pieces(&body, &[100 * KIB; 3])] {
        put_flipped(&whole, &body, parts, &some_flips(parts.body..parts.end, 50)).await;
    }
}

/// Puts two files on one stream with each of `flips` in the first of them.
async fn put_many_flipped(bodies: [Vec<u8>; 2], choose: impl FnOnce(Layout) -> Vec<Flip>) {
    let header = message(&PutItem::File(put("a", bodies[0].len()))).len();
    let end = PutItems::default().file("a", &bodies[0]).0.len();
    let parts = Layout {
        body: header,
        trailer: header + bodies[0].len(),
        end,
    };
    let items = PutItems::default().file("a", &bodies[0]);
    let PutItems(whole) = items.file("b", &bodies[1]).last();
    let tree = Tree::new();
    let server = patient_server(&tree).await;
    let raw = server.raw().await;
    for flip in choose(parts) {
        let mut recv = offer(&raw, PutItems(flip.of(&whole))).await;
        if parts.is_proved(flip.at) {
            let codes = outcomes(&mut recv, 2).await;
            // The other file isn't affected.
            assert_eq!(codes, [Some(ErrorCode::DAMAGED), None], "{flip:?}");
            let stored = take_files(&tree);
            assert_eq!(stored, [("b".to_owned(), bodies[1].clone())], "{flip:?}");
            continue;
        }
        let _ = within("any answer", recv.read_to_end(64 * KIB)).await;
        for (name, stored) in take_files(&tree) {
            assert!(bodies.contains(&stored), "{flip:?} is in {name}");
            assert!(flip.at < parts.body || name != "a", "{flip:?}");
        }
    }
    raw.close().await;
    server.stop().await;
}

// P23, P43
#[tokio::test]
async fn a_byte_of_a_stored_tree_that_changes_is_noticed() {
    let small = [content(1, 300), content(2, 30)];
    put_many_flipped(small, |parts| flips(0..parts.end, Each::Byte)).await;
    let large = [content(3, 300 * KIB), content(4, 30)];
    put_many_flipped(large, |parts| some_flips(parts.body..parts.end, 50)).await;
}

#[tokio::test]
#[ignore = "minutes"]
async fn every_change_of_every_byte_is_noticed() {
    let every = |range: Range<usize>| {
        say(&format!("{} changes of {range:?}", 255 * range.len()));
        flips(range, Each::Value)
    };
    get_flipped(&content(1, 300), |parts| every(0..parts.end)).await;
    small_puts_flipped(every).await;
    let small = || [content(1, 300), content(2, 30)];
    get_tree_flipped(small(), |_, end| every(0..end)).await;
    put_many_flipped(small(), |parts| every(0..parts.end)).await;
}

/// Bytes of an XXH3-128 digest, with which each trailer ends.
const DIGEST_BYTES: usize = 16;

/// Codes with which a changed upload may be refused.
const REFUSALS: &[ErrorCode] = &[
    ErrorCode::DAMAGED,
    ErrorCode::MALFORMED,
    ErrorCode::MESSAGE_TOO_LONG,
];
