//! Owners and groups: kept by name or number, and only with a right of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use quire_client::transfer::sync::SyncOptions;
use quire_client::{Client, Keep};
use quire_shared::ErrorCode;
use quire_shared::protocol::{
    AccountName, Chmod, DetailKinds, Details, NamedId, Preserve, Put, Stat,
};
use quire_test_harness::client::{chmod, copy, path, put, refusal, store_as};
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, TestServer, Tree, content, is_superuser, skip};
use quire_transport::details::accounts::{GROUPS, USERS};

use super::{NOTHING, OWNERS, get_tree, put_tree};
use crate::sync::{deleting, local, server, succeed};

/// Keeps owner and group by number.
const NUMBERS: Keep = Keep {
    numeric_ids: true,
    ..OWNERS
};

/// A number that no account of a usual system has.
const NOBODY_KNOWS: u32 = 3_141_592;

/// A server that grants these rights to every key, and a client of it.
async fn with_rules(tree: &Tree, rules: &str) -> (TestServer, Client) {
    let test = TestServer::builder(tree).anonymous(rules).start().await;
    let client = test.connect(&test.keys().stranger).await.unwrap();
    (test, client)
}

fn owners_of(path: &Path) -> (u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

fn account(id: u32, name: &str) -> Option<NamedId> {
    Some(NamedId {
        id,
        name: AccountName::new(name),
    })
}

fn given(owner: Option<NamedId>, group: Option<NamedId>) -> Option<Box<Details>> {
    let details = Details {
        owner,
        group,
        xattrs: None,
    };
    details.boxed()
}

/// Whether this process may set owners; says so if it may not.
fn may_set_owners() -> bool {
    let may = is_superuser();
    if !may {
        skip("only root sets the owners of files");
    }
    may
}

// P65
#[tokio::test]
async fn without_the_right_to_set_owners_nothing_of_a_request_is_carried_out() {
    let tree = Tree::new().file("f", "old").directory("d");
    let before = owners_of(&tree.path("f"));
    for rules in [
        "write",
        "owner+write,/f=write,/new=write,/copied=write,/d=write",
        "owner+read",
    ] {
        let (test, client) = with_rules(&tree, rules).await;
        for details in [
            given(account(before.0, ""), None),
            given(None, account(before.1, "")),
        ] {
            for name in ["f", "new"] {
                let request = Put {
                    details: details.clone(),
                    ..put(name, 1)
                };
                let refused = refusal(store_as(&client, request, b"x").await);
                assert_eq!(refused, ErrorCode::NOT_AUTHORIZED, "{rules}");
            }
            let changed = Chmod {
                details,
                ..chmod("f", 0o600)
            };
            let refused = refusal(client.chmod(changed).await);
            assert_eq!(refused, ErrorCode::NOT_AUTHORIZED, "{rules}");
        }
        let mut request = copy("f", "copied");
        request.details = OWNERS.kinds;
        let refused = refusal(client.copy(request).await);
        assert_eq!(refused, ErrorCode::NOT_AUTHORIZED, "{rules}");
        let here = scratch();
        fs::create_dir(here.path().join("d")).unwrap();
        fs::write(here.path().join("d/f"), "x").unwrap();
        let failed = put_tree(&client, &here.path().join("d"), "d", NUMBERS).await;
        assert!(!failed.is_empty(), "{rules}");
        client.close().await;
        test.stop().await;
    }
    assert_eq!(tree.read("f"), b"old");
    assert_eq!(tree.names(""), ["d", "f"]);
    assert_eq!(tree.names("d"), Vec::<String>::new());
}

// P66
#[tokio::test]
async fn a_server_that_may_not_set_them_says_so_and_stores_nothing() {
    if is_superuser() {
        return skip("root sets the owners of files");
    }
    let tree = Tree::new();
    let (test, client) = with_rules(&tree, "write+owner").await;
    let request = Put {
        details: given(account(0, "root"), None),
        ..put("f", 1)
    };
    assert_eq!(
        refusal(store_as(&client, request, b"x").await),
        ErrorCode::DENIED
    );
    assert!(!tree.has("f"));
    let here = scratch();
    tree.write("d/f", "x");
    let failed = get_tree(&client, "d", here.path().join("d"), OWNERS).await;
    assert_eq!(failed, NOTHING, "its own owner is no change");
    client.close().await;
    test.stop().await;
}

// P66
#[tokio::test]
async fn an_account_is_known_by_its_name_and_else_by_its_number() {
    if !may_set_owners() {
        return;
    }
    let (Some(user), Some(group)) = (USERS.account(1).name, GROUPS.account(2).name) else {
        return skip("this system has no names for the first numbers");
    };
    let tree = Tree::new().directory("d");
    let (test, client) = with_rules(&tree, "write+owner").await;
    for (owner, set, expected) in [
        (
            account(NOBODY_KNOWS, user.as_str()),
            account(5, group.as_str()),
            (1, 2),
        ),
        (
            account(NOBODY_KNOWS, "nobody-has-this-name"),
            account(1234, ""),
            (NOBODY_KNOWS, 1234),
        ),
        (account(7, ""), None, (7, 0)),
    ] {
        let request = Put {
            details: given(owner.clone(), set.clone()),
            mode: Some(0o644),
            preserve: Preserve::Exact,
            ..put("d/f", 1)
        };
        store_as(&client, request, b"x").await.unwrap();
        assert_eq!(owners_of(&tree.path("d/f")), expected);
        let asked = Stat {
            path: path("d/f"),
            details: DetailKinds::ALL,
        };
        let told = client.stat(asked).await.unwrap().details.unwrap();
        assert_eq!(told.owner, Some(USERS.account(expected.0)));
        assert_eq!(told.group, Some(GROUPS.account(expected.1)));
        // Replaced without, it keeps them, as always.
        store_as(&client, put("d/f", 1), b"x").await.unwrap();
        assert_eq!(owners_of(&tree.path("d/f")), expected);
        fs::remove_file(tree.path("d/f")).unwrap();
    }
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn trees_keep_them_in_both_directions_without_special_bits() {
    if !may_set_owners() {
        return;
    }
    let tree = Tree::new();
    let (test, client) = with_rules(&tree, "write+owner").await;
    let here = scratch();
    let (source, down) = (here.path().join("source"), here.path().join("down"));
    fs::create_dir_all(source.join("d/e")).unwrap();
    for (name, bytes) in [("d/small", 10), ("d/large", 3 * KIB * KIB)] {
        fs::write(source.join(name), content(1, bytes)).unwrap();
    }
    let marked = [
        ("d/small", (1, 2)),
        ("d/large", (NOBODY_KNOWS, NOBODY_KNOWS + 1)),
        ("d/e", (2, 1)),
        ("d", (3, 3)),
    ];
    for (name, (owner, group)) in marked {
        chown(source.join(name), Some(owner), Some(group)).unwrap();
        let mode = fs::Permissions::from_mode(0o6755);
        fs::set_permissions(source.join(name), mode).unwrap();
    }
    for keep in [OWNERS, NUMBERS] {
        assert_eq!(put_tree(&client, &source, "up", keep).await, NOTHING);
        assert_eq!(get_tree(&client, "up", down.clone(), keep).await, NOTHING);
        for (name, owners) in marked {
            for place in [tree.path("up").join(name), down.join(name)] {
                assert_eq!(owners_of(&place), owners, "{name}");
                let mode = fs::metadata(&place).unwrap().mode();
                assert_eq!(mode & 0o6000, 0, "{name}: {mode:o}");
            }
        }
    }
    let plain = here.path().join("plain");
    assert_eq!(
        get_tree(&client, "up", plain.clone(), Keep::default()).await,
        NOTHING
    );
    assert_eq!(owners_of(&plain.join("d/small")), owners_of(here.path()));
    let mut request = copy("up", "copied");
    request.recursive = true;
    request.details = OWNERS.kinds;
    client.copy(request).await.unwrap();
    for (name, owners) in marked {
        assert_eq!(owners_of(&tree.path("copied").join(name)), owners, "{name}");
    }
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn a_sync_sets_owners_that_differ_and_a_second_run_does_nothing() {
    if !may_set_owners() {
        return;
    }
    let tree = Tree::new();
    let (test, client) = with_rules(&tree, "write+owner").await;
    let here = scratch();
    let (source, down) = (here.path().join("source"), here.path().join("down"));
    fs::create_dir_all(source.join("d")).unwrap();
    fs::write(source.join("d/f"), "x").unwrap();
    for keep in [OWNERS, NUMBERS] {
        let options = || SyncOptions {
            keep,
            preserve: Preserve::Exact,
            ..deleting()
        };
        for (owner, group) in [(0, 0), (1, 2), (NOBODY_KNOWS, 3)] {
            for name in ["d", "d/f"] {
                chown(source.join(name), Some(owner), Some(group)).unwrap();
            }
            for (from, to, place) in [
                (local(&source), server(&client, "up"), tree.path("up")),
                (server(&client, "up"), local(&down), down.clone()),
            ] {
                succeed(from.clone(), to.clone(), options()).await;
                for name in ["d", "d/f"] {
                    assert_eq!(owners_of(&place.join(name)), (owner, group), "{name}");
                }
                let again = succeed(from, to, options()).await;
                assert_eq!(again.lines(), Vec::<String>::new());
            }
        }
    }
    client.close().await;
    test.stop().await;
}
