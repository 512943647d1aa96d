//! What a target has after a sync: trees from a seed, renames, filters, backups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use quire_client::transfer::sync::SyncOptions;
use quire_test_harness::content::Random;
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, TestServer, Tree, content};

use super::{deleting, local, paths, rules, server, snapshot, succeed};

/// Names of all kinds: short ones, so that the same come up again.
const NAMES: [&str; 10] = [
    "a",
    "b",
    "B",
    "a b",
    "é",
    "-x",
    "new\nline",
    ".hidden",
    "zz",
    "a.b",
];

fn name(random: &mut Random) -> &'static str {
    NAMES[usize::try_from(random.next_u64() % 10).unwrap()]
}

/// Any directory of a tree.
fn any_directory(random: &mut Random, root: &Path) -> PathBuf {
    let mut path = root.to_owned();
    for _ in 0..random.next_u64() % 4 {
        let next = path.join(name(random));
        if next.is_dir() {
            path = next;
        }
    }
    path
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + seconds, 123_456_789);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// Changes something in a tree: adds, replaces, renames or deletes.
fn change(random: &mut Random, root: &Path) {
    let directory = any_directory(random, root);
    let path = directory.join(name(random));
    let number = random.next_u64();
    match number % 8 {
        0..=2 => {
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            }
            let size = [0, 1, 5000, 40_000, 1_200_000][usize::try_from(number / 8 % 5).unwrap()];
            fs::write(&path, content(number, size)).unwrap();
            set_time(&path, number % 1000);
            let mode = [0o644, 0o755, 0o600][usize::try_from(number / 64 % 3).unwrap()];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        3 | 4 => {
            if !path.exists() {
                fs::create_dir(&path).unwrap();
            }
        }
        5 => match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => drop(fs::remove_file(&path)),
        },
        _ => {
            let target = any_directory(random, root).join(name(random));
            if path.exists() && !target.exists() && !target.starts_with(&path) {
                fs::rename(&path, &target).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn any_tree_becomes_the_same_on_the_other_side_and_a_second_run_does_nothing() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let tree = Tree::new().directory("up");
        let test = TestServer::start(&tree).await;
        let client = test.client().await;
        let here = scratch();
        let (source, down) = (here.path().join("source"), here.path().join("down"));
        fs::create_dir(&source).unwrap();
        let exact = SyncOptions {
            preserve: quire_client::protocol::Preserve::Exact,
            ..deleting()
        };
        for round in 0..4 {
            for _ in 0..12 {
                change(&mut random, &source);
            }
            if fs::read_dir(&source).unwrap().next().is_none() {
                fs::write(source.join("kept"), "kept").unwrap();
            }
            for (from, to, target) in [
                (local(&source), server(&client, "up"), tree.path("up")),
                (server(&client, "up"), local(&down), down.clone()),
            ] {
                let dry_run = SyncOptions {
                    dry_run: true,
                    ..exact.clone()
                };
                let told = succeed(from.clone(), to.clone(), dry_run).await;
                let done = succeed(from.clone(), to.clone(), exact.clone()).await;
                assert_eq!(told.lines(), done.lines(), "seed {seed}, round {round}");
                assert_eq!(
                    snapshot(&target),
                    snapshot(&source),
                    "seed {seed}, round {round}: {:?}",
                    done.lines()
                );
                let again = succeed(from, to, exact.clone()).await;
                let (did, does) = (done.lines(), again.lines());
                assert!(
                    does.is_empty(),
                    "seed {seed}, round {round}: {did:?} {does:?}"
                );
                assert_eq!(again.moved, 0);
            }
        }
        drop((client, exact));
        test.stop().await;
    }
}

#[tokio::test]
async fn what_has_another_name_is_renamed_and_no_content_moves() {
    let tree = Tree::new();
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    for number in 0..20 {
        let file = here.path().join(format!("old/deep/{number}"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content(number, 100 * KIB)).unwrap();
    }
    fs::write(here.path().join("single"), content(99, 5)).unwrap();
    let side = || (local(here.path()), server(&client, "t"));
    let (from, to) = side();
    succeed(from, to, deleting()).await;
    // The directory as a whole, a file of another one, and a file out of the directory.
    fs::rename(here.path().join("old"), here.path().join("new")).unwrap();
    fs::rename(here.path().join("single"), here.path().join("other")).unwrap();
    let (from, to) = side();
    let renamed = succeed(from, to, deleting()).await;
    assert_eq!(
        renamed.lines(),
        ["renamed old/ new/", "renamed single other"]
    );
    assert_eq!((renamed.moved, renamed.report.deleted()), (0, 0));
    assert_eq!(snapshot(here.path()), snapshot(&tree.path("t")));
    fs::rename(here.path().join("new/deep/3"), here.path().join("3")).unwrap();
    let (from, to) = side();
    let renamed = succeed(from, to, deleting()).await;
    assert_eq!(renamed.lines(), ["renamed new/deep/3 3"]);
    assert_eq!(snapshot(here.path()), snapshot(&tree.path("t")));

    // The same size and time prove nothing: contents are compared.
    let (old, new) = (here.path().join("3"), here.path().join("4"));
    let time = fs::metadata(&old).unwrap().modified().unwrap();
    fs::remove_file(&old).unwrap();
    fs::write(&new, content(4711, 100 * KIB)).unwrap();
    fs::File::open(&new).unwrap().set_modified(time).unwrap();
    let (from, to) = side();
    let changed = succeed(from, to, deleting()).await;
    assert_eq!(changed.lines(), ["new 4", "deleted 3"]);
    assert_eq!(snapshot(here.path()), snapshot(&tree.path("t")));
    drop(client);
    test.stop().await;
}

#[tokio::test]
async fn without_delete_nothing_goes_and_nothing_is_renamed() {
    let tree = Tree::new()
        .file("t/old", "content")
        .file("t/d/more", "more");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::write(here.path().join("new"), "content").unwrap();
    fs::File::open(here.path().join("new"))
        .unwrap()
        .set_modified(
            fs::metadata(tree.path("t/old"))
                .unwrap()
                .modified()
                .unwrap(),
        )
        .unwrap();
    let synced = succeed(
        local(here.path()),
        server(&client, "t"),
        SyncOptions::default(),
    )
    .await;
    assert_eq!(synced.lines(), ["new new"]);
    assert_eq!(tree.names("t"), ["d", "new", "old"]);
    drop(client);
    test.stop().await;
}

#[tokio::test]
async fn what_is_excluded_is_left_alone_on_both_sides() {
    let tree = Tree::new()
        .file("t/gone/a.log", "kept, and its directory")
        .file("t/gone/b", "deleted")
        .file("t/cache/x", "kept")
        .file("t/top", "kept")
        .file("t/d/top", "deleted");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    for (name, content) in [
        ("new.log", "not sent"),
        ("keep.log", "sent"),
        ("cache/y", "not sent"),
        ("d/cache/y", "not sent"),
        ("f", "sent"),
    ] {
        let path = here.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let options = SyncOptions {
        filter: rules(&["*.log", "cache/", "/top", "!keep.log"]),
        ..deleting()
    };
    let synced = succeed(local(here.path()), server(&client, "t"), options).await;
    let expected = ["new f", "new keep.log", "deleted d/top", "deleted gone/b"];
    assert_eq!(synced.lines(), expected);
    let found = snapshot(&tree.path("t"));
    let expected = [
        "cache",
        "cache/x",
        "d",
        "f",
        "gone",
        "gone/a.log",
        "keep.log",
        "top",
    ];
    assert_eq!(paths(&found), expected);
    drop((client, synced));
    test.stop().await;
}

#[tokio::test]
async fn what_is_replaced_or_deleted_is_in_the_backup_directory() {
    let tree = Tree::new()
        .file("t/changed", "old content")
        .file("t/gone/deep/f", "gone")
        .file("t/backup/before", "an earlier backup");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    fs::write(here.path().join("changed"), "new").unwrap();
    let down = scratch();
    for (name, content) in [("changed", "old content"), ("gone/deep/f", "gone")] {
        let path = down.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    // Below the target, which doesn't make it a thing to be deleted.
    let options = SyncOptions {
        backup: Some(server(&client, "t/backup")),
        ..deleting()
    };
    let to = server(&client, "t");
    succeed(local(here.path()), to.clone(), options.clone()).await;
    assert_eq!(tree.names("t"), ["backup", "changed"]);
    assert_eq!(tree.read("t/backup/changed"), b"old content");
    assert_eq!(tree.read("t/backup/gone/deep/f"), b"gone");
    assert!(tree.has("t/backup/before"));
    // And again, over what is in the backup by now.
    fs::write(here.path().join("changed"), "newer content").unwrap();
    let again = succeed(local(here.path()), to, options).await;
    assert_eq!(again.lines(), ["changed changed"]);
    assert_eq!(tree.read("t/backup/changed"), b"new");

    let options = SyncOptions {
        backup: Some(local(&down.path().join("backup"))),
        ..deleting()
    };
    let from = SyncOptions {
        filter: rules(&["backup/"]),
        ..options
    };
    succeed(server(&client, "t"), local(down.path()), from).await;
    let at = |name: &str| fs::read(down.path().join(name)).unwrap();
    assert_eq!(at("changed"), b"newer content");
    assert_eq!(at("backup/changed"), b"old content");
    assert_eq!(at("backup/gone/deep/f"), b"gone");
    assert!(!down.path().join("gone").exists());
    drop((client, again));
    test.stop().await;
}

#[tokio::test]
async fn digests_are_compared_only_if_asked_for() {
    let tree = Tree::new()
        .file("t/same", "content")
        .file("t/other", "CONTENT");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    for (name, is_later) in [("same", true), ("other", false)] {
        let path = here.path().join(name);
        fs::write(&path, "content").unwrap();
        let there = tree.path(&format!("t/{name}"));
        let time = fs::metadata(there).unwrap().modified().unwrap();
        let time = time + Duration::from_secs(u64::from(is_later));
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }
    let side = || (local(here.path()), server(&client, "t"));
    let checksum = SyncOptions {
        checksum: true,
        dry_run: true,
        ..SyncOptions::default()
    };
    let (from, to) = side();
    let compared = succeed(from, to, checksum.clone()).await;
    assert_eq!(compared.lines(), ["changed other"]);
    let (from, to) = side();
    let by_time = succeed(from, to, SyncOptions::default()).await;
    assert_eq!(by_time.lines(), ["changed same"]);
    let (from, to) = side();
    let checksum = SyncOptions {
        dry_run: false,
        ..checksum
    };
    succeed(from, to, checksum).await;
    assert_eq!(tree.read("t/other"), b"content");
    drop((client, compared, by_time));
    test.stop().await;
}
