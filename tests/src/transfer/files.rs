//! Single files in both directions: whole, in part, and with their attributes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use quire_client::download::SaveOptions;
use quire_client::upload::{Links, LocalFile, UploadBody};
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Get, Precondition, Preserve, Put, Time, Version};

use quire_test_harness::client::{
    fetch, fetch_as, get, make_directory, put, receive, refusal, rename, stat, store, store_as,
    version,
};
use quire_test_harness::server::STAGING;
use quire_test_harness::tree::{HOSTILE_NAMES, names, scratch};
use quire_test_harness::{SIZES, TestServer, Tree, assert_same, content};

fn digest_of(kind: DigestKind, bytes: &[u8]) -> quire_shared::digest::Digest {
    let mut hasher = kind.hasher();
    hasher.update(bytes);
    hasher.finish()
}

#[tokio::test]
async fn a_file_of_any_size_is_fetched_as_it_is() {
    let tree = Tree::new().with_sizes();
    // Without a cache, and with one that the first round fills and the second reads.
    for cache in [0, 64 << 20] {
        let server = TestServer::builder(&tree).cache(cache).start().await;
        let client = server.client().await;
        for _ in 0..2 {
            for &size in SIZES {
                let name = format!("size-{size}");
                assert_same(fetch(&client, &name).await.unwrap(), tree.read(&name));
            }
        }
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_file_of_any_size_is_stored_as_it_is() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for &size in SIZES {
        let (name, bytes) = (format!("size-{size}"), content(size as u64, size));
        let stored = store(&client, &name, &bytes).await.unwrap();
        assert_same(tree.read(&name), &bytes);
        assert_eq!(stored.version, version(&client, &name).await);
        assert_same(fetch(&client, &name).await.unwrap(), &bytes);
    }
    client.close().await;
    server.stop().await;
}

// P28
#[tokio::test]
async fn a_file_of_unknown_size_is_stored_in_pieces() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for &size in SIZES {
        let (name, bytes) = (format!("size-{size}"), content(size as u64, size));
        let request = Put {
            size: None,
            ..put(&name, 0)
        };
        store_as(&client, request, &bytes).await.unwrap();
        assert_same(tree.read(&name), &bytes);
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_range_is_fetched_and_cut_at_the_end_of_the_file() {
    let size = 700_000_usize;
    let bytes = content(1, size);
    let tree = Tree::new().file("f", &bytes).file("empty", "");
    for cache in [0, 64 << 20] {
        let server = TestServer::builder(&tree).cache(cache).start().await;
        let client = server.client().await;
        let range = |offset: usize, length: Option<usize>| Get {
            offset: offset as u64,
            length: length.map(|length| length as u64),
            ..get("f")
        };
        for (offset, length, end) in [
            (0, Some(0), 0),
            (0, Some(1), 1),
            (5, Some(65_536), 65_541),
            (1, None, size),
            (524_287, Some(2), 524_289),
            (size - 1, Some(1), size),
            (size - 1, Some(usize::MAX), size),
            (size, Some(1), size),
            (size, None, size),
        ] {
            let got = fetch_as(&client, range(offset, length)).await.unwrap();
            assert_same(got, &bytes[offset..end]);
        }
        assert_eq!(
            refusal(fetch_as(&client, range(size + 1, None)).await),
            ErrorCode::RANGE
        );
        let beyond = range(usize::MAX, Some(usize::MAX));
        assert_eq!(refusal(fetch_as(&client, beyond).await), ErrorCode::RANGE);
        assert_same(fetch(&client, "empty").await.unwrap(), b"");
        let beyond = Get {
            offset: 1,
            ..get("empty")
        };
        assert_eq!(refusal(fetch_as(&client, beyond).await), ErrorCode::RANGE);
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_resumed_download_joins_only_parts_of_one_version() {
    let bytes = content(1, 300_000);
    let tree = Tree::new().file("f", &bytes);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let first = Get {
        length: Some(100_000),
        ..get("f")
    };
    let download = client.get(first).await.unwrap();
    let seen = download.header().version.clone();
    let (mut got, _) = receive(download).await.unwrap();
    let rest = Get {
        offset: 100_000,
        precondition: Precondition::Match(seen),
        ..get("f")
    };
    got.extend(fetch_as(&client, rest.clone()).await.unwrap());
    assert_same(got, &bytes);

    store(&client, "f", &content(2, 300_000)).await.unwrap();
    assert_eq!(refusal(fetch_as(&client, rest).await), ErrorCode::CONFLICT);
    client.close().await;
    server.stop().await;
}

// P30
#[tokio::test]
async fn each_kind_of_digest_is_that_of_the_body() {
    let bytes = content(3, 700_000);
    let tree = Tree::new().file("f", &bytes);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for digest in DigestKind::ALL {
        let download = client.get(Get { digest, ..get("f") }).await.unwrap();
        let (got, fetched) = receive(download).await.unwrap();
        assert_same(got, &bytes);
        assert_eq!(fetched.digest, digest_of(digest, &bytes), "{digest}");
        assert_eq!(fetched.digest_kind, digest);
        let range = Get {
            digest,
            offset: 7,
            length: Some(9),
            ..get("f")
        };
        let download = client.get(range).await.unwrap();
        let (_, fetched) = receive(download).await.unwrap();
        assert_eq!(
            fetched.digest,
            digest_of(digest, &bytes[7..16]),
            "{digest} of a range"
        );
        for size in [Some(bytes.len() as u64), None] {
            let request = Put {
                digest,
                size,
                ..put("g", 0)
            };
            let stored = store_as(&client, request, &bytes).await.unwrap();
            assert_eq!(stored.digest, digest_of(digest, &bytes), "{digest}");
        }
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_modification_time_and_a_mode_are_kept_both_ways() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for (mode, seconds, nanoseconds) in [
        (0o600, 1_000_000_000, 123_456_789),
        (0o755, 0, 0),
        (0o444, -1_000_000, 1),
        (0o777, 5_000_000_000, 999_999_999),
    ] {
        let modified = Time {
            seconds,
            nanoseconds,
        };
        let request = Put {
            mode: Some(mode),
            modified: Some(modified),
            preserve: Preserve::Exact,
            ..put("f", 3)
        };
        store_as(&client, request, b"abc").await.unwrap();
        let metadata = std::fs::metadata(tree.path("f")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode);
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (seconds, nanoseconds.into())
        );
        let known = client.stat(stat("f")).await.unwrap();
        assert_eq!((known.mode, known.modified), (mode, modified));
        let download = client.get(get("f")).await.unwrap();
        assert_eq!(
            (download.header().mode, download.header().modified),
            (mode, modified)
        );
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn setuid_setgid_and_sticky_bits_are_never_kept() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for mode in [0o7777, 0o4755, u32::MAX] {
        let request = Put {
            mode: Some(mode),
            preserve: Preserve::Exact,
            ..put("f", 3)
        };
        store_as(&client, request, b"abc").await.unwrap();
        let metadata = std::fs::metadata(tree.path("f")).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode & 0o777);
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_download_is_saved_with_time_and_mode_and_replaces_nothing_unasked() {
    let bytes = content(4, 600_000);
    let tree = Tree::new().file("f", &bytes).mode("f", 0o640);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let local = scratch();
    let target = local.path().join("here");
    let moved = AtomicU64::new(0);
    let save = async |options: SaveOptions| {
        let download = client.get(get("f")).await.unwrap();
        download.save(&target, options, &moved).await
    };
    save(SaveOptions::default()).await.unwrap();
    assert_same(std::fs::read(&target).unwrap(), &bytes);
    assert_eq!(moved.load(Ordering::Relaxed), bytes.len() as u64);
    let metadata = |path: &Path| {
        let metadata = std::fs::metadata(path).unwrap();
        (
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.mode() & 0o700,
        )
    };
    assert_eq!(metadata(&target), metadata(&tree.path("f")));

    std::fs::write(&target, "theirs").unwrap();
    save(SaveOptions::default()).await.unwrap_err();
    assert_same(std::fs::read(&target).unwrap(), "theirs");
    save(SaveOptions {
        overwrite: true,
        sync: true,
        ..SaveOptions::default()
    })
    .await
    .unwrap();
    assert_same(std::fs::read(&target).unwrap(), &bytes);
    assert_eq!(names(local.path()), ["here"]);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_local_file_is_stored_with_its_attributes() {
    let bytes = content(5, 600_000);
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let local = scratch();
    let source = local.path().join("source");
    std::fs::write(&source, &bytes).unwrap();
    let file = LocalFile::open(&source, Links::Follow).await.unwrap();
    let request = Put {
        modified: file.modified(),
        mode: file.mode(),
        ..put("f", bytes.len())
    };
    client
        .put(request, file.into_content(), &AtomicU64::new(0))
        .await
        .unwrap();
    assert_same(tree.read("f"), &bytes);
    let metadata = |path: &Path| {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.mtime(), metadata.mtime_nsec(), metadata.mode())
    };
    assert_eq!(metadata(&tree.path("f")), metadata(&source));
    client.close().await;
    server.stop().await;
}

/// A source shorter than its declared length.
#[tokio::test]
async fn a_local_source_that_is_too_short_is_not_published() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let short = UploadBody::stream(std::io::Cursor::new(content(1, 1000)), "memory");
    let result = client.put(put("f", 1001), short, &AtomicU64::new(0)).await;
    assert_eq!(refusal(result), ErrorCode::CHANGED);
    assert_same(tree.read("f"), "old");
    client.close().await;
    server.stop().await;
}

// P31
#[tokio::test]
async fn a_put_replaces_only_what_its_precondition_allows() {
    let tree = Tree::new().file("f", "old");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let offer = async |precondition: Precondition, bytes: &str| {
        let request = Put {
            precondition,
            ..put("f", bytes.len())
        };
        store_as(&client, request, bytes.as_bytes()).await
    };
    assert_eq!(
        refusal(offer(Precondition::Absent, "1").await),
        ErrorCode::EXISTS
    );
    let other = Precondition::Match(Version::new(b"other").unwrap());
    assert_eq!(
        refusal(offer(other.clone(), "2").await),
        ErrorCode::CONFLICT
    );
    assert_same(tree.read("f"), "old");

    let seen = Precondition::Match(version(&client, "f").await);
    let stored = offer(seen.clone(), "3").await.unwrap();
    assert_same(tree.read("f"), "3");
    assert_eq!(refusal(offer(seen, "4").await), ErrorCode::CONFLICT);
    offer(Precondition::Match(stored.version), "5")
        .await
        .unwrap();
    offer(Precondition::Any, "6").await.unwrap();
    assert_same(tree.read("f"), "6");

    client.rename(rename("f", "g")).await.unwrap();
    assert_eq!(refusal(offer(other, "7").await), ErrorCode::CONFLICT);
    assert!(!tree.has("f"));
    offer(Precondition::Absent, "8").await.unwrap();
    assert_same(tree.read("f"), "8");
    client.close().await;
    server.stop().await;
}

// P31
#[tokio::test]
async fn of_many_puts_of_one_new_name_at_once_one_succeeds() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for round in 0..20_u64 {
        let name = format!("f{round}");
        let mut offers = tokio::task::JoinSet::new();
        for seed in 0..8_u64 {
            let (client, name) = (client.clone(), name.clone());
            offers.spawn(async move {
                let bytes = content(seed, 3000);
                let request = Put {
                    precondition: Precondition::Absent,
                    ..put(&name, bytes.len())
                };
                (seed, store_as(&client, request, &bytes).await)
            });
        }
        let mut winner = None;
        for (seed, result) in offers.join_all().await {
            match result {
                Ok(_) => assert_eq!(winner.replace(seed), None, "two have won"),
                Err(error) => assert_eq!(error.code(), Some(ErrorCode::EXISTS), "{error}"),
            }
        }
        assert_same(tree.read(&name), content(winner.expect("one wins"), 3000));
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_put_below_a_missing_directory_fails_unless_it_makes_parents() {
    let tree = Tree::new().file("file", "");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(
        refusal(store(&client, "a/b/f", b"abc").await),
        ErrorCode::NOT_FOUND
    );
    assert!(!tree.has("a"));
    let making = |name| Put {
        make_parents: true,
        ..put(name, 3)
    };
    store_as(&client, making("a/b/f"), b"abc").await.unwrap();
    assert_same(tree.read("a/b/f"), "abc");
    store_as(&client, making("a/b/g"), b"def").await.unwrap();
    store_as(&client, making("top"), b"ghi").await.unwrap();
    assert_eq!(tree.names("a/b"), ["f", "g"]);
    let below_file = store_as(&client, making("file/f"), b"abc").await;
    assert_eq!(refusal(below_file), ErrorCode::NOT_DIRECTORY);
    client.close().await;
    server.stop().await;
}

// P34
#[tokio::test]
async fn names_that_mean_something_elsewhere_are_names_like_any_other() {
    let longest = ["a".repeat(255), "é".repeat(127)];
    let all = || {
        HOSTILE_NAMES
            .iter()
            .copied()
            .chain(longest.iter().map(String::as_str))
    };
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for (seed, name) in all().enumerate() {
        let bytes = content(seed as u64, 100);
        client.make_directory(make_directory(name)).await.unwrap();
        let inner = format!("{name}/{name}");
        store(&client, &inner, &bytes).await.unwrap();
        assert_same(tree.read(&inner), &bytes);
        assert_same(fetch(&client, &inner).await.unwrap(), &bytes);
    }
    let mut expected: Vec<_> = all().chain([STAGING]).collect();
    expected.sort_unstable();
    assert_eq!(tree.names(""), expected);
    client.close().await;
    server.stop().await;
}
