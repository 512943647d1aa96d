//! Downloads that break off or arrive wrong: the client reports it, and the final name has nothing.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quinn::{Connection, SendStream, VarInt};
use quire_client::ErrorKind;
use quire_client::download::SaveOptions;
use quire_client::{Client, ClientError};
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Attributes, Changed, Entry, EntryKind, Failure, GetHeader, Page, Precondition, Reply, Time,
    Trailer, Version,
};
use quire_transport::close;
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{delete, fetch, get, list, name, put, refusal, stat, store_as};
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

fn header(size: u64, length: u64) -> GetHeader {
    GetHeader {
        version: Version::new(b"1").unwrap(),
        size,
        length,
        modified: Time {
            seconds: 0,
            nanoseconds: 0,
        },
        mode: 0o644,
        in_extents: false,
        details: None,
    }
}

fn trailer(body: &[u8]) -> Reply<Trailer> {
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(body);
    Reply::Ok(Trailer {
        digest: hasher.finish(),
        grew: false,
    })
}

/// All bytes that a server sends for a get.
pub(crate) fn answer(body: &[u8]) -> Vec<u8> {
    let length = body.len() as u64;
    let header = codec::encode(&Reply::Ok(header(length, length))).unwrap();
    [
        header,
        body.to_vec(),
        codec::encode(&trailer(body)).unwrap(),
    ]
    .concat()
}

/// How an answer breaks off.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    End,
    Reset(ErrorCode),
    Close(u32),
}

impl Cut {
    pub(crate) fn make(self, connection: &Connection, stream: &mut SendStream) {
        match self {
            Self::End => stream.finish().unwrap(),
            Self::Reset(code) => stream.reset(to_quic(code)).unwrap(),
            Self::Close(code) => close::close(connection, VarInt::from_u32(code), b""),
        }
    }
}

/// Saves a file over another; returns the content found then. After an error there must be no trace of
/// the download, and the old content must be there still.
pub(crate) async fn save_over(client: &Client) -> Result<Vec<u8>, ClientError> {
    let local = scratch();
    let target = local.path().join("f");
    std::fs::write(&target, "old").unwrap();
    let saving = async {
        let options = SaveOptions {
            overwrite: true,
            ..SaveOptions::default()
        };
        client
            .get(get("f"))
            .await?
            .save(&target, options, &AtomicU64::new(0))
            .await
    };
    let saved = within("a download", saving).await;
    assert_eq!(names(local.path()), ["f"]);
    // The server chooses the mode, and may have made the file unreadable.
    let ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&target, ours).unwrap();
    let there = std::fs::read(&target).unwrap();
    if saved.is_err() {
        assert_same(&there, "old");
    }
    saved.map(|_| there)
}

/// Saves a file; returns the error that must come.
pub(crate) async fn fail_to_save(client: &Client) -> ClientError {
    save_over(client).await.expect_err("it must not succeed")
}

/// A server that sends only `part` of its answer.
pub(crate) fn breaks_off(part: &[u8], cut: Cut) -> FakeServer {
    let part = part.to_vec();
    FakeServer::start(async move |connection| {
        let (_, mut send, _recv) = fake::request(&connection).await;
        send.write_all(&part).await.unwrap();
        cut.make(&connection, &mut send);
        if !matches!(cut, Cut::Close(_)) {
            connection.closed().await;
        }
    })
}

// P6, P22
#[tokio::test]
async fn a_get_that_breaks_off_at_any_stage_leaves_nothing() {
    let body = content(1, 200_000);
    let bytes = answer(&body);
    let stages = [
        0,
        3,
        20,
        45,
        60,
        70_000,
        150_000,
        bytes.len() - 30,
        bytes.len() - 5,
        bytes.len() - 1,
    ];
    let cuts = [
        Cut::End,
        Cut::Reset(ErrorCode::DISK),
        Cut::Reset(ErrorCode::CHANGED),
        Cut::Close(ErrorCode::SHUTTING_DOWN.number().into()),
        Cut::Close(0),
    ];
    for cut in cuts {
        for stage in stages {
            let fake = breaks_off(&bytes[..stage], cut);
            let client = fake.client().await;
            let error = fail_to_save(&client).await;
            let expected = match cut {
                Cut::End | Cut::Reset(ErrorCode::CHANGED) => ErrorKind::Damaged,
                Cut::Reset(_) => ErrorKind::Other,
                Cut::Close(_) => ErrorKind::Unreachable,
            };
            assert_eq!(error.kind(), expected, "{cut:?} at {stage}: {error}");
            client.close().await;
            fake.stop().await;
        }
    }
}

