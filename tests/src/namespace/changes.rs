//! Changes to names: stat, rename, delete, make-directory, copy and hash.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use quire_client::Client;
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Copy, Delete, EntryKind, MakeDirectory, Precondition, Rename, Version,
};

use quire_test_harness::client::{
    copy, delete, delete_all, fetch, hash, list_names, make_directory, refusal, rename, stat,
    store, version,
};
use quire_test_harness::{SIZES, TestServer, Tree, assert_same, content};

/// A tree with one of everything.
fn one_of_each() -> Tree {
    let tree = Tree::new()
        .file("f", "F")
        .file("g", "G")
        .file("d/inner", "I")
        .directory("empty");
    tree.fifo("fifo").link("link", "f")
}

async fn renaming(client: &Client, from: &str, to: &str) -> ErrorCode {
    refusal(client.rename(rename(from, to)).await)
}

#[tokio::test]
async fn a_stat_tells_kind_size_time_mode_and_version() {
    let tree = one_of_each().mode("f", 0o604);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let known = client.stat(stat("f")).await.unwrap();
    let metadata = fs::metadata(tree.path("f")).unwrap();
    assert_eq!(
        (known.kind, known.size, known.mode),
        (EntryKind::File, 1, 0o604)
    );
    assert_eq!(known.modified.seconds, metadata.mtime());
    assert_eq!(i64::from(known.modified.nanoseconds), metadata.mtime_nsec());
    assert_eq!(known, client.stat(stat("f")).await.unwrap());
    for (name, kind) in [
        ("", EntryKind::Directory),
        ("d", EntryKind::Directory),
        ("fifo", EntryKind::Other),
        ("link", EntryKind::Symlink),
    ] {
        assert_eq!(client.stat(stat(name)).await.unwrap().kind, kind, "{name}");
    }
    assert_eq!(
        refusal(client.stat(stat("missing")).await),
        ErrorCode::NOT_FOUND
    );
    assert_eq!(
        refusal(client.stat(stat("d/missing")).await),
        ErrorCode::NOT_FOUND
    );
    assert_eq!(
        refusal(client.stat(stat("f/below")).await),
        ErrorCode::NOT_DIRECTORY
    );
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_file_is_renamed_within_and_between_directories() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for (from, to) in [
        ("f", "h"),
        ("h", "d/h"),
        ("d/h", "empty/h"),
        ("empty/h", "f"),
    ] {
        let changed = client.rename(rename(from, to)).await.unwrap();
        assert!(!tree.has(from));
        assert_same(tree.read(to), "F");
        assert_eq!(version(&client, to).await, changed.version);
    }
    // Renamed to its own name.
    client.rename(rename("f", "f")).await.unwrap();
    assert_same(tree.read("f"), "F");
    client.rename(rename("f", "g")).await.unwrap();
    assert_same(tree.read("g"), "F");
    assert_eq!(renaming(&client, "f", "x").await, ErrorCode::NOT_FOUND);
    assert_eq!(
        renaming(&client, "g", "missing/x").await,
        ErrorCode::NOT_FOUND
    );
    assert_eq!(
        renaming(&client, "g", "link/x").await,
        ErrorCode::NOT_DIRECTORY
    );
    client.rename(rename("link", "moved")).await.unwrap();
    assert!(
        fs::symlink_metadata(tree.path("moved"))
            .unwrap()
            .is_symlink()
    );
    client.rename(rename("fifo", "pipe")).await.unwrap();
    assert!(tree.has("pipe") && !tree.has("fifo"));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn two_names_of_one_file_become_one() {
    let tree = Tree::new().file("a", "content");
    fs::hard_link(tree.path("a"), tree.path("b")).unwrap();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    client.rename(rename("a", "b")).await.unwrap();
    assert!(!tree.has("a"));
    assert_same(tree.read("b"), "content");
    client.close().await;
    server.stop().await;
}

// P26
#[tokio::test]
async fn a_directory_is_renamed_with_all_below_it_and_replaces_nothing() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    client.rename(rename("d", "e")).await.unwrap();
    assert_same(fetch(&client, "e/inner").await.unwrap(), "I");
    client.rename(rename("e", "empty/d")).await.unwrap();
    client.rename(rename("empty/d", "d")).await.unwrap();
    client.rename(rename("d", "d")).await.unwrap();
    for taken in ["f", "empty", "link", "fifo"] {
        assert_eq!(
            renaming(&client, "d", taken).await,
            ErrorCode::EXISTS,
            "{taken}"
        );
    }
    assert_eq!(renaming(&client, "f", "d").await, ErrorCode::IS_DIRECTORY);
    assert_eq!(
        renaming(&client, "f", "empty").await,
        ErrorCode::IS_DIRECTORY
    );
    assert_eq!(
        renaming(&client, "d/inner", "d").await,
        ErrorCode::IS_DIRECTORY
    );
    assert_eq!(renaming(&client, "d", "d/x").await, ErrorCode::INTO_ITSELF);
    assert_eq!(
        renaming(&client, "d", "d/inner/x").await,
        ErrorCode::INTO_ITSELF
    );
    assert_eq!(
        renaming(&client, "f", "f/x").await,
        ErrorCode::NOT_DIRECTORY
    );
    for (from, to) in [("", "x"), ("d", ""), ("", ""), ("f", "")] {
        assert_eq!(renaming(&client, from, to).await, ErrorCode::INVALID_PATH);
    }
    assert_eq!(tree.names("d"), ["inner"]);
    assert_same(tree.read("f"), "F");
    client.close().await;
    server.stop().await;
}

