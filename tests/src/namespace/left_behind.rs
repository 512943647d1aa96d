//! What can't be deleted, copied or served any more, and trees that grow while they are fetched.

use std::fs;

use quire_shared::ErrorCode;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use quire_test_harness::client::{
    copy, delete_all, fetch, list_names, make_directory, path, refusal, stat, store,
};
use quire_test_harness::server::TestServer;
use quire_test_harness::{Tree, skip};

#[tokio::test]
async fn a_directory_is_deleted_as_a_whole_or_not_at_all() {
    // Not in memory, where files can't be made immutable.
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("d/e")).unwrap();
    for name in ["d/a", "d/e/kept", "d/z"] {
        fs::write(root.join(name), "x").unwrap();
    }
    let kept = fs::File::open(root.join("d/e/kept")).unwrap();
    let flags = ioctl_getflags(&kept).unwrap_or(IFlags::empty());
    if ioctl_setflags(&kept, flags | IFlags::IMMUTABLE).is_err() {
        return skip("only root can make files immutable, and not on every file system");
    }
    let server = TestServer::builder_at(&root).start().await;
    let client = server.client().await;
    let error = client.delete(delete_all("d")).await.unwrap_err();
    ioctl_setflags(&kept, flags).unwrap();
    assert_eq!(
        error.to_string(),
        "e/kept: the server's system denies access"
    );
    for name in ["d/a", "d/e/kept", "d/z"] {
        assert!(root.join(name).exists(), "{name}");
    }
    client.delete(delete_all("d")).await.unwrap();
    assert!(!root.join("d").exists());
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_root_that_was_removed_is_told_by_every_request() {
    let tree = Tree::new().file("f", "x").directory("d");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    store(&client, "before", b"x").await.unwrap();
    fs::remove_dir_all(tree.root()).unwrap();
    // A new one of that name is another directory.
    for _ in 0..2 {
        let gone = ErrorCode::ROOT_REMOVED;
        assert_eq!(refusal(list_names(&client, "").await), gone);
        assert_eq!(refusal(list_names(&client, "d").await), gone);
        assert_eq!(refusal(fetch(&client, "f").await), gone);
        assert_eq!(refusal(store(&client, "f", b"x").await), gone);
        assert_eq!(refusal(client.stat(stat("")).await), gone);
        assert_eq!(refusal(client.stat(stat("f")).await), gone);
        assert_eq!(
            refusal(client.make_directory(make_directory("e")).await),
            gone
        );
        assert_eq!(refusal(client.delete(delete_all("d")).await), gone);
        assert_eq!(refusal(client.copy(copy("f", "g")).await), gone);
        let _ = fs::create_dir(tree.root());
    }
    client.close().await;
    server.stop_after_errors(&["was removed"]).await;
}

#[tokio::test]
async fn a_copy_says_what_it_left_out() {
    let tree = Tree::new()
        .file("d/f", "x")
        .link("d/link", "f")
        .directory("d/e")
        .fifo("d/e/fifo");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let mut all = copy("d", "g");
    all.recursive = true;
    let copied = client.copy(all).await.unwrap();
    let mut names = copied.names;
    names.sort();
    assert_eq!(names, [path("e/fifo"), path("link")]);
    assert_eq!(copied.left_out, 2);
    let copied = client.copy(copy("d/f", "h")).await.unwrap();
    assert_eq!((copied.left_out, copied.names.len()), (0, 0));
    client.close().await;
    server.stop().await;
}
