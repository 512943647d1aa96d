//! The server's memory cache, as clients see it: which files it holds, and that it always agrees with
//! the disk.

use quire_client::Client;
use quire_shared::protocol::{CacheEntry, Get};

use quire_test_harness::client::{
    cached, copy, delete, delete_all, fetch, fetch_as, get, path, receive, rename, store,
};
use quire_test_harness::content::KIB;
use quire_test_harness::{LARGE, SIZES, TestServer, Tree, assert_same, content, within};

/// Waits until all files in `tree` are old enough to be cached, by a file that is written last and
/// deleted afterwards.
async fn settle(tree: &Tree, client: &Client) {
    const LAST: &str = "written last";
    tree.write(LAST, "1");
    let aged = async {
        while !is_cached(client, LAST).await {
            fetch(client, LAST).await.unwrap();
        }
    };
    within("a file to be old enough for the cache", aged).await;
    client.delete(delete(LAST)).await.unwrap();
}

async fn is_cached(client: &Client, name: &str) -> bool {
    entries(client)
        .await
        .iter()
        .any(|entry| entry.path == path(name))
}

async fn entries(client: &Client) -> Vec<CacheEntry> {
    let (entries, limit) = cached(client).await.unwrap();
    let live: u64 = entries.iter().map(|entry| entry.bytes).sum();
    assert!(live <= limit, "{live} bytes in a cache of {limit}");
    entries
}

async fn paths(client: &Client) -> Vec<String> {
    entries(client)
        .await
        .iter()
        .map(|entry| entry.path.to_relative())
        .collect()
}

