//! Permissions of what is put and copied, and chmod. What the kernel would have given is compared with
//! in the tests of the store.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use quire_client::transfer::{self, StoreOptions, Transfer, UploadJob};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Precondition, Preserve, Put};

use quire_test_harness::client::{
    chmod, copy, delete_all, path, put, refusal, store, store_as, version,
};
use quire_test_harness::programs::Programs;
use quire_test_harness::server::TestServer;
use quire_test_harness::tree::scratch;
use quire_test_harness::{Tree, is_superuser, within};

fn mode(tree: &Tree, name: &str) -> u32 {
    let metadata = fs::metadata(tree.path(name)).unwrap();
    metadata.permissions().mode() & 0o7777
}

fn with_mode(name: &str, mode: u32, preserve: Preserve) -> Put {
    Put {
        mode: Some(mode),
        preserve,
        ..put(name, 1)
    }
}

#[tokio::test]
async fn a_replaced_file_keeps_its_permissions_and_a_new_one_gets_those_of_the_source() {
    let tree = Tree::new()
        .file("private", "old")
        .mode("private", 0o600)
        .file("tool", "x")
        .mode("tool", 0o755);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for request in [
        put("private", 1),
        with_mode("private", 0o644, Preserve::Usual),
        with_mode("private", 0o644, Preserve::Nothing),
    ] {
        store_as(&client, request, b"x").await.unwrap();
        assert_eq!(mode(&tree, "private"), 0o600);
    }
    client.copy(copy("tool", "private")).await.unwrap();
    assert_eq!(mode(&tree, "private"), 0o600);
    let exact = with_mode("private", 0o666, Preserve::Exact);
    store_as(&client, exact, b"x").await.unwrap();
    assert_eq!(mode(&tree, "private"), 0o666);
    client.copy(copy("tool", "new")).await.unwrap();
    let new = mode(&tree, "new");
    fs::write(tree.outside().join("usual"), "").unwrap();
    let usual = fs::metadata(tree.outside().join("usual")).unwrap();
    assert_eq!(new & 0o666, usual.permissions().mode() & 0o666 & 0o755);
    let mut nothing = copy("tool", "plain");
    nothing.preserve = Preserve::Nothing;
    client.copy(nothing).await.unwrap();
    assert_eq!(mode(&tree, "plain"), usual.permissions().mode() & 0o777);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_directory_put_read_only_can_be_opened_up_and_deleted_again() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let local = scratch();
    fs::create_dir_all(local.path().join("d/sub")).unwrap();
    fs::write(local.path().join("d/sub/f"), "x").unwrap();
    for name in ["d/sub", "d"] {
        let closed = fs::Permissions::from_mode(0o555);
        fs::set_permissions(local.path().join(name), closed).unwrap();
    }
    let item = |to: &str| UploadJob {
        from: local.path().join("d"),
        to: path(to),
    };
    let options = StoreOptions {
        recursive: true,
        ..StoreOptions::default()
    };
    let transfer = Transfer::new(|_| {});
    let items = vec![item("d"), item("e")];
    within(
        "a tree",
        transfer::store(&client, items, options, &transfer),
    )
    .await;
    assert_eq!(transfer.failed(), 0);
    assert_eq!((mode(&tree, "d"), mode(&tree, "d/sub")), (0o555, 0o555));
    if !is_superuser() {
        let refused = store(&client, "d/new", b"x").await;
        assert_eq!(refusal(refused), ErrorCode::DENIED);
    }
    client.chmod(chmod("d", 0o755)).await.unwrap();
    store(&client, "d/new", b"x").await.unwrap();
    // Also without that: what is deleted as a whole isn't protected from its owner.
    for name in ["d", "e"] {
        client.delete(delete_all(name)).await.unwrap();
        assert!(!tree.has(name));
    }
    client.close().await;
    server.stop().await;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(local.path().join("d"), open.clone()).unwrap();
    fs::set_permissions(local.path().join("d/sub"), open).unwrap();
}

#[tokio::test]
async fn chmod_gives_a_new_version_and_holds_its_precondition() {
    let tree = Tree::new().file("f", "x");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let before = version(&client, "f").await;
    let changed = client.chmod(chmod("f", 0o640)).await.unwrap();
    assert_eq!(changed.version, version(&client, "f").await);
    assert_ne!(changed.version, before);
    assert_eq!(mode(&tree, "f"), 0o640);
    let mut stale = chmod("f", 0o777);
    stale.precondition = Precondition::Match(before);
    assert_eq!(refusal(client.chmod(stale).await), ErrorCode::CONFLICT);
    for (name, code) in [("g", ErrorCode::NOT_FOUND), ("", ErrorCode::INVALID_PATH)] {
        assert_eq!(refusal(client.chmod(chmod(name, 0o777)).await), code);
    }
    assert_eq!(mode(&tree, "f"), 0o640);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn the_umask_of_the_settings_counts_for_files_directories_and_copies() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = Tree::new()
        .file("s/f", "x")
        .mode("s", 0o777)
        .mode("s/f", 0o666);
    let server = programs.serve_with(&tree.root(), &["--umask", "027"]);
    let host = server.host();
    let local = programs.state.path();
    fs::write(local.join("f"), "x").unwrap();
    fs::set_permissions(local.join("f"), fs::Permissions::from_mode(0o777)).unwrap();
    let at = |name: &str| format!("{host}/{name}");
    programs.expect(0, &["put", "f", &at("new")]);
    programs.expect(0, &["put", "--preserve", "f", &at("exact")]);
    programs.expect(0, &["put", "--no-preserve", "f", &at("plain")]);
    programs.expect(0, &["mkdir", &at("d")]);
    programs.expect(0, &["copy", "-r", &at("s"), &at("copied")]);
    programs.expect(0, &["copy", "-rp", &at("s"), &at("same")]);
    let seen = [
        "new", "exact", "plain", "d", "copied", "copied/f", "same", "same/f",
    ];
    assert_eq!(
        seen.map(|name| mode(&tree, name)),
        [0o750, 0o777, 0o640, 0o750, 0o750, 0o640, 0o777, 0o666]
    );
    let fetched = |flags: &[&str], name: &str| {
        let from = at(name);
        programs.expect(0, &[&["get", "-r"], flags, &[&from, "fetched"]].concat());
        let fetched = local.join("fetched");
        let mode = fs::metadata(&fetched).unwrap().permissions().mode() & 0o7777;
        let removed = fs::remove_file(&fetched);
        removed.or_else(|_| fs::remove_dir_all(&fetched)).unwrap();
        mode
    };
    for name in ["exact", "same"] {
        assert_eq!(fetched(&["--preserve"], name), 0o777);
    }
    fs::write(local.join("usual"), "").unwrap();
    let usual = fs::metadata(local.join("usual")).unwrap();
    let usual = usual.permissions().mode() & 0o777;
    assert_eq!(fetched(&["--no-preserve"], "exact"), usual);
    programs.expect(0, &["chmod", "600", &at("new"), &at("plain")]);
    assert_eq!((mode(&tree, "new"), mode(&tree, "plain")), (0o600, 0o600));
    programs.expect(2, &["chmod", "888", &at("new")]);
    programs.expect(3, &["chmod", "600", &at("nothing")]);
}
