//! Extended attributes in both directions, and what of them is refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use quire_client::{Delta, Keep};
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::protocol::{
    Chmod, DetailKinds, Details, GetMany, Put, PutItem, SetAttributes, Stat, XattrName, Xattrs,
};
use quire_test_harness::client::{chmod, copy, path, put, refusal, store, store_as};
use quire_test_harness::raw::encoded;
use quire_test_harness::tree::scratch;
use quire_test_harness::{KIB, TestServer, Tree, content, within};

use super::{
    NOTHING, XATTRS, expected, get_tree, has_xattrs, put_tree, remove_xattr, set_xattr, xattrs_of,
};

/// A mebibyte.
const MIB: usize = KIB * KIB;

fn xattrs(pairs: &[(&str, &[u8])]) -> Xattrs {
    let mut xattrs = Xattrs::default();
    for (name, value) in pairs {
        let name = XattrName::new(name.as_bytes()).unwrap();
        xattrs.insert(name, value).unwrap();
    }
    xattrs
}

fn with_xattrs(pairs: &[(&str, &[u8])]) -> Option<Box<Details>> {
    let details = Details {
        xattrs: Some(xattrs(pairs)),
        ..Details::default()
    };
    details.boxed()
}

/// What of [`make_marked`] has attributes.
const MARKED: [&str; 5] = ["d", "d/empty", "d/small", "d/large", "none"];

/// Makes a tree of which some files and directories have these attributes.
fn make_marked(source: &Path, given: &BTreeMap<String, Vec<u8>>) {
    fs::create_dir_all(source.join("d/empty")).unwrap();
    for (name, bytes) in [
        ("d/small", 10),
        ("d/large", 3 * MIB),
        ("d/bare", 20),
        ("none", 0),
    ] {
        fs::write(source.join(name), content(1, bytes)).unwrap();
    }
    for name in MARKED {
        for (attribute, value) in given {
            set_xattr(&source.join(name), attribute, value);
        }
    }
    // What may only be read gets them all the same.
    let closed = fs::Permissions::from_mode(0o444);
    fs::set_permissions(source.join("d/small"), closed).unwrap();
}

