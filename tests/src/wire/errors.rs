//! Every error code: a request that provokes it, or the reason why no test can; and files of another
//! kind than a request needs.

use std::collections::BTreeMap;
use std::path::Path;

use quire_cli::Exit;
use quire_client::ClientError;
use quire_client::ErrorKind;
use quire_server::config::limits::Limit;
use quire_shared::ErrorCode;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Get, List, Precondition};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{
    delete, fetch, fetch_as, get, hash, list, make_directory, path, put, refusal, rename, stat,
    store, store_as,
};
use quire_test_harness::raw::refusal_on;
use quire_test_harness::{TestServer, Tree, is_superuser, skip, within};

/// Codes that no test provokes, and why.
const UNPROVOKED: &[(ErrorCode, &str)] = &[
    (
        ErrorCode::INTERNAL,
        "a defect of the server, which has none that is known",
    ),
    (
        ErrorCode::LIMIT,
        "takes all descriptors or memory of the process that all tests share",
    ),
    (
        ErrorCode::BUSY,
        "see `locks`: a_path_in_use_for_longer_than_the_limit_is_busy",
    ),
    (
        ErrorCode::CHANGED,
        "see `versions`: a_file_changed_in_place_while_it_is_sent_…",
    ),
    (
        ErrorCode::DAMAGED,
        "see `cut_puts`: a_body_that_is_not_what_was_announced_…",
    ),
    (
        ErrorCode::ROOT_REMOVED,
        "see `left_behind`: a_root_that_was_removed_…",
    ),
    (
        ErrorCode::SHUTTING_DOWN,
        "see `shutdown`: a_server_that_stops_…",
    ),
    (
        ErrorCode::TOO_EARLY,
        "see `early_data`: what_changes_something_is_refused_before_…",
    ),
];

#[tokio::test]
async fn every_code_is_provoked_or_excused() {
    let mut seen = BTreeMap::new();
    provoke_by_requests(&mut seen).await;
    provoke_by_bytes(&mut seen).await;
    provoke_by_rights(&mut seen).await;
    provoke_by_limits(&mut seen).await;
    provoke_by_the_system(&mut seen).await;
    for (code, why) in UNPROVOKED {
        let excused = seen.insert(code.number(), *why);
        assert_eq!(
            excused, None,
            "{code:?} was provoked, and so needs no excuse"
        );
    }
    for code in ErrorCode::ALL {
        assert!(
            seen.contains_key(&code.number()),
            "{code:?} is neither provoked nor excused"
        );
    }
}

type ProvokedCodes = BTreeMap<u16, &'static str>;

/// Records that `code` came, which must be `expected`.
#[track_caller]
fn note(seen: &mut ProvokedCodes, code: ErrorCode, expected: ErrorCode) {
    assert_eq!(code, expected);
    seen.insert(code.number(), "provoked");
}

async fn provoke_by_requests(seen: &mut ProvokedCodes) {
    let tree = Tree::new().file("f", "F").directory("d").fifo("fifo");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    note(
        seen,
        refusal(fetch(&client, "missing").await),
        ErrorCode::NOT_FOUND,
    );
    note(
        seen,
        refusal(fetch(&client, "d").await),
        ErrorCode::IS_DIRECTORY,
    );
    note(
        seen,
        refusal(fetch(&client, "fifo").await),
        ErrorCode::SPECIAL_FILE,
    );
    note(
        seen,
        refusal(list(&client, "f").await),
        ErrorCode::NOT_DIRECTORY,
    );
    note(
        seen,
        refusal(client.delete(delete("d")).await),
        ErrorCode::NOT_EMPTY,
    );
    note(
        seen,
        refusal(client.rename(rename("d", "d/x")).await),
        ErrorCode::INTO_ITSELF,
    );
    note(
        seen,
        refusal(client.rename(rename("", "x")).await),
        ErrorCode::INVALID_PATH,
    );
    let beyond = Get {
        offset: 2,
        ..get("f")
    };
    note(
        seen,
        refusal(fetch_as(&client, beyond).await),
        ErrorCode::RANGE,
    );
    let offer = |precondition| quire_shared::protocol::Put {
        precondition,
        ..put("f", 1)
    };
    let absent = store_as(&client, offer(Precondition::Absent), b"x").await;
    note(seen, refusal(absent), ErrorCode::EXISTS);
    let other = quire_shared::protocol::Version::new(b"other").unwrap();
    let other = store_as(&client, offer(Precondition::Match(other)), b"x").await;
    note(seen, refusal(other), ErrorCode::CONFLICT);
    let raw = server.raw().await;
    let (_send, mut recv) = raw.begin(put("f", 1 << 60)).await;
    note(seen, refusal_on(&mut recv).await, ErrorCode::NO_SPACE);
    raw.close().await;
    client.close().await;
    server.stop().await;
}

