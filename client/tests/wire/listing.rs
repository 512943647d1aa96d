//! Listings and whole trees, from a server that may have them in disorder.

use std::fs;

use bytes::Bytes;
use quire_client::Exit;
use quire_client::tree::{self, Fetch, FetchOptions, Transfer};
use quire_shared::protocol::{
    Attributes, Entry, EntryKind, GetHeader, List, Page, Reply, Request, Time,
};
use quire_shared::{ErrorCode, Name};

use crate::{Pair, failed, header, names, path, trailer, version};

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
    }
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        attributes: attributes(kind),
    }
}

fn page(entries: &[Entry], last: bool) -> Page {
    Page {
        entries: entries.to_vec(),
        unnameable: 0,
        last,
    }
}

#[tokio::test]
async fn entries_out_of_order_or_twice_are_refused() {
    let file = EntryKind::File;
    for second in ["a", "b"] {
        let pair = Pair::new().await;
        let serve = async {
            let (_, mut sender, _receiver) = pair.request().await;
            let first = page(&[entry("b", file)], false);
            sender.send(&Reply::Ok(first)).await.unwrap();
            let last = page(&[entry(second, file)], true);
            sender.send(&Reply::Ok(last)).await.unwrap();
            let _ = sender.finish_and_wait().await;
        };
        let list = async {
            let list = List {
                path: path("d"),
                after: None,
            };
            let mut listing = pair.client.list(list).await.unwrap();
            assert!(listing.next().await.unwrap().is_some());
            assert!(listing.next().await.is_err());
        };
        tokio::join!(list, serve);
    }
}

#[tokio::test]
async fn a_paused_listing_goes_on_after_its_last_name() {
    let pair = Pair::new().await;
    let file = EntryKind::File;
    let serve = async {
        let (_, mut first, _receiver) = pair.request().await;
        let entries = [entry("a", file), entry("b", file)];
        first.send(&Reply::Ok(page(&entries, false))).await.unwrap();
        let again = pair
            .answer(Reply::Ok(page(&[entry("c", file)], true)))
            .await;
        let Request::List(list) = again else {
            panic!("{again:?}");
        };
        assert_eq!(list.after.unwrap().as_str(), "b");
    };
    let list = async {
        let list = List {
            path: path("d"),
            after: None,
        };
        let mut listing = pair.client.list(list).await.unwrap();
        let mut names = Vec::new();
        while let Some(entry) = listing.next().await.unwrap() {
            listing.pause();
            names.push(entry.name.as_str().to_owned());
        }
        assert_eq!(names, ["a", "b", "c"]);
    };
    tokio::join!(list, serve);
}

#[tokio::test]
async fn a_tree_arrives_with_its_times_and_without_links() {
    let pair = Pair::new().await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("top");
    let transfer = Transfer::new(|_| {});
    let serve = async {
        loop {
            let (request, mut sender, _receiver) = pair.request().await;
            match request {
                Request::Stat(_) => {
                    let top = attributes(EntryKind::Directory);
                    sender.send(&Reply::Ok(top)).await.unwrap();
                }
                Request::List(list) if list.path == path("d") => {
                    let entries = [
                        entry("empty", EntryKind::Directory),
                        entry("f", EntryKind::File),
                        entry("gone", EntryKind::File),
                        entry("link", EntryKind::Symlink),
                        entry("pipe", EntryKind::Other),
                    ];
                    sender.send(&Reply::Ok(page(&entries, true))).await.unwrap();
                }
                Request::List(_) => sender.send(&Reply::Ok(page(&[], true))).await.unwrap(),
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
            sender.finish().unwrap();
        }
    };
    let items = vec![Fetch {
        from: path("d"),
        to: target.clone(),
    }];
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    tokio::select! {
        () = tree::fetch(&pair.client, items, options, &transfer) => {}
        () = serve => {}
    }
    assert_eq!(names(&target), ["empty", "f"]);
    assert_eq!(fs::read(target.join("f")).unwrap(), b"abc");
    for path in [&target, &target.join("empty"), &target.join("f")] {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_000_000_000, "{}", path.display());
    }
    assert_eq!((transfer.files(), transfer.directories()), (1, 2));
    assert_eq!((transfer.skipped(), transfer.failed()), (2, 1));
    assert_eq!(transfer.exit(), Exit::NotFound, "one file had gone");
}
