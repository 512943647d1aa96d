//! Uploads that break off: at every stage, in every way, and what is left of them.

use std::io::Read;
use std::sync::atomic::AtomicU64;

use quire_client::Client;
use quire_client::upload::UploadBody;
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Changed, Done, Precondition, Put, Reply, Trailer};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{fetch, put, refusal, store};
use quire_test_harness::raw::{encoded, refusal_on, reply};
use quire_test_harness::{Raw, TestServer, Tree, assert_same, content, skip, within};

/// The trailer of a body.
fn trailer(kind: DigestKind, body: &[u8]) -> Vec<u8> {
    let mut hasher = kind.hasher();
    hasher.update(body);
    codec::encode(&Trailer {
        digest: hasher.finish(),
        grew: false,
    })
    .unwrap()
}

/// All bytes that a client sends for a put with a declared length.
pub(super) fn whole(request: Put, body: &[u8]) -> Vec<u8> {
    let trailer = trailer(request.digest, body);
    [encoded(request), body.to_vec(), trailer].concat()
}

/// All bytes that a client sends for a put in pieces of these lengths.
pub(super) fn in_pieces(request: Put, body: &[u8], pieces: &[usize]) -> Vec<u8> {
    let trailer = trailer(request.digest, body);
    let mut bytes = encoded(Put {
        size: None,
        ..request
    });
    let mut rest = body;
    for &piece in pieces {
        let (now, later) = rest.split_at(piece);
        bytes.extend(u32::try_from(piece).unwrap().to_be_bytes());
        bytes.extend(now);
        rest = later;
    }
    assert!(rest.is_empty());
    bytes.extend([0; 4]);
    bytes.extend(trailer);
    bytes
}

/// Puts with a body small enough to cut at each byte.
fn samples() -> [Vec<u8>; 2] {
    let body = content(1, 300);
    [
        whole(put("f", body.len()), &body),
        in_pieces(put("f", 0), &body, &[1, 255, 44]),
    ]
}

// P6, P24
#[tokio::test]
async fn a_put_that_ends_early_at_any_byte_publishes_nothing() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for bytes in samples() {
        for cut in 0..bytes.len() {
            let code = raw.refusal(&bytes[..cut]).await;
            assert_eq!(
                code,
                ErrorCode::MALFORMED,
                "cut at {cut} of {}",
                bytes.len()
            );
        }
        assert_same(tree.read("f"), "old");
    }
    // The uncut upload is published, so the cut was the reason for the refusal.
    for bytes in samples() {
        raw.ask::<Changed>(&bytes).await.into_result().unwrap();
        assert_same(tree.read("f"), content(1, 300));
    }
    raw.close().await;
    server.stop().await;
}

// P7, P9
#[tokio::test]
async fn a_put_that_is_reset_at_any_byte_publishes_nothing() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for bytes in samples() {
        // At the very end too: all data was sent, but not FIN.
        for cut in 0..=bytes.len() {
            let (mut send, mut recv) = raw.open().await;
            send.write_all(&bytes[..cut]).await.unwrap();
            send.reset(to_quic(ErrorCode::CANCELLED)).unwrap();
            assert_eq!(
                refusal_on(&mut recv).await,
                ErrorCode::CANCELLED,
                "cut at {cut}"
            );
        }
    }
    assert_same(tree.read("f"), "old");
    raw.close().await;
    server.stop().await;
}

// P24
#[tokio::test]
async fn a_put_whose_connection_ends_at_any_stage_publishes_nothing() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    for bytes in samples() {
        for cut in (0..bytes.len()).step_by(29).chain([bytes.len() - 1]) {
            let raw = server.raw().await;
            let (mut send, recv) = raw.open().await;
            send.write_all(&bytes[..cut]).await.unwrap();
            raw.close().await;
            drop((send, recv));
        }
    }
    assert_same(tree.read("f"), "old");
    server.stop().await;
}

