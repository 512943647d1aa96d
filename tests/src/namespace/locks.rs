//! Requests that meet at one path: which succeeds, what the others are answered, and that none waits
//! without need.

use std::time::Duration;

use quire_client::ClientError;
use quire_shared::ErrorCode;
use quire_shared::protocol::{Precondition, Put, Rename};
use tokio::task::JoinSet;

use quire_test_harness::client::{
    delete_all, fetch, get, make_directory, path, put, receive, refusal, rename, stat, store,
    store_as,
};
use quire_test_harness::raw::{encoded, refusal_on};
use quire_test_harness::{LARGE, TestServer, Tree, assert_same, content, within};

fn code<T>(result: &Result<T, ClientError>) -> Option<ErrorCode> {
    result
        .as_ref()
        .err()
        .map(|error| error.code().unwrap_or_else(|| panic!("{error}")))
}

// P26
#[tokio::test]
async fn of_two_clients_that_rename_one_file_one_succeeds_and_one_gets_not_found() {
    const ROUNDS: usize = 1000;
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let (one, other) = (server.client().await, server.client().await);
    let mut wins = [0, 0];
    for _ in 0..ROUNDS {
        let (first, second) = within("two renames", async {
            tokio::join!(one.rename(rename("f", "a")), other.rename(rename("f", "b")))
        })
        .await;
        let winner = match (code(&first), code(&second)) {
            (None, Some(ErrorCode::NOT_FOUND)) => 0,
            (Some(ErrorCode::NOT_FOUND), None) => 1,
            codes => panic!("expected one success and one `not found`, got {codes:?}"),
        };
        wins[winner] += 1;
        let name = ["a", "b"][winner];
        assert_same(tree.read(name), "content");
        one.rename(rename(name, "f")).await.unwrap();
    }
    assert_eq!(wins[0] + wins[1], ROUNDS);
    one.close().await;
    other.close().await;
    server.stop().await;
}

#[tokio::test]
async fn renames_in_opposite_directions_neither_block_each_other_nor_lose_a_file() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let (one, other) = (server.client().await, server.client().await);
    for _ in 0..200 {
        tree.write("a", "A");
        tree.write("b", "B");
        let (first, second) = within("two renames", async {
            tokio::join!(one.rename(rename("a", "b")), other.rename(rename("b", "a")))
        })
        .await;
        first.unwrap();
        second.unwrap();
        // Whichever came first, the second one moved that file back.
        match (tree.has("a"), tree.has("b")) {
            (true, false) => assert_same(tree.read("a"), "A"),
            (false, true) => assert_same(tree.read("b"), "B"),
            both => panic!("expected one of two files, got {both:?}"),
        }
    }
    one.close().await;
    other.close().await;
    server.stop().await;
}

#[tokio::test]
async fn directories_renamed_into_each_other_at_once_end_with_one_in_the_other() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let (one, other) = (server.client().await, server.client().await);
    for _ in 0..100 {
        tree.write("a/inner", "A");
        tree.write("b/inner", "B");
        let (first, second) = within("two renames", async {
            tokio::join!(
                one.rename(rename("a", "b/x")),
                other.rename(rename("b", "a/x"))
            )
        })
        .await;
        let outer = match (code(&first), code(&second)) {
            (None, Some(ErrorCode::NOT_FOUND)) => "b",
            (Some(ErrorCode::NOT_FOUND), None) => "a",
            codes => panic!("expected one success and one `not found`, got {codes:?}"),
        };
        assert_eq!(tree.names(outer), ["inner", "x"]);
        assert_eq!(tree.names(&format!("{outer}/x")), ["inner"]);
        std::fs::remove_dir_all(tree.path(outer)).unwrap();
    }
    one.close().await;
    other.close().await;
    server.stop().await;
}

