//! Links from a malicious server, and servers of an earlier version.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use quinn::Connection;
use quire_client::transfer::sync::{SyncJob, SyncOptions, SyncReport, SyncSide};
use quire_client::transfer::{GiveUp, LinkPolicy};
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::protocol::{
    Attributes, Entry, EntryKind, Failure, Left, LinkTarget, MakeSymlink, Precondition, Reply,
    Request, Time, TreeItem, Version,
};
use quire_test_harness::client::{name, path};
use quire_test_harness::fake::{FakeServer, request};
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::within;

use super::{LinkNotes, fetch_links, fetching, target};

const HOSTILE: [&[u8]; 7] = [
    b"../../x",
    b"..",
    b"/etc/passwd",
    b"a/../../..",
    b"a/..",
    b"",
    b"a\0b",
];

fn attributes(kind: EntryKind, target: Option<&[u8]>) -> Attributes {
    Attributes {
        kind,
        size: 0,
        modified: Time {
            seconds: 1,
            nanoseconds: 0,
        },
        mode: 0o755,
        version: Version::new(b"1").unwrap(),
        target: target.map(|target| LinkTarget::new(target).unwrap()),
        hard_link: None,
        details: None,
    }
}

fn entry(text: &str, kind: EntryKind, target: Option<&[u8]>) -> Entry {
    Entry {
        name: name(text),
        attributes: attributes(kind, target),
    }
}

/// A tree with hostile links at its top and in a directory, and one link in each that stays in it.
fn hostile_tree(tells_targets: bool) -> Vec<u8> {
    let told = |target: &'static [u8]| tells_targets.then_some(target);
    let mut items = vec![TreeItem::Entered(entry("d", EntryKind::Directory, None))];
    items.push(TreeItem::Described(entry(
        "good",
        EntryKind::Symlink,
        told(b"../x"),
    )));
    items.push(TreeItem::Described(entry(
        "out",
        EntryKind::Symlink,
        told(b"../../x"),
    )));
    items.push(TreeItem::Left(Left::default()));
    items.push(TreeItem::Described(entry(
        "good",
        EntryKind::Symlink,
        told(b"x"),
    )));
    for (number, target) in HOSTILE.into_iter().enumerate() {
        let text = format!("out{number}");
        items.push(TreeItem::Described(entry(
            &text,
            EntryKind::Symlink,
            told(target),
        )));
    }
    items.push(TreeItem::Left(Left::default()));
    let top = Reply::Ok(attributes(EntryKind::Directory, None));
    let mut bytes = codec::encode(&top).unwrap();
    for item in items {
        codec::append(&item, &mut bytes).unwrap();
    }
    bytes
}

/// Answers every request: trees as above, and a stat with the target that the name asks for.
async fn play(connection: Connection, tells_targets: bool) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let request: Request = quire_test_harness::raw::message(&mut recv).await.unwrap();
        let bytes = match request {
            Request::GetTree(_) => hostile_tree(tells_targets),
            Request::Stat(stat) => {
                let text = stat.path.to_relative();
                let target: &[u8] = match text.as_str() {
                    "t/d/good" => b"../x",
                    "t/d/out" => b"../../x",
                    "t/good" => b"x",
                    other => {
                        let number: usize = other.strip_prefix("t/out").unwrap().parse().unwrap();
                        HOSTILE[number]
                    }
                };
                let found = attributes(EntryKind::Symlink, Some(target));
                codec::encode(&Reply::Ok(found)).unwrap()
            }
            _ => failure(ErrorCode::UNSUPPORTED),
        };
        let _ = send.write_all(&bytes).await;
        let _ = send.finish();
        let _ = send.stopped().await;
    }
}

fn failure(code: ErrorCode) -> Vec<u8> {
    codec::encode(&Reply::<Attributes>::Failed(Failure::new(code))).unwrap()
}

/// What is in the target after the tree came: nothing but the links that stay in it.
fn check_hostile(to: &Path, failures: &[String]) {
    assert_eq!(names(to), ["d", "good"]);
    assert_eq!(names(&to.join("d")), ["good"]);
    assert_eq!(
        (target(&to.join("good")), target(&to.join("d/good"))),
        ("x".into(), "../x".into())
    );
    assert_eq!(failures.len(), HOSTILE.len() + 1, "{failures:?}");
    for failure in failures {
        assert!(failure.contains("would lead out of"), "{failure}");
    }
}

// P71
#[tokio::test]
async fn a_server_makes_no_link_here_that_leads_out() {
    // One of an earlier version tells targets only when it is asked.
    for tells_targets in [true, false] {
        let fake = FakeServer::start(async move |connection| play(connection, tells_targets).await);
        let client = fake.client().await;
        let local = scratch();
        let to = local.path().join("t");
        let fetched = fetch_links(&client, "t", &to, fetching(LinkPolicy::Keep)).await;
        check_hostile(&to, &fetched.failures);
        let synced = local.path().join("synced");
        let notes = LinkNotes::new();
        let report = SyncReport::new(std::sync::Arc::clone(&notes.transfer), |_| {});
        let job = SyncJob {
            source: SyncSide::Server(client.clone(), path("t")),
            target: SyncSide::Local(synced.clone()),
            options: SyncOptions {
                links: LinkPolicy::Keep,
                ..SyncOptions::default()
            },
        };
        within("a hostile sync", job.run(&GiveUp, &report)).await;
        check_hostile(&synced, &notes.end().failures);
        client.close().await;
        fake.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_made_through_a_link_that_is_in_the_way() {
    let fake = FakeServer::start(async move |connection| play(connection, true).await);
    let client = fake.client().await;
    let local = scratch();
    let (to, outside) = (local.path().join("t"), local.path().join("outside"));
    fs::create_dir(&to).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("d")).unwrap();
    fs::write(outside.join("canary"), "untouched").unwrap();
    symlink(outside.join("canary"), to.join("good")).unwrap();
    let mut force = fetching(LinkPolicy::Keep);
    force.save.overwrite = true;
    let fetched = fetch_links(&client, "t", &to, force).await;
    let in_the_way =
        |text: &String| text.contains("is a symbolic link in the place of a directory");
    assert!(
        fetched.failures.iter().any(in_the_way),
        "{:?}",
        fetched.failures
    );
    assert_eq!(names(&outside), ["canary"]);
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"untouched");
    assert_eq!(target(&to.join("good")), "x", "the link itself is replaced");
    client.close().await;
    fake.stop().await;
}

#[tokio::test]
async fn a_server_of_an_earlier_version_is_named_as_the_reason() {
    let fake = FakeServer::start(async |connection| {
        let (_, mut send, _recv) = request(&connection).await;
        send.write_all(&failure(ErrorCode::UNSUPPORTED))
            .await
            .unwrap();
        let _ = send.finish();
        let _ = send.stopped().await;
    });
    let client = fake.client().await;
    let link = MakeSymlink {
        path: path("l"),
        target: LinkTarget::new(b"x").unwrap(),
        make_parents: false,
        precondition: Precondition::Any,
        modified: None,
    };
    let refused = client.make_symlink(link).await.unwrap_err();
    let text = "a symbolic link, and the server is of an earlier version, which makes none";
    assert_eq!(refused.to_string(), text);
    client.close().await;
    fake.stop().await;
}
