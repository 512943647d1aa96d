//! Listings: every name once, in order, in as many pages as it takes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quire_shared::ErrorCode;
use quire_shared::limits::PAGE_BYTES_MAX;
use quire_shared::protocol::{EntryKind, List, Page, Reply};

use quire_test_harness::client::{
    delete, get, list, list_names, name, path, put, refusal, stat, store,
};
use quire_test_harness::raw::{encoded, message};
use quire_test_harness::tree::HOSTILE_NAMES;
use quire_test_harness::{TestServer, Tree, within};

#[tokio::test]
async fn an_empty_directory_and_one_with_a_single_entry_are_listed() {
    let tree = Tree::new()
        .directory("empty")
        .file("one/f", "abc")
        .mode("one/f", 0o640);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert!(list(&client, "empty").await.unwrap().is_empty());
    let entries = list(&client, "one").await.unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].name.as_str(), "f");
    assert_eq!(
        entries[0].attributes,
        client.stat(stat("one/f")).await.unwrap()
    );
    assert_eq!(
        (entries[0].attributes.size, entries[0].attributes.mode),
        (3, 0o640)
    );
    assert_eq!(list_names(&client, "").await.unwrap(), ["empty", "one"]);
    client.close().await;
    server.stop().await;
}

// P25
#[tokio::test]
async fn ten_thousand_entries_come_in_order_in_several_pages() {
    const ENTRIES: usize = 10_000;
    let tree = Tree::new().directory("d");
    for entry in 0..ENTRIES {
        tree.write(&format!("d/{entry}"), "");
    }
    let mut expected: Vec<_> = (0..ENTRIES).map(|entry| entry.to_string()).collect();
    expected.sort();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(list_names(&client, "d").await.unwrap(), expected);

    let raw = server.raw().await;
    let (mut send, mut recv) = raw
        .begin(List {
            path: path("d"),
            after: None,
        })
        .await;
    send.finish().unwrap();
    let mut pages = Vec::new();
    loop {
        let Reply::Ok(page) = message::<Reply<Page>>(&mut recv).await.unwrap() else {
            panic!("the listing failed in the middle");
        };
        let is_last = page.last;
        pages.push(page);
        if is_last {
            break;
        }
    }
    assert!(
        pages.len() > ENTRIES * 16 / PAGE_BYTES_MAX,
        "{} pages",
        pages.len()
    );
    let entries = pages.iter().flat_map(|page| &page.entries);
    assert!(entries.map(|entry| entry.name.as_str()).eq(expected.iter()));
    assert_eq!(within("the end", recv.read_to_end(1)).await.unwrap(), b"");
    raw.close().await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_listing_goes_on_after_any_name_whether_it_exists_or_not() {
    let tree = ["b", "d", "f"]
        .iter()
        .fold(Tree::new(), |tree, name| tree.file(name, ""));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for (after, expected) in [
        ("a", &["b", "d", "f"][..]),
        ("b", &["d", "f"]),
        ("c", &["d", "f"]),
        ("e", &["f"]),
        ("f", &[]),
        ("\u{10FFFF}", &[]),
    ] {
        let asked = List {
            path: path(""),
            after: Some(name(after)),
        };
        let mut listing = client.list(asked).await.unwrap();
        let mut names = Vec::new();
        while let Some(entry) = listing.next().await.unwrap() {
            names.push(entry.name.as_str().to_owned());
        }
        assert_eq!(names, expected, "after {after}");
    }
    client.close().await;
    server.stop().await;
}

// P25
#[tokio::test]
async fn names_of_any_kind_come_in_the_order_of_their_bytes() {
    let longest = "z".repeat(255);
    let mut expected: Vec<_> = HOSTILE_NAMES.iter().copied().chain([&*longest]).collect();
    let tree = expected
        .iter()
        .fold(Tree::new(), |tree, name| tree.file(name, ""));
    expected.sort_unstable();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(list_names(&client, "").await.unwrap(), expected);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn names_that_are_not_utf8_are_counted_and_left_out() {
    let tree = Tree::new().file("a", "").file("z", "");
    for bytes in [&b"\xff"[..], b"b\x80", b"\xed\xa0\x80"] {
        fs::write(tree.root().join(OsStr::from_bytes(bytes)), "").unwrap();
    }
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let mut listing = client
        .list(List {
            path: path(""),
            after: None,
        })
        .await
        .unwrap();
    let mut names = Vec::new();
    while let Some(entry) = listing.next().await.unwrap() {
        names.push(entry.name.as_str().to_owned());
    }
    assert_eq!(names, ["a", "z"]);
    assert_eq!(listing.unnameable().count, 3);
    drop(listing);
    client.close().await;
    server.stop().await;
}

// P19
#[tokio::test]
async fn links_and_special_files_are_listed_as_what_they_are() {
    let tree = Tree::new()
        .directory("d")
        .file("f", "abc")
        .fifo("fifo")
        .link("in", "f");
    let tree = tree.link("loop", "loop").link("broken", "nowhere");
    let outside = tree.outside();
    let tree = tree.link("out", outside);
    let socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let entries = list(&client, "").await.unwrap();
    let kinds: Vec<_> = entries
        .iter()
        .map(|e| (e.name.as_str(), e.attributes.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("broken", EntryKind::Symlink),
            ("d", EntryKind::Directory),
            ("f", EntryKind::File),
            ("fifo", EntryKind::Other),
            ("in", EntryKind::Symlink),
            ("loop", EntryKind::Symlink),
            ("out", EntryKind::Symlink),
            ("socket", EntryKind::Other),
        ]
    );
    for entry in &entries {
        let known = client.stat(stat(entry.name.as_str())).await.unwrap();
        assert_eq!(known, entry.attributes, "{}", entry.name);
        assert_eq!(
            known.size,
            if known.kind == EntryKind::File { 3 } else { 0 }
        );
    }
    drop(socket);
    client.close().await;
    server.stop().await;
}

// P33
#[tokio::test]
async fn links_come_with_their_targets_in_as_many_pages_as_it_takes() {
    const LINKS: usize = 200;
    let tree = Tree::new().directory("d");
    let target = |link: usize| format!("{link}/{}", "x/".repeat(700));
    for link in 0..LINKS {
        std::os::unix::fs::symlink(target(link), tree.path(&format!("d/{link:03}"))).unwrap();
    }
    let tree = tree.link("d/too long", "y".repeat(3000));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let entries = list(&client, "d").await.unwrap();
    assert_eq!(entries.len(), LINKS + 1);
    for (link, entry) in entries.iter().take(LINKS).enumerate() {
        let told = entry.attributes.target.as_ref().unwrap();
        assert_eq!(told.as_bytes(), target(link).as_bytes());
    }
    assert_eq!(entries[LINKS].attributes.target, None);
    let attributes = client.stat(stat("d/007")).await.unwrap();
    assert_eq!(attributes, entries[7].attributes);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn names_of_quire_itself_are_hidden() {
    let tree = Tree::new()
        .file(".quire-mine", "")
        .file(".quiretly", "")
        .file("d/.quire-x", "");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    // From the first put on there is a staging directory.
    store(&client, "f", b"abc").await.unwrap();
    assert!(tree.has(".quire-staging"));
    assert_eq!(
        list_names(&client, "").await.unwrap(),
        [".quiretly", "d", "f"]
    );
    assert!(list_names(&client, "d").await.unwrap().is_empty());
    client.close().await;
    server.stop().await;
}

// P25
#[tokio::test]
async fn a_listing_while_files_come_and_go_shows_each_permanent_file_once() {
    const PERMANENT: usize = 3000;
    let tree = Tree::new();
    let mut expected: Vec<_> = (0..PERMANENT)
        .map(|file| format!("permanent-{file:05}"))
        .collect();
    expected.sort();
    for name in &expected {
        tree.write(&format!("d/{name}"), "");
    }
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let done = Arc::new(AtomicBool::new(false));
    let (changing, stopped, changer) = (tree.path("d"), Arc::clone(&done), client.clone());
    let changes = tokio::task::spawn_blocking(move || {
        let mut round = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let number = round.wrapping_mul(0x9E37_79B9) % 100_000;
            fs::write(changing.join(format!("permanent-{number:05}-not")), "").unwrap();
            let old = round.wrapping_sub(500).wrapping_mul(0x9E37_79B9) % 100_000;
            let _ = fs::remove_file(changing.join(format!("permanent-{old:05}-not")));
            round += 1;
        }
        round
    });
    for round in 0..10 {
        let passing = format!("d/passing-{round}");
        store(&changer, &passing, b"").await.unwrap();
        let names = list_names(&client, "d").await.unwrap();
        assert!(names.is_sorted_by(|one, next| one < next));
        let permanent = names
            .iter()
            .filter(|n| n.starts_with("permanent-") && !n.ends_with("not"));
        assert!(permanent.eq(expected.iter()));
        assert!(names.contains(&format!("passing-{round}")));
        changer.delete(delete(&passing)).await.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    assert!(changes.await.unwrap() > 0);
    client.close().await;
    changer.close().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_directory_is_not_listed() {
    let tree = Tree::new()
        .file("f", "")
        .fifo("fifo")
        .directory("d")
        .link("link", "d");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(
        refusal(list(&client, "missing").await),
        ErrorCode::NOT_FOUND
    );
    assert_eq!(refusal(list(&client, "f").await), ErrorCode::NOT_DIRECTORY);
    assert_eq!(
        refusal(list(&client, "f/below").await),
        ErrorCode::NOT_DIRECTORY
    );
    for special in ["fifo", "link"] {
        let code = refusal(list(&client, special).await);
        assert!(
            [ErrorCode::NOT_DIRECTORY, ErrorCode::SPECIAL_FILE].contains(&code),
            "{code:?}"
        );
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_reader_of_a_listing_that_goes_away_leaves_nothing_behind() {
    let tree = Tree::new();
    for entry in 0..5000 {
        tree.write(&format!("d/{entry:0200}"), "");
    }
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let mut listing = client
        .list(List {
            path: path("d"),
            after: None,
        })
        .await
        .unwrap();
    listing.next().await.unwrap().unwrap();
    drop(listing);
    let raw = server.raw().await;
    // One that opens a stream, asks, and never reads a byte of the answer.
    let (send, recv) = raw.open().await;
    let mut send = send;
    send.write_all(&encoded(List {
        path: path("d"),
        after: None,
    }))
    .await
    .unwrap();
    client.get(get("d/missing")).await.unwrap_err();
    drop((send, recv));
    raw.close().await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_new_entry_is_listed_at_once() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for round in 0..50 {
        let name = format!("f{round:02}");
        let stored = store(&client, &name, b"abc").await.unwrap();
        let entries = list(&client, "").await.unwrap();
        assert_eq!(entries.len(), round + 1);
        assert_eq!(entries[round].attributes.version, stored.version);
        assert_eq!(put(&name, 3).path, path(entries[round].name.as_str()));
    }
    client.close().await;
    server.stop().await;
}