// P60
#[tokio::test]
async fn trees_keep_them_in_both_directions_and_only_if_told_to() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let source = here.path().join("source");
    let given = expected(&[("user.a", b"1"), ("user.mime_type", &[0, 0xff])]);
    make_marked(&source, &given);
    assert_eq!(put_tree(&client, &source, "up", XATTRS).await, NOTHING);
    assert_eq!(
        put_tree(&client, &source, "plain", Keep::default()).await,
        NOTHING
    );
    let down = here.path().join("down");
    assert_eq!(get_tree(&client, "up", down.clone(), XATTRS).await, NOTHING);
    let plain = here.path().join("plain");
    assert_eq!(
        get_tree(&client, "up", plain.clone(), Keep::default()).await,
        NOTHING
    );
    for name in MARKED {
        assert_eq!(
            xattrs_of(&tree.path("up").join(name)),
            given,
            "{name} there"
        );
        assert_eq!(xattrs_of(&down.join(name)), given, "{name} here");
        for without in [tree.path("plain"), plain.clone()] {
            assert_eq!(
                xattrs_of(&without.join(name)),
                expected(&[]),
                "{name} without"
            );
        }
    }
    assert_eq!(xattrs_of(&down.join("d/bare")), expected(&[]));
    // Again, over what is there: exactly those of the source stay.
    for place in [&source, &tree.path("up"), &down] {
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(place.join("d/small"), open).unwrap();
    }
    for name in MARKED {
        remove_xattr(&source.join(name), "user.a");
        set_xattr(&tree.path("up").join(name), "user.extra", b"x");
    }
    assert_eq!(put_tree(&client, &source, "up", XATTRS).await, NOTHING);
    assert_eq!(get_tree(&client, "up", down.clone(), XATTRS).await, NOTHING);
    let left = expected(&[("user.mime_type", &[0, 0xff])]);
    for name in MARKED {
        assert_eq!(xattrs_of(&tree.path("up").join(name)), left, "{name} there");
        assert_eq!(xattrs_of(&down.join(name)), left, "{name} here");
    }
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn a_file_of_which_only_changes_travel_keeps_them() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let (source, down) = (here.path().join("f"), here.path().join("g"));
    let mut bytes = content(7, 9 * MIB);
    tree.write("f", &bytes);
    fs::write(&down, &bytes).unwrap();
    bytes[MIB] ^= 1;
    fs::write(&source, &bytes).unwrap();
    set_xattr(&source, "user.a", b"1");
    let (transfer, failures) = super::transfer();
    let options = quire_client::transfer::StoreOptions {
        overwrite: true,
        delta: Delta::Always,
        keep: XATTRS,
        ..Default::default()
    };
    let job = quire_client::transfer::UploadJob {
        from: source,
        to: path("f"),
    };
    let storing = quire_client::transfer::store(&client, vec![job], options, &transfer);
    within("a put", storing).await;
    let mut options = quire_client::transfer::FetchOptions {
        delta: Delta::Always,
        ..Default::default()
    };
    options.save.overwrite = true;
    options.save.keep = XATTRS;
    let job = quire_client::transfer::DownloadJob {
        from: path("f"),
        to: down.clone(),
        contents: false,
    };
    let fetching = quire_client::transfer::fetch(&client, vec![job], options, &transfer);
    within("a get", fetching).await;
    assert_eq!(*failures.lock().unwrap(), NOTHING);
    for place in [tree.path("f"), down] {
        assert_eq!(fs::read(&place).unwrap(), bytes);
        assert_eq!(xattrs_of(&place), expected(&[("user.a", b"1")]));
    }
    client.close().await;
    test.stop().await;
}

// P60
#[tokio::test]
async fn a_request_that_does_not_ask_for_them_hears_nothing_of_them() {
    let tree = Tree::new().file("d/f", "x");
    if !has_xattrs(&tree.root()) {
        return;
    }
    set_xattr(&tree.path("d/f"), "user.a", b"1");
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let asked = |details| Stat {
        path: path("d/f"),
        details,
    };
    let plain = client.stat(Stat::of(path("d/f"))).await.unwrap();
    assert_eq!(plain.details, None);
    let told = client.stat(asked(DetailKinds::ALL)).await.unwrap();
    let details = told.details.clone().unwrap();
    assert_eq!(details.xattrs, Some(xattrs(&[("user.a", b"1")])));
    assert!(details.owner.is_some() && details.group.is_some());
    assert_eq!(told.version, plain.version);
    let mut get = quire_test_harness::client::get("d/f");
    assert_eq!(
        client.get(get.clone()).await.unwrap().header().details,
        None
    );
    get.details = XATTRS.kinds;
    let header = client.get(get).await.unwrap().header().clone();
    assert_eq!(header.details, with_xattrs(&[("user.a", b"1")]));
    assert_eq!(client.ping().await.unwrap().details, DetailKinds::ALL);
    client.close().await;
    test.stop().await;
}

// P60
#[tokio::test]
async fn who_may_not_get_something_hears_nothing_of_its_attributes() {
    let tree = Tree::new().file("open/f", "x").directory("open/shut");
    if !has_xattrs(&tree.root()) {
        return;
    }
    for marked in ["open", "open/f", "open/shut"] {
        set_xattr(&tree.path(marked), "user.a", b"1");
    }
    let rules = "read,/open/shut=list,/open/f=list";
    let test = TestServer::builder(&tree).anonymous(rules).start().await;
    let client = test.connect(&test.keys().stranger).await.unwrap();
    let told = async |name: &str| {
        let stat = Stat {
            path: path(name),
            details: XATTRS.kinds,
        };
        client.stat(stat).await.unwrap().details
    };
    assert_eq!(told("open").await, with_xattrs(&[("user.a", b"1")]));
    assert_eq!(told("open/f").await, None);
    assert_eq!(told("open/shut").await, None);
    let local = scratch();
    let failed = get_tree(&client, "open", local.path().join("t"), XATTRS).await;
    assert!(!failed.is_empty());
    assert_eq!(xattrs_of(&local.path().join("t/shut")), expected(&[]));
    client.close().await;
    test.stop().await;
}