// P24
#[tokio::test]
async fn a_client_that_gives_up_a_put_in_the_middle_publishes_nothing() {
    /// Yields a number of bytes, and then blocks without ending.
    struct Stuck(std::sync::mpsc::Receiver<()>, usize);
    impl Read for Stuck {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.1 == 0 {
                // Until the other end is dropped.
                let _ = self.0.recv();
                return Ok(0);
            }
            let given = buffer.len().min(self.1);
            self.1 -= given;
            Ok(given)
        }
    }
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for size in [Some(20 << 20), None] {
        let (unstick, stuck) = std::sync::mpsc::channel();
        let moved = AtomicU64::new(0);
        let source = UploadBody::stream(Stuck(stuck, 10 << 20), "memory");
        let putting = client.put(
            Put {
                size,
                ..put("f", 0)
            },
            source,
            &moved,
        );
        let half = async {
            while moved.load(std::sync::atomic::Ordering::Relaxed) < 5 << 20 {
                client.ping().await.unwrap();
            }
        };
        tokio::select! {
            result = putting => panic!("it ended: {result:?}"),
            () = within("half of the body", half) => {}
        }
        drop(unstick);
        assert_same(tree.read("f"), "old");
    }
    client.close().await;
    server.stop().await;
}

// P23
#[tokio::test]
async fn a_body_that_is_not_what_was_announced_is_not_published() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let body = content(1, 300);
    let other = content(2, 300);
    let damaged = [
        encoded(put("f", 300)),
        body.clone(),
        trailer(DigestKind::Xxh3, &other),
    ]
    .concat();
    assert_eq!(raw.refusal(&damaged).await, ErrorCode::DAMAGED);
    let other_kind = [
        encoded(put("f", 300)),
        body.clone(),
        trailer(DigestKind::Blake3, &body),
    ];
    assert_eq!(raw.refusal(&other_kind.concat()).await, ErrorCode::DAMAGED);
    let mut flipped = whole(put("f", 300), &body);
    let in_the_body = encoded(put("f", 300)).len() + 150;
    flipped[in_the_body] ^= 1;
    assert_eq!(raw.refusal(&flipped).await, ErrorCode::DAMAGED);
    for announced in [0, 1, 299, 301, 310, 1000] {
        let bytes = [
            encoded(put("f", announced)),
            body.clone(),
            trailer(DigestKind::Xxh3, &body),
        ];
        let code = raw.refusal(&bytes.concat()).await;
        let refused = [
            ErrorCode::DAMAGED,
            ErrorCode::MALFORMED,
            ErrorCode::MESSAGE_TOO_LONG,
        ];
        assert!(
            refused.contains(&code),
            "{announced} bytes announced: {code:?}"
        );
    }
    assert_same(tree.read("f"), "old");
    raw.close().await;
    server.stop().await;
}

// P9, P28
#[tokio::test]
async fn a_put_that_is_followed_by_anything_is_not_published() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for bytes in samples() {
        let followed = [bytes, b"!".to_vec()].concat();
        assert_eq!(raw.refusal(&followed).await, ErrorCode::MALFORMED);
    }
    let body = content(1, 300);
    let mut after_the_last = in_pieces(put("f", 0), &body, &[300]);
    let end = after_the_last.len() - trailer(DigestKind::Xxh3, &body).len();
    after_the_last.splice(end..end, [0, 0, 0, 1, b'!']);
    let refused = [ErrorCode::MALFORMED, ErrorCode::MESSAGE_TOO_LONG];
    assert!(refused.contains(&raw.refusal(&after_the_last).await));
    assert_same(tree.read("f"), "old");
    raw.close().await;
    server.stop().await;
}

/// An endless source.
fn endless() -> UploadBody<std::io::Repeat> {
    UploadBody::stream(std::io::repeat(b'x'), "endless")
}

async fn refused_early(client: &Client, request: Put) -> ErrorCode {
    let moved = AtomicU64::new(0);
    let putting = client.put(request, endless(), &moved);
    refusal(within("an early refusal", putting).await)
}