// P22
#[tokio::test]
async fn an_answer_that_is_wrong_leaves_nothing() {
    let body = content(1, 200_000);
    let length = body.len() as u64;
    let of = |header: GetHeader, body: &[u8], trailer: &Reply<Trailer>| {
        let header = codec::encode(&Reply::Ok(header)).unwrap();
        [header, body.to_vec(), codec::encode(trailer).unwrap()].concat()
    };
    let mut flipped = answer(&body);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x80;
    let changed = Reply::Failed(Failure::new(ErrorCode::CHANGED));
    let cases = [
        ("a bit flipped", flipped, ErrorKind::Damaged),
        (
            "another digest",
            of(header(length, length), &body, &trailer(b"x")),
            ErrorKind::Damaged,
        ),
        (
            "a digest of no bytes",
            answer_with_digest(&body, &[]),
            ErrorKind::Damaged,
        ),
        (
            "changed",
            of(header(length, length), &body, &changed),
            ErrorKind::Damaged,
        ),
        (
            "shorter than the file",
            of(header(length, 10), &body[..10], &trailer(&body[..10])),
            ErrorKind::Other,
        ),
        (
            "longer than the file",
            of(header(10, length), &body, &trailer(&body)),
            ErrorKind::Other,
        ),
        (
            "a body too long",
            of(header(10, 10), &body, &trailer(&body[..10])),
            ErrorKind::Other,
        ),
        (
            "a body too short",
            of(header(length, length), &body[40..], &trailer(b"")),
            ErrorKind::Damaged,
        ),
        ("no message", b"\0\0\0\x01\0".to_vec(), ErrorKind::Other),
        (
            "a message too long",
            b"\xff\xff\xff\xff".to_vec(),
            ErrorKind::Other,
        ),
    ];
    for (what, bytes, kind) in cases {
        let fake = FakeServer::start(async move |connection| {
            let (_, mut send, _recv) = fake::request(&connection).await;
            // A client that has seen enough stops the rest.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            connection.closed().await;
        });
        let client = fake.client().await;
        let error = fail_to_save(&client).await;
        assert_eq!(error.kind(), kind, "{what}: {error}");
        client.close().await;
        fake.stop().await;
    }
}

/// An answer with these bytes as its digest.
fn answer_with_digest(body: &[u8], digest: &[u8]) -> Vec<u8> {
    let mut payload = vec![
        0x82,
        0x00,
        0xa1,
        0x00,
        0x40 | u8::try_from(digest.len()).unwrap(),
    ];
    payload.extend_from_slice(digest);
    let length = body.len() as u64;
    let header = codec::encode(&Reply::Ok(header(length, length))).unwrap();
    [
        header,
        body.to_vec(),
        quire_test_harness::raw::framed(&payload),
    ]
    .concat()
}