// P18
#[tokio::test]
async fn a_rename_that_fails_changes_nothing() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let before = list_names(&client, "").await.unwrap();
    let strict = |target| Rename {
        target,
        ..rename("f", "g")
    };
    let other = Version::new(b"other").unwrap();
    for (target, code) in [
        (Precondition::Absent, ErrorCode::EXISTS),
        (Precondition::Match(other), ErrorCode::CONFLICT),
    ] {
        assert_eq!(refusal(client.rename(strict(target)).await), code);
    }
    let absent = client
        .rename(Rename {
            target: Precondition::Absent,
            ..rename("f", "new")
        })
        .await;
    absent.unwrap();
    client.rename(rename("new", "f")).await.unwrap();
    assert_eq!(list_names(&client, "").await.unwrap(), before);
    assert_same(tree.read("g"), "G");
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_delete_removes_a_name_and_a_directory_only_if_asked() {
    let tree = one_of_each().file("deep/1/2/3/4/f", "x");
    let tree = tree.link("deep/1/out", "/");
    tree.write("deep/1/wide", "");
    let outside = tree.outside().join("kept");
    fs::write(&outside, "").unwrap();
    let tree = tree.link("deep/1/2/outside", tree_parent(&outside));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for name in ["f", "link", "fifo"] {
        client.delete(delete(name)).await.unwrap();
        assert!(!tree.has(name));
    }
    assert_eq!(
        refusal(client.delete(delete("f")).await),
        ErrorCode::NOT_FOUND
    );
    assert_eq!(
        refusal(client.delete(delete_all("f")).await),
        ErrorCode::NOT_FOUND
    );
    for directory in ["d", "empty"] {
        let code = refusal(client.delete(delete(directory)).await);
        assert_eq!(code, ErrorCode::NOT_EMPTY, "{directory}");
        assert!(tree.has(directory));
    }
    for directory in ["d", "empty", "deep", "g"] {
        client.delete(delete_all(directory)).await.unwrap();
        assert!(!tree.has(directory));
    }
    assert!(outside.exists(), "a link was followed");
    for root in [delete(""), delete_all("")] {
        assert_eq!(refusal(client.delete(root).await), ErrorCode::INVALID_PATH);
    }
    client.close().await;
    server.stop().await;
}

fn tree_parent(path: &std::path::Path) -> &std::path::Path {
    path.parent().unwrap()
}