// P21
#[tokio::test]
async fn a_stalled_reader_delays_no_change_of_its_file() {
    let (old, new) = (content(1, LARGE), content(2, 1000));
    let tree = Tree::new().file("d/f", &old);
    let server = TestServer::builder(&tree).cache(0).start().await;
    let (reader, writer) = (server.client().await, server.client().await);
    let download = reader.get(get("d/f")).await.unwrap();
    within("a put", store(&writer, "d/f", &new)).await.unwrap();
    assert_same(fetch(&writer, "d/f").await.unwrap(), &new);
    within("a rename", writer.rename(rename("d/f", "d/g")))
        .await
        .unwrap();
    within("a delete", writer.delete(delete_all("d")))
        .await
        .unwrap();
    assert_eq!(server.locked_paths(), 0);
    let (got, _) = receive(download).await.unwrap();
    assert_same(got, &old);
    reader.close().await;
    writer.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_stalled_sender_delays_no_change_of_its_path() {
    let tree = Tree::new().file("d/f", "old");
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    let (mut send, mut recv) = raw.begin(put("d/f", 1000)).await;
    send.write_all(&content(1, 500)).await.unwrap();
    within("a put", store(&client, "d/f", b"new"))
        .await
        .unwrap();
    within("a rename", client.rename(rename("d", "e")))
        .await
        .unwrap();
    assert_same(tree.read("e/f"), "new");
    // Requests in progress had a name in a directory that is gone.
    send.write_all(&content(1, 1000)[500..]).await.unwrap();
    let mut hasher = quire_shared::digest::DigestKind::Xxh3.hasher();
    hasher.update(&content(1, 1000));
    let trailer = quire_shared::protocol::Trailer {
        digest: hasher.finish(),
        grew: false,
    };
    send.write_all(&quire_shared::codec::encode(&trailer).unwrap())
        .await
        .unwrap();
    send.finish().unwrap();
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::NOT_FOUND);
    assert_eq!(tree.names("e"), ["f"]);
    drop((send, recv));
    client.close().await;
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_put_and_a_rename_of_its_directory_at_once_leave_the_file_whole_or_absent() {
    let bytes = content(1, 3000);
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let (one, other) = (server.client().await, server.client().await);
    for _ in 0..100 {
        one.make_directory(make_directory("d")).await.unwrap();
        let (stored, renamed) = within("a put and a rename", async {
            tokio::join!(store(&one, "d/x", &bytes), other.rename(rename("d", "e")))
        })
        .await;
        renamed.unwrap();
        assert!(!tree.has("d"));
        match code(&stored) {
            None => assert_same(tree.read("e/x"), &bytes),
            Some(ErrorCode::NOT_FOUND) => assert!(tree.names("e").is_empty()),
            Some(code) => panic!("unexpected {code:?}"),
        }
        one.delete(delete_all("e")).await.unwrap();
    }
    one.close().await;
    other.close().await;
    server.stop().await;
}

// P27
#[tokio::test]
async fn a_directory_deleted_among_its_users_is_gone_and_its_readers_go_on() {
    let large = content(1, LARGE);
    let tree = Tree::new().file("d/e/large", &large);
    let server = TestServer::builder(&tree).cache(0).start().await;
    let (one, other) = (server.client().await, server.client().await);
    let download = one.get(get("d/e/large")).await.unwrap();
    let mut users = JoinSet::new();
    for user in 0..40_u64 {
        let client = one.clone();
        users.spawn(async move {
            let file = format!("d/e/{user}");
            let stored = store(&client, &file, &content(user, 2000)).await;
            let fetched = fetch(&client, &file).await;
            (user, stored, fetched)
        });
    }
    within("a delete", other.delete(delete_all("d")))
        .await
        .unwrap();
    assert!(!tree.has("d"));
    for (user, stored, fetched) in within("the users", users.join_all()).await {
        assert!(
            matches!(code(&stored), None | Some(ErrorCode::NOT_FOUND)),
            "{stored:?}"
        );
        match fetched {
            Ok(bytes) => assert_same(bytes, content(user, 2000)),
            Err(error) => assert_eq!(error.code(), Some(ErrorCode::NOT_FOUND)),
        }
    }
    assert!(!tree.has("d"), "what was gone came back");
    let (got, _) = receive(download).await.unwrap();
    assert_same(got, &large);
    one.close().await;
    other.close().await;
    server.stop().await;
}

#[tokio::test]
async fn puts_that_make_parents_and_deletes_of_them_at_once_end_well() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let mut tasks = JoinSet::new();
    for task in 0..40_u64 {
        let client = client.clone();
        tasks.spawn(async move {
            for round in 0..5_u64 {
                if task % 4 == 0 {
                    let gone = client.delete(delete_all("d")).await;
                    assert!(
                        matches!(code(&gone), None | Some(ErrorCode::NOT_FOUND)),
                        "{gone:?}"
                    );
                } else {
                    let bytes = content(task, 500);
                    let file = format!("d/{}/{task}", round % 2);
                    let request = Put {
                        make_parents: true,
                        ..put(&file, bytes.len())
                    };
                    store_as(&client, request, &bytes).await.unwrap();
                }
            }
        });
    }
    within("all of them", tasks.join_all()).await;
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_path_in_use_for_longer_than_the_limit_is_busy() {
    let tree = Tree::new().file("f", "content");
    let limit = |config: &mut quire_server::Config| config.lock_limit = Duration::ZERO;
    let server = TestServer::builder(&tree).with(limit).start().await;
    let clients = [server.client().await, server.client().await];
    // A free path is locked at once, so this repeats until two requests meet.
    let met = async {
        loop {
            let mut renames = JoinSet::new();
            for client in clients.iter().cycle().take(16) {
                let client = client.clone();
                renames.spawn(async move { client.rename(rename("f", "f")).await });
            }
            for result in renames.join_all().await {
                match code(&result) {
                    None => {}
                    Some(ErrorCode::BUSY) => return,
                    Some(code) => panic!("unexpected {code:?}"),
                }
            }
        }
    };
    within("two requests that meet", met).await;
    clients[0].stat(stat("f")).await.unwrap();
    for client in clients {
        client.close().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_rename_under_conditions_is_one_step() {
    let tree = Tree::new().file("f", "F").file("g", "G");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let from = client.stat(stat("f")).await.unwrap().version;
    let to = client.stat(stat("g")).await.unwrap().version;
    let conditions = |source: &quire_shared::protocol::Version, target: Precondition| Rename {
        from: path("f"),
        to: path("g"),
        source: Precondition::Match(source.clone()),
        target,
        change_id: None,
    };
    let absent = client.rename(conditions(&from, Precondition::Absent)).await;
    assert_eq!(refusal(absent), ErrorCode::EXISTS);
    let other = client.rename(conditions(&to, Precondition::Any)).await;
    assert_eq!(refusal(other), ErrorCode::CONFLICT);
    let other = client
        .rename(conditions(&from, Precondition::Match(from.clone())))
        .await;
    assert_eq!(refusal(other), ErrorCode::CONFLICT);
    assert_same(tree.read("f"), "F");
    assert_same(tree.read("g"), "G");
    client
        .rename(conditions(&from, Precondition::Match(to)))
        .await
        .unwrap();
    assert!(!tree.has("f"));
    assert_same(tree.read("g"), "F");
    // A message that is never read to its end doesn't disturb those that follow.
    let raw = server.raw().await;
    let (mut send, recv) = raw.open().await;
    send.write_all(&encoded(stat("g"))).await.unwrap();
    drop((send, recv));
    client.ping().await.unwrap();
    raw.close().await;
    client.close().await;
    server.stop().await;
}