// P8, P16
#[tokio::test]
async fn a_put_that_can_be_refused_at_once_is_answered_while_its_body_is_still_being_sent() {
    const SIZE: Option<u64> = Some(1 << 40);
    let tree = Tree::new().file("f", "old").directory("d").fifo("fifo");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let reader = server.connect(&server.keys().reader).await.unwrap();
    for size in [SIZE, None] {
        let request = |name| Put {
            size,
            ..put(name, 0)
        };
        let absent = Put {
            precondition: Precondition::Absent,
            ..request("f")
        };
        assert_eq!(refused_early(&client, absent).await, ErrorCode::EXISTS);
        assert_eq!(
            refused_early(&reader, request("new")).await,
            ErrorCode::NOT_AUTHORIZED
        );
        assert_eq!(
            refused_early(&client, request("d")).await,
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            refused_early(&client, request("")).await,
            ErrorCode::IS_DIRECTORY
        );
        assert_eq!(
            refused_early(&client, request("fifo")).await,
            ErrorCode::SPECIAL_FILE
        );
        assert_eq!(
            refused_early(&client, request("f/x")).await,
            ErrorCode::NOT_DIRECTORY
        );
        assert_eq!(
            refused_early(&client, request("missing/x")).await,
            ErrorCode::NOT_FOUND
        );
    }
    let too_large = Put {
        size: Some(1 << 60),
        ..put("f", 0)
    };
    assert_eq!(refused_early(&client, too_large).await, ErrorCode::NO_SPACE);
    assert_same(tree.read("f"), "old");
    // The connection still works.
    store(&client, "f", b"new").await.unwrap();
    client.close().await;
    reader.close().await;
    server.stop().await;

    let read_only = TestServer::builder(&tree).with(|config| config.read_only = true);
    let server = read_only.start().await;
    let client = server.client().await;
    let request = Put {
        size: SIZE,
        ..put("f", 0)
    };
    assert_eq!(refused_early(&client, request).await, ErrorCode::READ_ONLY);
    client.close().await;
    server.stop().await;
}

// P8
#[tokio::test]
async fn a_refusal_comes_as_reply_end_and_stop_with_one_code() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::builder(&tree).anonymous("read").start().await;
    let raw = Raw::connect(&server, &server.keys().stranger).await;
    let (send, mut recv) = raw.begin(put("f", 1 << 30)).await;
    let Reply::Failed(failure) = reply::<Done>(&mut recv).await.unwrap() else {
        panic!("it was not refused");
    };
    assert_eq!(failure.code(), ErrorCode::NOT_AUTHORIZED);
    assert_eq!(within("the end", recv.read_to_end(1)).await.unwrap(), b"");
    let stopped = within("the stop", send.stopped()).await.unwrap();
    assert_eq!(stopped, Some(to_quic(ErrorCode::NOT_AUTHORIZED)));
    raw.close().await;
    server.stop().await;
}

// P18
#[tokio::test]
async fn a_put_that_fills_the_disk_leaves_the_old_file_and_room_as_before() {
    let Some(disk) = SmallTmpfs::mount() else {
        return;
    };
    std::fs::write(disk.root().join("f"), "old").unwrap();
    let server = TestServer::builder_at(&disk.root()).start().await;
    let client = server.client().await;
    let too_large = Put {
        size: Some(64 << 20),
        ..put("f", 0)
    };
    assert_eq!(refused_early(&client, too_large).await, ErrorCode::NO_SPACE);
    // With an unknown size it shows only when the disk is full.
    let endless = Put {
        size: None,
        ..put("f", 0)
    };
    assert_eq!(refused_early(&client, endless).await, ErrorCode::NO_SPACE);
    assert_same(fetch(&client, "f").await.unwrap(), "old");
    store(&client, "f", &content(1, 1 << 20)).await.unwrap();
    assert_same(fetch(&client, "f").await.unwrap(), content(1, 1 << 20));
    client.close().await;
    server.stop().await;
}

/// A tmpfs of a few MiB, unmounted when dropped.
struct SmallTmpfs(tempfile::TempDir);

impl SmallTmpfs {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "none"])
            .arg(directory.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => {
                std::fs::create_dir(directory.path().join("root")).unwrap();
                Some(Self(directory))
            }
            _ => {
                skip("a small disk can be mounted by the superuser alone");
                None
            }
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
        assert!(
            unmounted.is_ok_and(|status| status.success()),
            "the small disk is still there"
        );
    }
}