// P61
#[tokio::test]
async fn what_is_stored_has_exactly_those_that_are_given_and_others_are_left_alone() {
    let tree = Tree::new().file("kept", "old").directory("d");
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    for name in ["kept", "d"] {
        set_xattr(&tree.path(name), "user.old", b"1");
    }
    let given = |name: &str, pairs: &[(&str, &[u8])]| Put {
        details: with_xattrs(pairs),
        ..put(name, 1)
    };
    store_as(&client, given("new", &[("user.a", b"1")]), b"x")
        .await
        .unwrap();
    assert_eq!(xattrs_of(&tree.path("new")), expected(&[("user.a", b"1")]));
    store_as(&client, given("new", &[]), b"x").await.unwrap();
    assert_eq!(xattrs_of(&tree.path("new")), expected(&[]));
    // A change of the permissions alone leaves them; one that gives some sets exactly these.
    client.chmod(chmod("kept", 0o444)).await.unwrap();
    assert_eq!(
        xattrs_of(&tree.path("kept")),
        expected(&[("user.old", b"1")])
    );
    let changed = Chmod {
        details: with_xattrs(&[("user.new", b"2")]),
        ..chmod("kept", 0o400)
    };
    client.chmod(changed).await.unwrap();
    assert_eq!(
        xattrs_of(&tree.path("kept")),
        expected(&[("user.new", b"2")])
    );
    let mode = fs::metadata(tree.path("kept"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o400);
    // A new file without any replaces the old one as a whole.
    store(&client, "other", b"x").await.unwrap();
    store_as(&client, put("kept", 1), b"x").await.unwrap();
    assert_eq!(xattrs_of(&tree.path("kept")), expected(&[]));
    client.close().await;
    test.stop().await;
}

// P61
#[tokio::test]
async fn a_copy_has_them_only_if_it_is_asked_to() {
    let tree = Tree::new().file("d/f", "x");
    if !has_xattrs(&tree.root()) {
        return;
    }
    for name in ["d", "d/f"] {
        set_xattr(&tree.path(name), "user.a", b"1");
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    for (to, details, copied) in [
        ("with", XATTRS.kinds, expected(&[("user.a", b"1")])),
        ("without", DetailKinds::default(), expected(&[])),
    ] {
        let mut request = copy("d", to);
        request.recursive = true;
        request.details = details;
        client.copy(request).await.unwrap();
        let mut request = copy("d/f", &format!("{to}-file"));
        request.details = details;
        client.copy(request).await.unwrap();
        for name in [to.to_owned(), format!("{to}/f"), format!("{to}-file")] {
            assert_eq!(xattrs_of(&tree.path(&name)), copied, "{name}");
        }
    }
    client.close().await;
    test.stop().await;
}

// P62
#[tokio::test]
async fn a_client_that_gives_others_than_those_of_the_user_is_refused() {
    let tree = Tree::new();
    let test = TestServer::start(&tree).await;
    let raw = test.raw().await;
    let request = |details| {
        encoded(Put {
            details,
            ..put("f", 1)
        })
    };
    let legal = request(with_xattrs(&[("user.abcdefghijklmn", b"1")]));
    for name in [
        &b"security.capability"[..],
        b"trusted.abcdefghijk",
        b"system.abcdefghijkl",
        b"user.abcdefg\0ijklmn",
    ] {
        let position = legal
            .windows(19)
            .position(|part| part == b"user.abcdefghijklmn");
        let mut bytes = legal.clone();
        bytes[position.unwrap()..][..19].copy_from_slice(name);
        assert_eq!(raw.refusal(&bytes).await, ErrorCode::MALFORMED, "{name:?}");
        assert!(!tree.has("f"));
    }
    raw.close().await;
    test.stop().await;
}

// P63
#[tokio::test]
async fn a_file_with_more_than_can_be_sent_is_an_error_and_is_not_stored_without_them() {
    let tree = Tree::new().file("d/many", "x").file("d/few", "x");
    if !has_xattrs(&tree.root()) {
        return;
    }
    let here = scratch();
    let local = here.path().join("up");
    fs::create_dir(&local).unwrap();
    for (name, count) in [("many", 65), ("few", 64)] {
        fs::write(local.join(name), "x").unwrap();
        for place in [tree.path("d").join(name), local.join(name)] {
            for number in 0..count {
                set_xattr(&place, &format!("user.{number}"), b"");
            }
        }
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let asked = Stat {
        path: path("d/many"),
        details: XATTRS.kinds,
    };
    assert_eq!(client.stat(asked).await.unwrap().details, None);
    let down = here.path().join("down");
    let failed = get_tree(&client, "d", down.clone(), XATTRS).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].contains("/d/many: its extended attributes"),
        "{failed:?}"
    );
    assert!(!down.join("many").exists() && down.join("few").exists());
    assert_eq!(xattrs_of(&down.join("few")).len(), 64);
    let failed = put_tree(&client, &local, "up", XATTRS).await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].contains("has more extended attributes"),
        "{failed:?}"
    );
    assert!(!tree.has("up/many") && tree.has("up/few"));
    let mut request = copy("d/many", "copied");
    request.details = XATTRS.kinds;
    assert_eq!(refusal(client.copy(request).await), ErrorCode::LIMIT);
    assert!(!tree.has("copied"));
    client.close().await;
    test.stop().await;
}