async fn provoke_by_limits(seen: &mut ProvokedCodes) {
    let tree = Tree::new();
    let server = TestServer::builder(&tree)
        .limits(|limits| limits.daily_files = Limit(Some(0)))
        .start()
        .await;
    let client = server.client().await;
    note(
        seen,
        refusal(client.make_directory(make_directory("d")).await),
        ErrorCode::QUOTA,
    );
    client.close().await;
    server.stop().await;
}

async fn provoke_by_bytes(seen: &mut ProvokedCodes) {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    note(
        seen,
        raw.refusal(b"\x00\x00\x00\x01\x00").await,
        ErrorCode::MALFORMED,
    );
    note(
        seen,
        raw.refusal(&[0xff; 4]).await,
        ErrorCode::MESSAGE_TOO_LONG,
    );
    note(
        seen,
        raw.refusal(b"\x00\x00\x00\x04\x82\x18\x63\xa0").await,
        ErrorCode::UNSUPPORTED,
    );
    let (mut send, mut recv) = raw.begin(put("f", 10)).await;
    send.reset(to_quic(ErrorCode::CANCELLED)).unwrap();
    note(seen, refusal_on(&mut recv).await, ErrorCode::CANCELLED);
    // A request that neither continues nor ends.
    let (mut send, mut recv) = raw.open().await;
    send.write_all(b"\x00\x00").await.unwrap();
    note(seen, refusal_on(&mut recv).await, ErrorCode::TIMEOUT);
    raw.close().await;
    server.stop().await;
}

async fn provoke_by_rights(seen: &mut ProvokedCodes) {
    let tree = Tree::new().file("f", "F");
    let server = TestServer::start(&tree).await;
    let reader = server.connect(&server.keys().reader).await.unwrap();
    note(
        seen,
        refusal(store(&reader, "f", b"x").await),
        ErrorCode::NOT_AUTHORIZED,
    );
    reader.close().await;
    server.stop().await;
    let server = TestServer::builder(&tree)
        .with(|config| config.read_only = true)
        .start()
        .await;
    let client = server.client().await;
    note(
        seen,
        refusal(store(&client, "f", b"x").await),
        ErrorCode::READ_ONLY,
    );
    client.close().await;
    server.stop().await;
}

async fn provoke_by_the_system(seen: &mut ProvokedCodes) {
    // Files of the system itself: a mount below the root, and a file that can't be read at offset 0.
    let of_the_system =
        |root: &str| TestServer::builder_at(Path::new(root)).with(|config| config.read_only = true);
    let server = of_the_system("/").start().await;
    let client = server.client().await;
    note(
        seen,
        refusal(list(&client, "proc").await),
        ErrorCode::OTHER_FILE_SYSTEM,
    );
    note(
        seen,
        refusal(fetch(&client, "proc/version").await),
        ErrorCode::OTHER_FILE_SYSTEM,
    );
    client.close().await;
    server.stop().await;
    let server = of_the_system("/proc").start().await;
    let client = server.client().await;
    let memory = format!("{}/mem", std::process::id());
    let hashed = client.hash(hash(&memory, DigestKind::Xxh3)).await;
    note(seen, refusal(hashed), ErrorCode::DISK);
    client.close().await;
    server.stop_after_errors(&["failed"]).await;

    let tree = Tree::new().file("d/f", "F");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    match Forbidden::make(&tree.path("d")) {
        Some(forbidden) => {
            let deleted = client.delete(delete("d/f")).await;
            note(seen, refusal(deleted), ErrorCode::DENIED);
            drop(forbidden);
            client.delete(delete("d/f")).await.unwrap();
        }
        None => {
            skip("this system can't forbid the superuser anything: DENIED");
            seen.insert(ErrorCode::DENIED.number(), "skipped");
        }
    }
    client.close().await;
    server.stop().await;
}

/// A directory that even the superuser can't change, until dropped.
struct Forbidden<'a>(&'a Path);

impl<'a> Forbidden<'a> {
    fn make(directory: &'a Path) -> Option<Self> {
        let made = match is_superuser() {
            true => set_immutable(directory, true),
            false => set_mode(directory, 0o500),
        };
        made.then_some(Self(directory))
    }
}

impl Drop for Forbidden<'_> {
    fn drop(&mut self) {
        let undone = match is_superuser() {
            true => set_immutable(self.0, false),
            false => set_mode(self.0, 0o700),
        };
        assert!(undone);
    }
}

fn set_mode(path: &Path, mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).is_ok()
}

fn set_immutable(path: &Path, immutable: bool) -> bool {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let directory = std::fs::File::open(path).unwrap();
    let flags = ioctl_getflags(&directory).map(|mut flags| {
        flags.set(IFlags::IMMUTABLE, immutable);
        flags
    });
    flags
        .and_then(|flags| ioctl_setflags(&directory, flags))
        .is_ok()
}

