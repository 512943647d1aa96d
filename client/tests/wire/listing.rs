//! Listings, from a server that may have them in disorder.

use quire_shared::protocol::{Entry, EntryKind, List, Page, Reply};

use quire_test_harness::fake::FakeConnection;

use crate::{entry, path};

fn page(entries: &[Entry], last: bool) -> Page {
    Page {
        entries: entries.to_vec(),
        unnameable: 0,
        last,
        raw_names: Vec::new(),
    }
}

#[tokio::test]
async fn entries_out_of_order_or_twice_are_refused() {
    let file = EntryKind::File;
    for second in ["a", "b"] {
        let pair = FakeConnection::open().await;
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