/// Messages with the most attributes pass on every stream that carries many files.
#[tokio::test]
async fn as_many_as_can_be_sent_come_on_every_stream() {
    let tree = Tree::new();
    if !has_xattrs(&tree.root()) {
        return;
    }
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    let here = scratch();
    let source = here.path().join("source");
    fs::create_dir(&source).unwrap();
    let value = content(3, 7 * KIB);
    for number in 0..40 {
        let file = source.join(number.to_string());
        fs::write(&file, content(number, 100)).unwrap();
        set_xattr(&file, "user.large", &value);
    }
    assert_eq!(put_tree(&client, &source, "up", XATTRS).await, NOTHING);
    let down = here.path().join("down");
    assert_eq!(get_tree(&client, "up", down.clone(), XATTRS).await, NOTHING);
    for number in 0..40 {
        let found = xattrs_of(&down.join(number.to_string()));
        assert_eq!(found, expected(&[("user.large", &value)]), "{number}");
    }
    client.close().await;
    test.stop().await;
}

#[test]
fn the_flags_of_a_request_are_those_of_the_document() {
    let bits = |xattrs, owner, group| {
        let details = DetailKinds {
            xattrs,
            owner,
            group,
        };
        let bytes = encoded(GetMany {
            details,
            ..GetMany::default()
        });
        *bytes.last().unwrap()
    };
    let found = [
        bits(true, false, false),
        bits(false, true, false),
        bits(false, false, true),
    ];
    assert_eq!(found, [1, 2, 4]);
    let set = SetAttributes {
        path: path("d"),
        modified: None,
        mode: None,
        preserve: Default::default(),
        details: with_xattrs(&[]),
    };
    let set = codec::encode(&PutItem::Attributes(set)).unwrap();
    assert!(set.ends_with(&[4, 0xa1, 2, 0xa0]));
}