#[tokio::test]
async fn fetched_files_are_cached_and_hits_equal_the_disk() {
    let tree = Tree::new().with_sizes();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    settle(&tree, &client).await;
    for round in 0..3 {
        for &size in SIZES {
            let name = format!("size-{size}");
            assert_same(
                fetch(&client, &name).await.unwrap(),
                content(size as u64, size),
            );
            let entries = entries(&client).await;
            let entry = entries.iter().find(|entry| entry.path == path(&name));
            // An empty file saves nothing.
            assert_eq!(entry.is_some(), size > 0, "{name}");
            if let Some(entry) = entry {
                assert_eq!((entry.bytes, entry.hits), (size as u64, round), "{name}");
            }
        }
    }
    let largest = *SIZES.last().unwrap();
    let range = Get {
        offset: 100,
        length: Some(largest as u64 - 200),
        ..get(&format!("size-{largest}"))
    };
    let got = fetch_as(&client, range).await.unwrap();
    assert_same(got, &content(largest as u64, largest)[100..largest - 100]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn the_least_recently_used_files_go_first_as_many_as_needed() {
    let file = |seed| content(seed, 300 * KIB);
    let tree = Tree::new()
        .file("a", file(1))
        .file("b", file(2))
        .file("c", file(3));
    let tree = tree.file("d", file(4)).file("large", content(5, 700 * KIB));
    let server = TestServer::builder(&tree)
        .cache(1024 * KIB as u64)
        .start()
        .await;
    let client = server.client().await;
    settle(&tree, &client).await;
    for name in ["a", "b", "c"] {
        fetch(&client, name).await.unwrap();
    }
    assert_eq!(paths(&client).await, ["c", "b", "a"]);
    fetch(&client, "a").await.unwrap();
    fetch(&client, "d").await.unwrap();
    assert_eq!(paths(&client).await, ["d", "a", "c"]);
    // Two are evicted for this one, and then the remaining one and this one itself.
    fetch(&client, "large").await.unwrap();
    assert_eq!(paths(&client).await, ["large", "d"]);
    for (name, seed) in [("b", 2), ("a", 1)] {
        assert_same(fetch(&client, name).await.unwrap(), file(seed));
    }
    assert_eq!(paths(&client).await, ["a", "b"]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_file_larger_than_the_cache_is_never_cached_and_throws_nothing_out() {
    let large = content(1, 300 * KIB);
    let tree = Tree::new()
        .file("small", content(2, 1000))
        .file("large", &large);
    let server = TestServer::builder(&tree)
        .cache(256 * KIB as u64)
        .start()
        .await;
    let client = server.client().await;
    settle(&tree, &client).await;
    fetch(&client, "small").await.unwrap();
    for _ in 0..3 {
        assert_same(fetch(&client, "large").await.unwrap(), &large);
        assert_eq!(paths(&client).await, ["small"]);
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_limit_for_single_files_is_kept() {
    let tree = Tree::new()
        .file("fits", content(1, 1000))
        .file("larger", content(2, 1001));
    let limit = |config: &mut quire_server::Config| config.cache.file_max = 1000;
    let server = TestServer::builder(&tree).with(limit).start().await;
    let client = server.client().await;
    settle(&tree, &client).await;
    fetch(&client, "fits").await.unwrap();
    fetch(&client, "larger").await.unwrap();
    assert_eq!(paths(&client).await, ["fits"]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_cache_of_size_zero_holds_nothing() {
    let tree = Tree::new().file("f", content(1, 1000));
    // The other server's cache shows that the file is old enough to be cached.
    let (off, on) = (
        TestServer::builder(&tree).cache(0).start().await,
        TestServer::start(&tree).await,
    );
    let (client, witness) = (off.client().await, on.client().await);
    let aged = async {
        while !is_cached(&witness, "f").await {
            fetch(&witness, "f").await.unwrap();
        }
    };
    within("a file to be old enough for the cache", aged).await;
    for _ in 0..3 {
        assert_same(fetch(&client, "f").await.unwrap(), content(1, 1000));
    }
    assert_eq!(cached(&client).await.unwrap(), (Vec::new(), 0));
    client.close().await;
    witness.close().await;
    off.stop().await;
    on.stop().await;
}

#[tokio::test]
async fn an_entry_is_gone_after_each_change_of_its_file() {
    let bytes = content(1, 1000);
    let tree = Tree::new().directory("d");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let fresh = async || {
        for name in ["f", "g", "d/h"] {
            tree.write(name, &bytes);
        }
        settle(&tree, &client).await;
        for name in ["f", "g", "d/h"] {
            fetch(&client, name).await.unwrap();
        }
        let mut paths = paths(&client).await;
        paths.sort();
        assert_eq!(paths, ["d/h", "f", "g"]);
    };
    let gone = async |name| assert!(!is_cached(&client, name).await, "{name} is still cached");

    fresh().await;
    client.delete(delete("f")).await.unwrap();
    gone("f").await;

    fresh().await;
    client.rename(rename("f", "g")).await.unwrap();
    gone("f").await;
    gone("g").await;
    assert_same(fetch(&client, "g").await.unwrap(), &bytes);

    fresh().await;
    store(&client, "f", b"new").await.unwrap();
    gone("f").await;
    assert_same(fetch(&client, "f").await.unwrap(), b"new");

    fresh().await;
    client.copy(copy("g", "f")).await.unwrap();
    gone("f").await;

    fresh().await;
    client.rename(rename("d", "e")).await.unwrap();
    gone("d/h").await;
    assert_same(fetch(&client, "e/h").await.unwrap(), &bytes);
    client.rename(rename("e", "d")).await.unwrap();

    fresh().await;
    client.delete(delete_all("d")).await.unwrap();
    gone("d/h").await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_change_by_another_program_is_seen_at_once() {
    let tree = Tree::new().file("f", content(0, 1000));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for seed in 1..10 {
        settle(&tree, &client).await;
        fetch(&client, "f").await.unwrap();
        assert!(is_cached(&client, "f").await);
        match seed % 3 {
            0 => tree.write("f", content(seed, 1000)),
            1 => tree.overwrite("f", 0, &content(seed, 1000)),
            _ => {
                tree.write("next", content(seed, 1000));
                std::fs::rename(tree.path("next"), tree.path("f")).unwrap();
            }
        }
        assert_same(fetch(&client, "f").await.unwrap(), content(seed, 1000));
        assert_eq!(
            paths(&client)
                .await
                .iter()
                .filter(|name| *name == "f")
                .count(),
            0
        );
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn an_entry_that_is_being_sent_stays_and_keeps_its_bytes() {
    let (large, other) = (content(1, LARGE), content(2, 10 << 20));
    let tree = Tree::new().file("large", &large).file("other", &other);
    let server = TestServer::builder(&tree)
        .cache(LARGE as u64 + (2 << 20))
        .start()
        .await;
    let client = server.client().await;
    settle(&tree, &client).await;
    fetch(&client, "large").await.unwrap();
    // No client reads this one yet, and it exceeds all windows.
    let download = client.get(get("large")).await.unwrap();
    assert_same(fetch(&client, "other").await.unwrap(), &other);
    let entries = entries(&client).await;
    let names: Vec<_> = entries
        .iter()
        .map(|entry| entry.path.to_relative())
        .collect();
    assert_eq!(
        names,
        ["large"],
        "what is in use was thrown out, or does not count"
    );
    assert_eq!((entries[0].readers, entries[0].hits), (1, 1));
    store(&client, "large", b"new").await.unwrap();
    assert!(!is_cached(&client, "large").await);
    let (got, _) = receive(download).await.unwrap();
    assert_same(got, &large);
    // Its bytes are free now.
    fetch(&client, "other").await.unwrap();
    assert_eq!(paths(&client).await, ["other"]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_file_asked_for_by_many_at_once_is_cached_once_and_right_for_all() {
    let bytes = content(1, 3 << 20);
    let tree = Tree::new().file("f", &bytes);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    settle(&tree, &client).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let client = client.clone();
        readers.spawn(async move { fetch(&client, "f").await.unwrap() });
    }
    for got in within("all readers", readers.join_all()).await {
        assert_same(got, &bytes);
    }
    let entries = entries(&client).await;
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].hits, entries[0].readers), (31, 0));
    client.close().await;
    server.stop().await;
}
