//! Copies and syncs from one server to another, through the client.

use std::fs;
use std::sync::atomic::AtomicU64;

use quire_client::Keep;
use quire_client::transfer::relay;
use quire_client::{ClientError, Digest, DigestKind};
use quire_shared::protocol::{GetHeader, Put, Reply, Time, Trailer, Version};
use quire_test_harness::client::path;
use quire_test_harness::fake::{FakeServer, request, send};
use quire_test_harness::programs::Programs;
use quire_test_harness::{KIB, TestServer, Tree, assert_same, content};

use super::{deleting, server, snapshot, succeed};

#[tokio::test]
async fn a_tree_becomes_the_same_on_another_server() {
    let mut source = Tree::new().directory("s/empty").mode("s/empty", 0o750);
    for number in 0..100 {
        let size = usize::try_from(number).unwrap() * 500;
        source = source.file(
            &format!("s/d{}/{number}", number % 7),
            content(number, size),
        );
    }
    source = source.file("s/large", content(1000, 5000 * KIB));
    let target = Tree::new()
        .file("t/gone", "deleted")
        .file("t/d1/1", "another content");
    let (one, other) = (
        TestServer::start(&source).await,
        TestServer::start(&target).await,
    );
    let (from, to) = (one.client().await, other.client().await);
    let side = || (server(&from, "s"), server(&to, "t"));
    let (source_side, target_side) = side();
    succeed(source_side, target_side, deleting()).await;
    assert_eq!(snapshot(&target.path("t")), snapshot(&source.path("s")));
    let (source_side, target_side) = side();
    let again = succeed(source_side, target_side, deleting()).await;
    assert_eq!(again.lines(), Vec::<String>::new());
    // What has another name is renamed there.
    fs::rename(source.path("s/d2"), source.path("s/renamed")).unwrap();
    let (source_side, target_side) = side();
    let renamed = succeed(source_side, target_side, deleting()).await;
    assert_eq!(renamed.lines(), ["renamed d2/ renamed/"]);
    assert_eq!(renamed.moved, 0);
    drop((from, to));
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn content_that_came_damaged_from_the_source_is_not_published_at_the_target() {
    let tree = Tree::new().file("f", "old");
    let target = TestServer::start(&tree).await;
    let to = target.client().await;
    for (length, digest) in [(5, "other"), (6, "hello")] {
        let fake = FakeServer::start(move |connection| async move {
            let (_, mut stream, _recv) = request(&connection).await;
            let header = GetHeader {
                version: Version::new(b"v").unwrap(),
                size: length,
                length,
                modified: Time {
                    seconds: 1,
                    nanoseconds: 0,
                },
                mode: 0o644,
                in_extents: false,
                details: None,
            };
            send(&mut stream, &Reply::Ok(header)).await;
            stream.write_all(b"hello").await.unwrap();
            let digest: Digest = DigestKind::Xxh3.of(digest.as_bytes());
            let grew = false;
            send(&mut stream, &Reply::Ok(Trailer { digest, grew })).await;
            let _ = stream.finish();
            connection.closed().await;
        });
        let from = fake.client().await;
        let put = Put {
            path: path("f"),
            ..Put::default()
        };
        let moved = AtomicU64::new(0);
        let relayed = relay((&from, &path("f")), (&to, put), Keep::default(), &moved).await;
        let error = relayed.unwrap_err();
        let is_told = matches!(
            error,
            ClientError::Damaged | ClientError::Truncated | ClientError::Unexpected(_)
        );
        assert!(is_told, "{error}");
        assert_eq!(tree.read("f"), b"old");
        from.close().await;
        fake.stop().await;
    }
    drop(to);
    target.stop().await;
}

#[test]
fn copy_takes_files_and_directories_to_another_server() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let source = Tree::new()
        .file("f", content(1, 3000 * KIB))
        .file("d/a", "a")
        .file("d/e/b", "b");
    let target = Tree::new().file("there", "other").directory("in");
    let (one, other) = (
        programs.serve(&source.root()),
        programs.serve(&target.root()),
    );
    let (from, to) = (one.host(), other.host());
    let copy = |status, more: &[&str], source: &str, target: &str| {
        let (source, target) = (format!("{from}/{source}"), format!("{to}/{target}"));
        programs.expect(status, &[&["copy"], more, &[&source, &target]].concat())
    };
    copy(0, &[], "f", "g");
    assert_same(target.read("g"), source.read("f"));
    copy(0, &[], "f", "in/");
    assert_same(target.read("in/f"), source.read("f"));
    copy(4, &[], "f", "there");
    assert_eq!(target.read("there"), b"other");
    copy(0, &["--force"], "f", "there");
    assert_same(target.read("there"), source.read("f"));
    copy(3, &[], "missing", "x");
    copy(1, &[], "d", "x");
    assert!(!target.has("x"));
    copy(0, &["-r"], "d", "x");
    assert_eq!(snapshot(&target.path("x")), snapshot(&source.path("d")));
    copy(4, &["-r"], "d", "x");
    source.write("d/a", "changed");
    copy(0, &["-r", "--force"], "d", "x");
    assert_eq!(target.read("x/a"), b"changed");
}
