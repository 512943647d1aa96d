//! Long runs, for figures that only long runs show: locks, cache, listings, leaks.
//!
//! Ignored by default; CONTRIBUTING.md has the command. The tests of each subject check the same in
//! small.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quire_client::Client;
use quire_client::transfer::{StoreOptions, Transfer, TransferEvent, UploadJob};
use tokio::task::JoinSet;

use quire_test_harness::client::{
    cached, delete, fetch, get, list_names, make_directory, path, put, rename, stat, store,
    store_as,
};
use quire_test_harness::content::Random;
use quire_test_harness::programs::{Programs, ServerProcess};
use quire_test_harness::tree::scratch;
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

/// Prints a figure for a run by hand.
#[expect(clippy::print_stderr, reason = "these runs are read by people")]
fn report(text: &str) {
    eprintln!("{text}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_hundred_thousand_renames_in_all_directions_get_through() {
    const NAMES: &[&str] = &["a", "b", "d/a", "d/b", "e/a", "d", "e", "e/d"];
    let tree = Tree::new().file("a", "x").file("d/b", "y").directory("e");
    let server = TestServer::start(&tree).await;
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let client = server.client().await;
        tasks.spawn(async move {
            let (mut random, mut slowest) = (Random::new(task), Duration::ZERO);
            for _ in 0..100_000 / 16 {
                let (from, to) = (*random.one_of(NAMES), *random.one_of(NAMES));
                let start = Instant::now();
                // Many of them find the source missing, or the target taken.
                if let Err(error) = client.rename(rename(from, to)).await {
                    assert!(error.code().is_some(), "{from} to {to}: {error}");
                }
                slowest = slowest.max(start.elapsed());
            }
            client.close().await;
            slowest
        });
    }
    let slowest = tasks.join_all().await.into_iter().max().unwrap();
    server.stop().await;
    report(&format!(
        "100000 cross renames; the slowest took {slowest:?}"
    ));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn after_a_million_paths_no_lock_is_left() {
    let tree = Tree::new().directory("d");
    let server = TestServer::start(&tree).await;
    let mut tasks = JoinSet::new();
    for task in 0..32 {
        let client = server.client().await;
        tasks.spawn(async move {
            for number in 0..1_000_000 / 32 {
                let name = format!("d/{task}/{number}");
                match number % 10 {
                    // Cancelled right after it was sent.
                    0 => tokio::select! {
                        biased;
                        _ = client.stat(stat(&name)) => {}
                        () = tokio::task::yield_now() => {}
                    },
                    1 => drop(client.delete(delete(&name)).await.unwrap_err()),
                    _ => drop(client.stat(stat(&name)).await.unwrap_err()),
                }
            }
            client.close().await;
        });
    }
    tasks.join_all().await;
    within("the last requests", async {
        while server.locked_paths() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.stop().await;
}

/// The 99th percentile of puts of a small file.
async fn put_p99(client: &Client) -> Duration {
    let mut times = Vec::new();
    for number in 0..1000_u64 {
        let start = Instant::now();
        store(client, "d/f", &content(number, 1000)).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    times[times.len() * 99 / 100]
}

/// Waits until the windows of all `readers` are full and no data moves.
async fn stand_still(readers: &[Client]) {
    let sent = || -> u64 {
        let each = readers.iter().map(|reader| reader.path().sent_packets);
        each.sum()
    };
    within("readers that stand still", async {
        loop {
            let before = sent();
            tokio::time::sleep(Duration::from_secs(1)).await;
            if sent() == before {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time"]
async fn puts_beside_stalled_readers() {
    let tree = Tree::new().file("d/f", content(1, LARGE));
    // More connections than one address may have.
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.connections_per_address = 128)
        .start()
        .await;
    let client = server.client().await;
    store(&client, "d/other", b"warm").await.unwrap();
    let mut readers = Vec::new();
    let mut downloads = Vec::new();
    for _ in 0..64 {
        let reader = server.client().await;
        downloads.push(reader.get(get("d/f")).await.unwrap());
        readers.push(reader);
    }
    stand_still(&readers).await;
    let busy = put_p99(&client).await;
    drop(downloads);
    for reader in readers {
        reader.close().await;
    }
    let idle = put_p99(&client).await;
    client.close().await;
    server.stop().await;
    report(&format!(
        "put p99: {busy:?} beside 64 readers that stand still, {idle:?} alone"
    ));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn after_ten_thousand_changes_no_byte_is_stale() {
    const FILES: u64 = 100;
    const KINDS: u64 = 7;
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let name = |file: u64| format!("f{file}");
    (0..FILES).for_each(|file| tree.write(&name(file), content(file, 1000)));
    let (mut stale, mut hits) = (0, 0);
    for round in 1..=10_000 / FILES {
        // Old enough to be cached.
        tokio::time::sleep(Duration::from_millis(120)).await;
        for file in 0..FILES {
            fetch(&client, &name(file)).await.unwrap();
        }
        hits += cached(&client).await.unwrap().0.len();
        for file in 0..FILES {
            let (name, new) = (name(file), content(round << 32 | file, 1000));
            change(&tree, &client, (round + file) % KINDS, &name, &new).await;
            stale += u64::from(fetch(&client, &name).await.unwrap() != new);
        }
    }
    client.close().await;
    server.stop().await;
    report(&format!(
        "10000 changes, {hits} of their files cached before: {stale} stale answers"
    ));
    assert!(hits > 9000, "only {hits} were cached, so little was tried");
    assert_eq!(stale, 0);
}

/// Changes a file's content, keeping its length, in one of seven ways.
async fn change(tree: &Tree, client: &Client, kind: u64, name: &str, new: &[u8]) {
    match kind {
        0 => drop(store(client, name, new).await.unwrap()),
        1 => {
            store(client, "next", new).await.unwrap();
            client.rename(rename("next", name)).await.unwrap();
        }
        2 => {
            client.delete(delete(name)).await.unwrap();
            store(client, name, new).await.unwrap();
        }
        // By other programs: in place, by another file, by one that may get the old inode
        // number, and under another name.
        3 => tree.overwrite(name, 0, new),
        4 => {
            tree.write("next", new);
            std::fs::rename(tree.path("next"), tree.path(name)).unwrap();
        }
        5 => {
            std::fs::remove_file(tree.path(name)).unwrap();
            tree.write(name, new);
        }
        _ => {
            std::fs::hard_link(tree.path(name), tree.path("link")).unwrap();
            tree.overwrite("link", 0, new);
            std::fs::remove_file(tree.path("link")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn ten_thousand_listings_while_files_come_and_go_show_each_permanent_file_once() {
    let tree = Tree::new();
    let permanent: Vec<_> = (0..50).map(|file| format!("permanent-{file:02}")).collect();
    permanent
        .iter()
        .for_each(|name| tree.write(&format!("d/{name}"), ""));
    let server = TestServer::start(&tree).await;
    let (lister, changer) = (server.client().await, server.client().await);
    let mut changes = JoinSet::new();
    changes.spawn(async move {
        for number in 0.. {
            let name = format!("d/p-{}", number % 40);
            let changed = match number % 3 {
                0 => store(&changer, &name, b"").await.map(drop),
                1 => changer
                    .rename(rename(&name, "d/permanent-not"))
                    .await
                    .map(drop),
                _ => changer.delete(delete("d/permanent-not")).await.map(drop),
            };
            if changed.is_err_and(|error| error.code().is_none()) {
                break;
            }
        }
    });
    for _ in 0..10_000 {
        let names = list_names(&lister, "d").await.unwrap();
        let found = names.iter().filter(|name| permanent.contains(name));
        assert!(found.eq(permanent.iter()), "{names:?}");
        assert!(
            !names.iter().any(|name| name.starts_with(".quire")),
            "{names:?}"
        );
    }
    changes.shutdown().await;
    lister.close().await;
    server.stop().await;
}

/// A field of `/proc/PID/status`, in KiB for memory.
fn status(server: &ServerProcess, field: &str) -> u64 {
    let path = format!("/proc/{}/status", server.pid().as_raw_pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(server: &ServerProcess) -> usize {
    let path = format!("/proc/{}/fd", server.pid().as_raw_pid());
    std::fs::read_dir(Path::new(&path)).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn after_many_requests_and_aborts_no_handle_and_no_thread_is_left() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new().file("f", content(1, LARGE));
    // So many aborts would close the connection.
    let server = programs.serve_with(&tree.root(), &["--abort-rate", "none"]);
    let client = programs.client(&server).await;
    store(&client, "warm", b"x").await.unwrap();
    let before = (open_files(&server), status(&server, "Threads"));
    let client = Arc::new(client);
    let mut tasks = JoinSet::new();
    for task in 0..16 {
        let client = Arc::clone(&client);
        tasks.spawn(async move {
            for number in 0..100_000 / 16 {
                let name = format!("{task}-{}", number % 10);
                match number % 4 {
                    0 => drop(store(&client, &name, b"content").await.unwrap()),
                    1 => drop(fetch(&client, &name).await),
                    2 => drop(client.stat(stat(&name)).await),
                    _ => drop(client.delete(delete(&name)).await),
                }
            }
            for _ in 0..10_000 / 32 {
                drop(client.get(get("f")).await.unwrap());
                let bytes = content(1, 100_000);
                tokio::select! {
                    biased;
                    _ = store_as(&client, put("g", 100_001), &bytes) => {}
                    () = tokio::task::yield_now() => {}
                }
            }
        });
    }
    tasks.join_all().await;
    // Threads for file work end after some idle seconds.
    let settled = async {
        loop {
            let now = (open_files(&server), status(&server, "Threads"));
            if now.0 <= before.0 + 2 && now.1 <= before.1 + 1 {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let after = within("handles and threads to be given back", settled).await;
    report(&format!(
        "handles and threads: {before:?} before, {after:?} after 110000 requests"
    ));
    drop(client);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_listing_of_a_hundred_thousand_entries_takes_little_memory() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    (0..100_000).for_each(|file| tree.write(&format!("d/{file:06}"), ""));
    let server = programs.serve(&tree.root());
    let client = programs.client(&server).await;
    client.stat(stat("d")).await.unwrap();
    let before = status(&server, "VmHWM");
    assert_eq!(list_names(&client, "d").await.unwrap().len(), 100_000);
    let more = status(&server, "VmHWM") - before;
    client.close().await;
    report(&format!(
        "a listing of 100000 entries took {more} KiB more memory"
    ));
    assert!(more <= 32 << 10, "{more} KiB");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn files_that_take_turns_in_the_cache_take_no_more_memory_each_time() {
    const FILES: usize = 48;
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new();
    // Of many sizes, 800 MiB in all.
    for file in 0..FILES {
        let size = (1 << 20) + 700_000 * (file * 7 % FILES);
        tree.write(&file.to_string(), content(1, size));
    }
    let server = programs.serve(&tree.root());
    let mut peaks = Vec::new();
    for _ in 0..5 {
        let to = scratch();
        let to = to.path().join("t");
        programs.expect(0, &["get", "-r", &server.host(), to.to_str().unwrap()]);
        peaks.push(status(&server, "VmHWM"));
    }
    report(&format!("peaks in KiB, in turn: {peaks:?}"));
    let more = peaks[4] - peaks[1];
    assert!(more <= 64 << 10, "{more} KiB");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn stalled_readers_keep_no_more_than_the_cache_limit() {
    const FILES: u64 = 256;
    let (tree, name) = (Tree::new(), |file: u64| file.to_string());
    (0..FILES).for_each(|file| tree.write(&name(file), content(file, 1 << 20)));
    let server = TestServer::start(&tree).await;
    let (reader, other) = (server.client().await, server.client().await);
    tokio::time::sleep(Duration::from_millis(120)).await;
    let (_, limit) = cached(&other).await.unwrap();
    let mut most = 0;
    let mut look = || {
        let live = server.cached_bytes();
        assert!(live <= limit, "{live} of {limit} bytes");
        most = live.max(most);
    };
    // All at once on one connection, whose window is soon full, without reading on.
    let mut readers = JoinSet::new();
    for file in 0..FILES {
        let (reader, get) = (reader.clone(), get(&name(file)));
        readers.spawn(async move {
            let _download = reader.get(get).await;
            std::future::pending::<()>().await;
        });
    }
    let mut held = 0;
    within("files that are held by their readers", async {
        while held < FILES / 16 {
            look();
            let (entries, _) = cached(&other).await.unwrap();
            held = entries.iter().map(|entry| entry.readers).sum();
        }
    })
    .await;
    // The cache evicts them, although some are still being sent; others enter.
    for file in 0..FILES {
        let new = content(FILES + file, 1 << 20);
        store(&other, &name(file), &new).await.unwrap();
        look();
        assert_same(fetch(&other, &name(file)).await.unwrap(), new);
        look();
    }
    tokio::time::sleep(Duration::from_millis(120)).await;
    for file in 0..FILES {
        fetch(&other, &name(file)).await.unwrap();
        look();
    }
    readers.shutdown().await;
    reader.close().await;
    other.close().await;
    server.stop().await;
    report(&format!(
        "256 readers that stand still, {held} of them at cached files: at most {most} of {limit} \
         bytes live"
    ));
    assert!(most > limit / 2, "only {most} bytes were ever cached");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures time"]
async fn ten_thousand_small_files_stored_as_a_tree_and_one_at_a_time() {
    const FILES: u64 = 10_000;
    // Not in memory, because the figure is about durable writes.
    let (root, local) = (tempfile::tempdir().unwrap(), scratch());
    for file in 0..FILES {
        std::fs::write(local.path().join(file.to_string()), content(file, 4096)).unwrap();
    }
    let server = TestServer::builder_at(root.path()).start().await;
    let client = server.client().await;
    store(&client, "warm", b"x").await.unwrap();
    let start = Instant::now();
    store_directory(&client, local.path(), "tree").await;
    let together = start.elapsed();
    client
        .make_directory(make_directory("single"))
        .await
        .unwrap();
    let start = Instant::now();
    for file in 0..FILES {
        let bytes = content(file, 4096);
        store(&client, &format!("single/{file}"), &bytes)
            .await
            .unwrap();
    }
    let one_at_a_time = start.elapsed();
    client.close().await;
    server.stop().await;
    report(&format!(
        "{FILES} files of 4 KiB, all durable: {together:?} as a tree, {one_at_a_time:?} one at a time"
    ));
}

/// Stores a directory of files under the unused name `to`.
async fn store_directory(client: &Client, from: &Path, to: &str) {
    let item = UploadJob {
        from: from.to_owned(),
        to: path(to),
    };
    let options = StoreOptions {
        recursive: true,
        ..Default::default()
    };
    let transfer = Transfer::new(|event| {
        if let TransferEvent::Failed { error, .. } = event {
            panic!("{error}");
        }
    });
    quire_client::transfer::store(client, vec![item], options, &transfer).await;
    let stored = std::fs::read_dir(from).unwrap().count() as u64;
    assert_eq!(transfer.files(), stored);
}