#[tokio::test]
async fn a_delete_spares_what_is_not_the_version_that_was_meant() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let old = version(&client, "f").await;
    store(&client, "f", b"new").await.unwrap();
    let meant = |version| Delete {
        precondition: Precondition::Match(version),
        ..delete("f")
    };
    assert_eq!(
        refusal(client.delete(meant(old)).await),
        ErrorCode::CONFLICT
    );
    let absent = Delete {
        precondition: Precondition::Absent,
        ..delete("f")
    };
    assert_eq!(refusal(client.delete(absent).await), ErrorCode::EXISTS);
    assert_same(tree.read("f"), "new");
    client
        .delete(meant(version(&client, "f").await))
        .await
        .unwrap();
    assert!(!tree.has("f"));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_directory_is_made_with_its_parents_only_if_asked() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let changed = client.make_directory(make_directory("new")).await.unwrap();
    assert_eq!(version(&client, "new").await, changed.version);
    // An existing one is as good as a new one, unless it must be new.
    client.make_directory(make_directory("new")).await.unwrap();
    client.make_directory(make_directory("")).await.unwrap();
    let new = |name| MakeDirectory {
        precondition: Precondition::Absent,
        ..make_directory(name)
    };
    assert_eq!(
        refusal(client.make_directory(new("new")).await),
        ErrorCode::EXISTS
    );
    let code = refusal(client.make_directory(make_directory("a/b/c")).await);
    assert_eq!(code, ErrorCode::NOT_FOUND);
    let making = |name: &str| MakeDirectory {
        make_parents: true,
        ..make_directory(name)
    };
    client.make_directory(making("a/b/c")).await.unwrap();
    client.make_directory(making("a/b/c")).await.unwrap();
    assert_eq!(tree.names("a/b"), ["c"]);
    for taken in ["f", "link", "fifo"] {
        let code = refusal(client.make_directory(make_directory(taken)).await);
        assert_eq!(code, ErrorCode::EXISTS, "{taken}");
        let below = format!("{taken}/x");
        let code = refusal(client.make_directory(making(&below)).await);
        assert_eq!(code, ErrorCode::NOT_DIRECTORY, "{below}");
    }
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_copy_of_a_file_has_its_content_and_leaves_it_alone() {
    let tree = Tree::new().with_sizes().mode("size-1", 0o600);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for &size in SIZES {
        let from = format!("size-{size}");
        let changed = client.copy(copy(&from, "copy")).await.unwrap();
        assert_same(tree.read("copy"), content(size as u64, size));
        assert_same(tree.read(&from), content(size as u64, size));
        assert_eq!(version(&client, "copy").await, changed.version);
    }
    client.copy(copy("size-1", "private")).await.unwrap();
    let mode = |name| fs::metadata(tree.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("private"), 0o600);
    // A copy is independent of its source.
    tree.append("copy", b"more");
    let largest = *SIZES.last().unwrap();
    assert_eq!(tree.read(&format!("size-{largest}")).len(), largest);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_copy_replaces_only_what_its_precondition_allows() {
    let tree = one_of_each();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let other = Version::new(b"other").unwrap();
    let onto = |target| Copy {
        target,
        ..copy("f", "g")
    };
    let code = refusal(client.copy(onto(Precondition::Absent)).await);
    assert_eq!(code, ErrorCode::EXISTS);
    let code = refusal(client.copy(onto(Precondition::Match(other.clone()))).await);
    assert_eq!(code, ErrorCode::CONFLICT);
    let of = Copy {
        source: Precondition::Match(other),
        ..copy("f", "new")
    };
    assert_eq!(refusal(client.copy(of).await), ErrorCode::CONFLICT);
    assert_same(tree.read("g"), "G");
    assert!(!tree.has("new"));
    let seen = version(&client, "g").await;
    client.copy(onto(Precondition::Match(seen))).await.unwrap();
    assert_same(tree.read("g"), "F");
    let code = |from: &'static str, to: &'static str| {
        let client = client.clone();
        async move { refusal(client.copy(copy(from, to)).await) }
    };
    assert_eq!(code("missing", "x").await, ErrorCode::NOT_FOUND);
    assert_eq!(code("f", "missing/x").await, ErrorCode::NOT_FOUND);
    assert_eq!(code("f", "d").await, ErrorCode::IS_DIRECTORY);
    assert_eq!(code("f", "").await, ErrorCode::IS_DIRECTORY);
    assert_eq!(code("fifo", "x").await, ErrorCode::SPECIAL_FILE);
    assert_eq!(code("link", "x").await, ErrorCode::SPECIAL_FILE);
    assert_eq!(code("d", "x").await, ErrorCode::NOT_EMPTY);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_file_copied_onto_itself_keeps_its_content() {
    let tree = Tree::new().file("f", content(1, 100_000));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    client.copy(copy("f", "f")).await.unwrap();
    assert_same(tree.read("f"), content(1, 100_000));
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_directory_is_copied_with_all_below_it_but_links_and_special_files() {
    let tree = one_of_each()
        .file("d/e/deep", "D")
        .directory("d/empty")
        .fifo("d/fifo");
    let tree = tree
        .link("d/link", "inner")
        .mode("d/inner", 0o600)
        .mode("d/e", 0o750);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let all = |from, to| Copy {
        recursive: true,
        ..copy(from, to)
    };
    client.copy(all("d", "c")).await.unwrap();
    assert_eq!(tree.names("c"), ["e", "empty", "inner"]);
    assert_same(tree.read("c/e/deep"), "D");
    let mode = |name| fs::metadata(tree.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("c/inner"), mode("c/e")), (0o600, 0o750));
    for (from, to, code) in [
        ("d", "c", ErrorCode::EXISTS),
        ("d", "f", ErrorCode::EXISTS),
        ("d", "d", ErrorCode::INTO_ITSELF),
        ("d", "d/x", ErrorCode::INTO_ITSELF),
        ("d", "d/e/x", ErrorCode::INTO_ITSELF),
        ("", "x", ErrorCode::INTO_ITSELF),
    ] {
        assert_eq!(
            refusal(client.copy(all(from, to)).await),
            code,
            "{from} to {to}"
        );
    }
    client.copy(all("f", "h")).await.unwrap();
    assert_same(tree.read("h"), "F");
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_hash_is_the_digest_of_the_whole_file() {
    let tree = Tree::new().with_sizes().directory("d").fifo("fifo");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for kind in DigestKind::ALL {
        for &size in SIZES {
            let name = format!("size-{size}");
            let mut hasher = kind.hasher();
            hasher.update(&content(size as u64, size));
            let hashed = client.hash(hash(&name, kind)).await.unwrap();
            assert_eq!(hashed.digest, hasher.finish(), "{kind} of {name}");
            assert_eq!(hashed.size, size as u64);
            assert_eq!(hashed.version, version(&client, &name).await);
        }
    }
    let code = |name| {
        let client = client.clone();
        async move { refusal(client.hash(hash(name, DigestKind::Xxh3)).await) }
    };
    assert_eq!(code("d").await, ErrorCode::IS_DIRECTORY);
    assert_eq!(code("").await, ErrorCode::IS_DIRECTORY);
    assert_eq!(code("fifo").await, ErrorCode::SPECIAL_FILE);
    assert_eq!(code("missing").await, ErrorCode::NOT_FOUND);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_hash_asked_for_again_is_that_of_the_file_as_it_is_now() {
    let tree = Tree::new().file("f", content(1, SIZES[9]));
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let digest_of = |bytes: &[u8]| {
        let mut hasher = DigestKind::Blake3.hasher();
        hasher.update(bytes);
        hasher.finish()
    };
    for _ in 0..3 {
        let hashed = client.hash(hash("f", DigestKind::Blake3)).await.unwrap();
        assert_eq!(hashed.digest, digest_of(&content(1, SIZES[9])));
    }
    tree.overwrite("f", 5, b"x");
    let hashed = client.hash(hash("f", DigestKind::Blake3)).await.unwrap();
    assert_eq!(hashed.digest, digest_of(&tree.read("f")));
    assert_eq!(hashed.version, version(&client, "f").await);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_ping_tells_who_may_write() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let (writer, reader) = (
        server.client().await,
        server.connect(&server.keys().reader).await,
    );
    let reader = reader.unwrap();
    let pong = writer.ping().await.unwrap();
    assert!(
        pong.writable && pong.software.starts_with("quire"),
        "{pong:?}"
    );
    assert!(!reader.ping().await.unwrap().writable);
    writer.close().await;
    reader.close().await;
    server.stop().await;
}