// P22
#[tokio::test]
async fn a_server_that_ends_in_the_middle_of_a_get_leaves_nothing() {
    let tree = Tree::new().file("f", content(1, LARGE));
    let local = scratch();
    let hasty = |config: &mut quire_server::Config| {
        config.drain = Duration::ZERO;
        config.cache.limit = 0;
    };
    let server = TestServer::builder(&tree).with(hasty).start().await;
    let client = server.client().await;
    let download = client.get(get("f")).await.unwrap();
    server.begin_stop();
    let (target, moved) = (local.path().join("f"), AtomicU64::new(0));
    let saving = download.save(&target, SaveOptions::default(), &moved);
    let error = within("a download", saving).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
    assert!(names(local.path()).is_empty());
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_get_that_its_client_cancels_leaves_the_connection_usable() {
    let bytes = content(1, LARGE);
    let tree = Tree::new().file("f", &bytes);
    for cache in [0, 64 << 20] {
        let server = TestServer::builder(&tree).cache(cache).start().await;
        let client = server.client().await;
        for _ in 0..5 {
            drop(client.get(get("f")).await.unwrap());
        }
        let raw = server.raw().await;
        for read in [0, 1, 100, 100_000] {
            let (mut send, mut recv) = raw.begin(get("f")).await;
            send.finish().unwrap();
            recv.read_exact(&mut vec![0; read]).await.unwrap();
            recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
        }
        assert_same(fetch(&client, "f").await.unwrap(), &bytes);
        raw.close().await;
        client.close().await;
        server.stop().await;
    }
}

// P36
#[tokio::test]
async fn a_code_of_a_later_server_is_shown_with_its_phrase() {
    let phrase = "the moon is in the\u{1b}[31m wrong phase";
    let mut payload = vec![0x82, 0x01, 0xa2, 0x00, 0x19, 0x23, 0x28, 0x01, 0x78];
    payload.push(u8::try_from(phrase.len()).unwrap());
    payload.extend_from_slice(phrase.as_bytes());
    let bytes = quire_test_harness::raw::framed(&payload);
    let fake = FakeServer::start(async move |connection| {
        let (_, mut send, _recv) = fake::request(&connection).await;
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
    });
    let client = fake.client().await;
    let error = client.stat(stat("f")).await.unwrap_err();
    assert_eq!(error.code().map(ErrorCode::number), Some(9000));
    let shown = error.to_string();
    assert!(
        shown.contains("wrong phase") && !shown.contains('\u{1b}'),
        "{shown:?}"
    );
    assert_eq!(error.kind(), ErrorKind::Other);
    client.close().await;
    fake.stop().await;
}

// P33
#[tokio::test]
async fn names_that_break_a_rule_or_their_order_are_not_taken_from_a_server() {
    let attributes = Attributes {
        kind: EntryKind::File,
        size: 1,
        modified: Time {
            seconds: 0,
            nanoseconds: 0,
        },
        mode: 0o644,
        version: Version::new(b"1").unwrap(),
        target: None,
        details: None,
        hard_link: None,
    };
    let entry = |text: &str| Entry {
        name: name(text),
        attributes: attributes.clone(),
    };
    let page = |names: &[&str]| {
        let entries = names.iter().map(|name| entry(name)).collect();
        codec::encode(&Reply::Ok(Page {
            entries,
            unnameable: 0,
            last: true,
            raw_names: Vec::new(),
        }))
        .unwrap()
    };
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = page(&["aa"]);
        let at = bytes
            .windows(from.len())
            .position(|found| found == from)
            .unwrap();
        bytes.splice(at..at + from.len(), to.iter().copied());
        bytes
    };
    for (what, bytes) in [
        ("the parent", replaced(b"\x62aa", b"\x62..")),
        ("a path", replaced(b"\x62aa", b"\x62a/")),
        ("a NUL", replaced(b"\x62aa", b"\x62a\0")),
        ("out of order", page(&["b", "a"])),
        ("twice", page(&["a", "a"])),
    ] {
        let fake = FakeServer::start(async move |connection| {
            let (_, mut send, _recv) = fake::request(&connection).await;
            send.write_all(&bytes).await.unwrap();
            let _ = send.finish();
            connection.closed().await;
        });
        let client = fake.client().await;
        let error = list(&client, "").await.unwrap_err();
        assert!(
            matches!(error, ClientError::Unexpected(_)),
            "{what}: {error}"
        );
        client.close().await;
        fake.stop().await;
    }
}

// P38
#[tokio::test]
async fn a_change_whose_reply_does_not_arrive_is_not_repeated() {
    let fake = FakeServer::start(async move |connection| {
        let (_, send, recv) = fake::request(&connection).await;
        drop((send, recv));
        // The next stream is that of the request that the test makes itself.
        let (request, mut send, _recv) = fake::request(&connection).await;
        assert_eq!(request, stat("end").into());
        fake::send(
            &mut send,
            &Reply::<Changed>::Failed(Failure::new(ErrorCode::NOT_FOUND)),
        )
        .await;
        let _ = send.finish();
        connection.closed().await;
    });
    let client = fake.client().await;
    let error = client.delete(delete("f")).await.unwrap_err();
    assert!(matches!(error, ClientError::Truncated), "{error}");
    assert_eq!(
        refusal(client.stat(stat("end")).await),
        ErrorCode::NOT_FOUND
    );
    client.close().await;
    fake.stop().await;
}

// P8
#[tokio::test]
async fn a_put_that_the_server_stops_reads_the_reply_that_says_why() {
    for with_reply in [true, false] {
        let fake = FakeServer::start(async move |connection| {
            let (_, mut send, mut recv) = fake::request(&connection).await;
            if with_reply {
                let failure = Failure::new(ErrorCode::CONFLICT);
                fake::send(&mut send, &Reply::<Changed>::Failed(failure)).await;
                send.finish().unwrap();
                recv.stop(to_quic(ErrorCode::CONFLICT)).unwrap();
            } else {
                send.reset(to_quic(ErrorCode::DISK)).unwrap();
                recv.stop(to_quic(ErrorCode::DISK)).unwrap();
            }
            connection.closed().await;
        });
        let client = fake.client().await;
        let body = content(1, 20 << 20);
        let request = quire_shared::protocol::Put {
            precondition: Precondition::Absent,
            ..put("f", body.len())
        };
        let code = refusal(within("a refusal", store_as(&client, request, &body)).await);
        let expected = if with_reply {
            ErrorCode::CONFLICT
        } else {
            ErrorCode::DISK
        };
        assert_eq!(code, expected);
        client.close().await;
        fake.stop().await;
    }
}