#[tokio::test]
async fn a_file_is_no_directory_and_a_directory_no_file() {
    let tree = Tree::new().file("f", "F").directory("d");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(refusal(fetch(&client, "d").await), ErrorCode::IS_DIRECTORY);
    assert_eq!(refusal(fetch(&client, "").await), ErrorCode::IS_DIRECTORY);
    assert_eq!(
        refusal(store(&client, "d", b"x").await),
        ErrorCode::IS_DIRECTORY
    );
    assert_eq!(
        refusal(store(&client, "", b"x").await),
        ErrorCode::IS_DIRECTORY
    );
    assert_eq!(refusal(list(&client, "f").await), ErrorCode::NOT_DIRECTORY);
    assert_eq!(
        refusal(fetch(&client, "f/x").await),
        ErrorCode::NOT_DIRECTORY
    );
    assert_eq!(
        refusal(store(&client, "f/x", b"x").await),
        ErrorCode::NOT_DIRECTORY
    );
    let made = client.make_directory(make_directory("f/x")).await;
    assert_eq!(refusal(made), ErrorCode::NOT_DIRECTORY);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn pipes_sockets_and_devices_are_refused_and_block_no_thread() {
    let tree = Tree::new().fifo("fifo");
    let socket = std::os::unix::net::UnixListener::bind(tree.path("socket")).unwrap();
    let mut names = vec!["fifo", "socket"];
    if make_device(&tree.path("device")) {
        names.push("device");
    } else {
        skip("only the superuser can make a device");
    }
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    for name in names {
        let refused = async {
            // More of them than there would be threads if each blocked one.
            for _ in 0..20 {
                assert_eq!(refusal(fetch(&client, name).await), ErrorCode::SPECIAL_FILE);
                let hashed = client.hash(hash(name, DigestKind::Xxh3)).await;
                assert_eq!(refusal(hashed), ErrorCode::SPECIAL_FILE);
                let stored = store(&client, name, b"x").await;
                assert_eq!(refusal(stored), ErrorCode::SPECIAL_FILE);
            }
        };
        within("answers about a special file", refused).await;
        client.stat(stat(name)).await.unwrap();
        client.rename(rename(name, "moved")).await.unwrap();
        client.delete(delete("moved")).await.unwrap();
    }
    drop(socket);
    client.close().await;
    server.stop().await;
}

/// Creates a device that works like `/dev/zero`.
fn make_device(path: &Path) -> bool {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let (mode, device) = (Mode::from_raw_mode(0o666), makedev(1, 5));
    mknodat(CWD, path, FileType::CharacterDevice, mode, device).is_ok()
}

#[tokio::test]
async fn a_file_without_permissions_is_denied() {
    if is_superuser() {
        return skip("the superuser may read everything");
    }
    let tree = Tree::new()
        .file("f", "F")
        .mode("f", 0)
        .file("d/g", "G")
        .mode("d", 0);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    assert_eq!(refusal(fetch(&client, "f").await), ErrorCode::DENIED);
    assert_eq!(refusal(fetch(&client, "d/g").await), ErrorCode::DENIED);
    assert_eq!(refusal(list(&client, "d").await), ErrorCode::DENIED);
    assert_eq!(
        refusal(store(&client, "d/new", b"x").await),
        ErrorCode::DENIED
    );
    client.delete(delete("f")).await.unwrap();
    client.close().await;
    server.stop().await;
    let _tree = tree.mode("d", 0o700);
}

#[tokio::test]
async fn codes_have_the_exit_status_that_is_documented() {
    let exit = |code| Exit::from(ErrorKind::from(code)) as u8;
    for code in ErrorCode::ALL {
        let expected = match code.name().unwrap() {
            "NOT_FOUND" => 3,
            "EXISTS" | "CONFLICT" | "BUSY" => 4,
            "NOT_AUTHORIZED" | "READ_ONLY" | "DENIED" => 5,
            "SHUTTING_DOWN" => 6,
            "CHANGED" | "DAMAGED" => 7,
            _ => 1,
        };
        assert_eq!(exit(*code), expected, "{code:?}");
    }
}

#[tokio::test]
async fn a_request_that_fails_says_so_in_one_line_and_others_go_on() {
    let tree = Tree::new().file("f", "F");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let error = fetch(&client, "missing").await.unwrap_err();
    assert!(matches!(error, ClientError::Refused(_)));
    assert_eq!(error.to_string(), "not found");
    let (one, other, third) = tokio::join!(
        fetch(&client, "missing"),
        fetch(&client, "f"),
        client.list(List {
            path: path("f"),
            after: None
        }),
    );
    assert_eq!(
        (refusal(one), other.unwrap()),
        (ErrorCode::NOT_FOUND, b"F".to_vec())
    );
    assert_eq!(refusal(third), ErrorCode::NOT_DIRECTORY);
    client.close().await;
    server.stop().await;
}
