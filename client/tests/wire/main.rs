//! The client against a server that does as each test says, right or wrong.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a failure of the surroundings is a failure"
)]

mod listing;
mod many;
mod put;
mod put_tree;
mod tree;

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use quire_client::ClientError;
use quire_client::ErrorKind;
use quire_client::download::{Fetched, SaveOptions};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Attributes, Entry, EntryKind, Failure, Get, GetHeader, Pong, Precondition, Put, Reply, Stat,
    Time, Trailer, Version,
};
use quire_shared::{ErrorCode, Name, RemotePath};
use quire_test_harness::fake::FakeConnection;
use quire_transport::error_code::to_quic;

fn failed<R>(code: ErrorCode) -> Reply<R> {
    Reply::Failed(Failure::new(code))
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn version() -> Version {
    Version::new(b"v").unwrap()
}

fn get(name: &str) -> Get {
    Get {
        path: path(name),
        offset: 0,
        length: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        digest_from_start: false,
        takes_extents: false,
        details: Default::default(),
    }
}

fn put(size: Option<u64>) -> Put {
    Put {
        path: path("f"),
        size,
        modified: None,
        mode: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        make_parents: false,
        preserve: Default::default(),
        details: None,
    }
}

fn header(length: u64) -> GetHeader {
    GetHeader {
        version: version(),
        size: length,
        length,
        modified: Time {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        },
        mode: 0o640,
        in_extents: false,
        details: None,
    }
}

fn trailer(content: &[u8]) -> Trailer {
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(content);
    Trailer {
        digest: hasher.finish(),
        grew: false,
    }
}

fn attributes(kind: EntryKind) -> Attributes {
    Attributes {
        kind,
        size: 3,
        modified: Time {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        },
        mode: 0o750,
        version: version(),
        target: None,
        details: None,
        hard_link: None,
    }
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        attributes: attributes(kind),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// How the server ends a body of which it has sent five bytes.
enum BodyEnd {
    Good,
    Finish,
    Reset(ErrorCode),
    WrongDigest,
    Failed(ErrorCode),
    Close,
}

/// Saves a file whose body of `length` ends so; nothing may be left unless all is well.
async fn save(length: u64, end: BodyEnd) -> Result<Fetched, ClientError> {
    let pair = FakeConnection::open().await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let moved = AtomicU64::new(0);
    let serve = async {
        let (_, mut sender, _receiver) = pair.request().await;
        sender.send(&Reply::Ok(header(length))).await.unwrap();
        sender
            .send_bytes(Bytes::from_static(b"hello"))
            .await
            .unwrap();
        match end {
            BodyEnd::Good => sender.send(&Reply::Ok(trailer(b"hello"))).await.unwrap(),
            BodyEnd::WrongDigest => sender.send(&Reply::Ok(trailer(b"Hello"))).await.unwrap(),
            BodyEnd::Failed(code) => sender.send(&failed::<Trailer>(code)).await.unwrap(),
            BodyEnd::Finish => {}
            BodyEnd::Reset(code) => {
                sender.reset(code);
                return;
            }
            BodyEnd::Close => {
                pair.server.close(to_quic(ErrorCode::SHUTTING_DOWN), b"");
                return;
            }
        }
        // A client that has heard enough may stop the stream.
        let _ = sender.finish_and_wait().await;
    };
    let fetch = async {
        let download = pair.client.get(get("f")).await?;
        download.save(&target, SaveOptions::default(), &moved).await
    };
    let (fetched, ()) = tokio::join!(fetch, serve);
    match &fetched {
        Ok(_) => assert_eq!(fs::read(&target).unwrap(), b"hello"),
        Err(_) => assert!(names(directory.path()).is_empty()),
    }
    fetched
}

#[tokio::test]
async fn a_file_is_saved_only_if_length_and_digest_agree() {
    let fetched = save(5, BodyEnd::Good).await.unwrap();
    assert_eq!(fetched.bytes, 5);
    assert_eq!(fetched.version, version());
    let error = save(5, BodyEnd::WrongDigest).await.unwrap_err();
    assert!(matches!(error, ClientError::Damaged), "{error:?}");
    let error = save(6, BodyEnd::Finish).await.unwrap_err();
    assert!(matches!(error, ClientError::Truncated), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let error = save(5, BodyEnd::Finish).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged, "no trailer, no proof");
}

#[tokio::test]
async fn a_file_that_changed_or_a_lost_connection_leaves_nothing() {
    let error = save(6, BodyEnd::Reset(ErrorCode::CHANGED))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Changed), "{error:?}");
    let error = save(5, BodyEnd::Failed(ErrorCode::CHANGED))
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Changed), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    let error = save(6, BodyEnd::Reset(ErrorCode::DISK)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::DISK));
    let error = save(6, BodyEnd::Close).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
}

#[tokio::test]
async fn a_header_that_contradicts_itself_is_refused() {
    let pair = FakeConnection::open().await;
    let too_short = GetHeader {
        size: 4,
        ..header(5)
    };
    let not_asked_for = GetHeader {
        in_extents: true,
        ..header(5)
    };
    for wrong in [too_short, not_asked_for] {
        let (result, _) = tokio::join!(pair.client.get(get("f")), pair.answer(Reply::Ok(wrong)));
        assert!(matches!(result.unwrap_err(), ClientError::Unexpected(_)));
    }
}

#[tokio::test]
async fn refusals_keep_their_code() {
    let pair = FakeConnection::open().await;
    for code in ErrorCode::ALL {
        let stat = pair.client.stat(Stat::of(path("f")));
        let (result, _) = tokio::join!(stat, pair.answer::<Attributes>(failed(*code)));
        let error = result.unwrap_err();
        match *code {
            ErrorCode::CHANGED => assert!(matches!(error, ClientError::Changed)),
            ErrorCode::DAMAGED => assert!(matches!(error, ClientError::Damaged)),
            ErrorCode::NOT_AUTHORIZED => {
                assert!(matches!(error, ClientError::NoRight { .. }));
                assert!(!error.is_connection_lost());
            }
            code => assert_eq!(error.code(), Some(code)),
        }
        assert_eq!(error.kind(), ErrorKind::from(*code));
    }
}

#[tokio::test]
async fn a_client_that_isnt_let_in_hears_its_own_fingerprint() {
    let pair = FakeConnection::open().await;
    pair.server.close(to_quic(ErrorCode::NOT_AUTHORIZED), b"");
    let error = pair.client.ping().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&pair.fingerprint), "{error}");
}

#[tokio::test]
async fn close_tells_the_server() {
    let pair = FakeConnection::open().await;
    let pong = Pong {
        software: "test".to_owned(),
        writable: true,
        measured: None,
        details: Default::default(),
        remembers: None,
    };
    let (answer, _) = tokio::join!(pair.client.ping(), pair.answer(Reply::Ok(pong.clone())));
    assert_eq!(answer.unwrap(), pong);
    let (closed, ()) = tokio::join!(pair.server.closed(), pair.client.close());
    assert!(matches!(
        closed,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
}
