//! Changes whose answer is lost: asked for again, they are made once and reported as they were made.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use quire_certs::{Identity, Role, StateDir, load_or_create};
use quire_client::transfer::Reconnect;
use quire_client::{Client, ClientError, ErrorCode, repeat};
use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::auth::rules::Rules;
use quire_server::config::Listen;
use quire_shared::protocol::{
    ChangeId, Copy, Delete, MakeDirectory, Pong, Precondition, Rename, Reply, Request,
};
use quire_test_harness::client::{copy, delete, make_directory, path, refusal, rename};
use quire_test_harness::fake::FakeConnection;
use quire_test_harness::programs::Programs;
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::server::{Builder, STAGING};
use quire_test_harness::{TestServer, Tree, files, within};
use quire_transport::error_code::to_quic;
use tokio::sync::watch;

/// The connection that comes after a loss, once it is there.
struct Successor(watch::Receiver<Option<Client>>);

impl Reconnect for Successor {
    async fn reconnect(&self, _: &ClientError) -> Option<Client> {
        let mut next = self.0.clone();
        next.wait_for(Option::is_some).await.ok()?.clone()
    }
}

fn tree() -> Tree {
    Tree::new().file("a", "content").file("d/f", "content")
}

/// Each change that can be asked for again.
fn changes() -> [Request; 4] {
    let target = Precondition::Absent;
    let precondition = Precondition::Absent;
    [
        Rename {
            target: target.clone(),
            ..rename("a", "new")
        }
        .into(),
        delete("a").into(),
        MakeDirectory {
            precondition,
            ..make_directory("new")
        }
        .into(),
        Copy {
            recursive: true,
            target,
            ..copy("d", "new")
        }
        .into(),
    ]
}

/// What a client is told of a change.
fn text<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Result<String, ClientError> {
    answer.map(|answer| format!("{answer:?}"))
}

/// Makes a change once.
async fn make(client: &Client, change: Request) -> Result<String, ClientError> {
    match change {
        Request::Rename(rename) => text(client.rename(rename).await),
        Request::Delete(delete) => text(client.delete(delete).await),
        Request::MakeDirectory(make) => text(client.make_directory(make).await),
        Request::Copy(copy) => text(client.copy(copy).await),
        request => panic!("{request:?}"),
    }
}

/// Makes `change` over a connection that ends before the answer comes, and then again over what
/// `between` returns. Returns the answer that was lost, and the one that came.
async fn lose_answer<F: Future<Output = Client>>(
    server: Client,
    change: Request,
    between: impl FnOnce(Client) -> F,
) -> (String, Result<String, ClientError>) {
    let fake = FakeConnection::open().await;
    let (found, next) = watch::channel(None);
    let mut client = fake.client.clone();
    let next = Successor(next);
    let asking = async {
        match change {
            Request::Rename(rename) => text(repeat(&mut client, &next, rename).await),
            Request::Delete(delete) => text(repeat(&mut client, &next, delete).await),
            Request::MakeDirectory(make) => text(repeat(&mut client, &next, make).await),
            Request::Copy(copy) => text(repeat(&mut client, &next, copy).await),
            request => panic!("{request:?}"),
        }
    };
    let losing = async {
        let (request, _sender, _receiver) = fake.request().await;
        let lost = make(&server, request).await.unwrap();
        found.send_replace(Some(between(server).await));
        fake.server.close(to_quic(ErrorCode::SHUTTING_DOWN), b"");
        lost
    };
    let (answer, lost) = within("the answers", async { tokio::join!(asking, losing) }).await;
    (lost, answer)
}

/// The server is the same.
// P67
#[tokio::test]
async fn a_change_whose_answer_was_lost_is_made_once() {
    for change in changes() {
        let tree = tree();
        let server = TestServer::start(&tree).await;
        let client = server.client().await;
        let same = |client: Client| async { client };
        let (lost, answer) = lose_answer(client.clone(), change.clone(), same).await;
        assert_eq!(answer.unwrap(), lost, "{change:?}");
        // Without the memory, that would be another answer.
        refusal(make(&client, change).await);
        client.close().await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_another_client_made_under_the_deleted_name_stays() {
    let tree = tree();
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let meanwhile = |client: Client| async {
        let upload = client.upload(path("a")).from_bytes("of another");
        upload.await.unwrap();
        client
    };
    let (_, answer) = lose_answer(client.clone(), delete("a").into(), meanwhile).await;
    answer.unwrap();
    assert_eq!(tree.read("a"), b"of another");
    client.close().await;
    server.stop().await;
}

/// A server that knows `client`.
fn server_for(tree: &Tree, client: &Identity) -> Builder {
    let line = format!("{} write\n", client.fingerprint());
    let access = AuthorizedKeys::parse(Path::new("memory"), &line).unwrap();
    TestServer::builder(tree).with(|config| config.access = access)
}

/// Removes the last record of the server, as if it had been killed before it was written.
fn lose_outcome(tree: &Tree) {
    let file = tree.path(STAGING).join("changes");
    let bytes = std::fs::read(&file).unwrap();
    let (mut last, mut next) = (0, "quire changes 1\n".len());
    while next < bytes.len() {
        let length = u32::from_be_bytes(bytes[next..next + 4].try_into().unwrap());
        (last, next) = (next, next + 20 + length as usize);
    }
    std::fs::write(file, &bytes[..last]).unwrap();
}

/// The server is killed after the change, or before it has noted that the change was made, and
/// started again.
#[tokio::test]
async fn a_change_whose_server_was_killed_is_made_once() {
    for change in changes() {
        for is_noted in [true, false] {
            let tree = tree();
            let identity = Identity::generate(&[]).unwrap();
            let first = server_for(&tree, &identity).start().await;
            let client = first.connect(&identity).await.unwrap();
            let (started, mut second) = watch::channel(None);
            let between = |client: Client| async {
                drop(client);
                first.kill().await;
                if !is_noted {
                    lose_outcome(&tree);
                }
                let second = server_for(&tree, &identity).start().await;
                let client = second.connect(&identity).await.unwrap();
                started.send_replace(Some((Arc::new(second), client.clone())));
                client
            };
            let (lost, answer) = lose_answer(client, change.clone(), between).await;
            assert_eq!(answer.unwrap(), lost, "{change:?}, {is_noted}");
            let running = second.borrow_and_update().clone();
            drop(started);
            drop(second);
            let (second, client) = running.unwrap();
            refusal(make(&client, change.clone()).await);
            client.close().await;
            Arc::into_inner(second).unwrap().stop().await;
        }
    }
}

/// An older server, and one that doesn't know enough.
// P69
#[tokio::test]
async fn a_change_is_not_repeated_to_a_server_that_may_not_know_it() {
    for remembers in [None, Some(0)] {
        let tree = tree();
        let server = TestServer::start(&tree).await;
        let client = server.client().await;
        let later = FakeConnection::open().await;
        let next = later.client.clone();
        let pong = Pong {
            software: "older".to_owned(),
            writable: true,
            measured: None,
            details: Default::default(),
            remembers,
        };
        let pinged = async {
            let asked = later.answer(Reply::Ok(pong)).await;
            assert!(matches!(asked, Request::Ping(_)), "{asked:?}");
        };
        let asking = lose_answer(client.clone(), delete("a").into(), |_| async { next });
        let ((_, answer), ()) = tokio::join!(asking, pinged);
        let error = answer.unwrap_err();
        assert!(matches!(error, ClientError::OutcomeUnknown(_)), "{error}");
        assert!(error.to_string().contains("not known whether"), "{error}");
        client.close().await;
        server.stop().await;
    }
}

fn with_id(id: u8, request: Delete) -> Delete {
    Delete {
        change_id: Some(ChangeId::new([id; ChangeId::BYTES])),
        ..request
    }
}

// P68
#[tokio::test]
async fn another_request_with_the_same_identifier_is_refused() {
    let tree = tree().file("b", "content");
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    client.delete(with_id(1, delete("a"))).await.unwrap();
    let other = client.delete(with_id(1, delete("b"))).await;
    assert_eq!(refusal(other), ErrorCode::CONFLICT);
    assert!(tree.has("b"));
    client.delete(with_id(1, delete("a"))).await.unwrap();
    let again = client.delete(with_id(2, delete("a"))).await;
    assert_eq!(refusal(again), ErrorCode::NOT_FOUND);
    client.close().await;
    server.stop().await;
}

/// Clients without a key of their own share nothing, and another key doesn't learn of a change.
// P70
#[tokio::test]
async fn identifiers_are_of_one_key() {
    let tree = tree().file("b", "content");
    let rules: Rules = "write".parse().unwrap();
    let server = TestServer::builder(&tree)
        .with(|config| config.access = config.access.clone().with_anonymous(rules))
        .start()
        .await;
    let client = server.client().await;
    let anyone = server.connect(&server.keys().stranger).await.unwrap();
    assert!(client.ping().await.unwrap().remembers >= Some(3000));
    assert_eq!(anyone.ping().await.unwrap().remembers, None);
    client.delete(with_id(1, delete("a"))).await.unwrap();
    for name in ["a", "a"] {
        let deleted = anyone.delete(with_id(1, delete(name))).await;
        assert_eq!(refusal(deleted), ErrorCode::NOT_FOUND);
    }
    anyone.delete(with_id(1, delete("b"))).await.unwrap();
    client.close().await;
    anyone.close().await;
    server.stop().await;
}

/// The first request is still being carried out when the second comes.
#[tokio::test]
async fn a_repetition_waits_for_the_change() {
    let tree = tree();
    let server = TestServer::start(&tree).await;
    let clients = [server.client().await, server.client().await];
    let holder = files::caller(server.files(), "write");
    let hold = server.files().hold(&holder, &path("a")).await.unwrap();
    let asked = async {
        let is_there = |line: &String| line.contains("asked") && line.contains("Delete");
        let log = server.log();
        while log.lines().iter().filter(|line| is_there(line)).count() < 2 {
            tokio::task::yield_now().await;
        }
        drop(hold);
    };
    let [one, other] = &clients;
    let both = async {
        let one = one.delete(with_id(1, delete("a")));
        let other = other.delete(with_id(1, delete("a")));
        tokio::join!(one, other, asked)
    };
    let (one, other, ()) = within("the answers", both).await;
    one.unwrap();
    other.unwrap();
    for client in clients {
        client.close().await;
    }
    server.stop().await;
}

/// The program asks again, and says so.
#[tokio::test]
async fn a_rename_of_the_program_is_made_once_by_a_server_that_was_killed() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let tree = tree();
    let state = StateDir::open(Some(&programs.state_dir())).unwrap();
    let client = load_or_create(&state, Role::Client).unwrap();
    let identity = || load_or_create(&state, Role::Server).unwrap();
    let first = server_for(&tree, &client).with(|config| config.identity = identity());
    let first = first.start().await;
    let listen = vec![Listen {
        address: first.address(),
        optional: false,
    }];
    let relay = Relay::start(first.address(), NetworkPath::GOOD, 1).await;
    let port = relay.address().port();
    let holder = files::caller(first.files(), "write");
    let hold = first.files().hold(&holder, &path("a")).await.unwrap();
    let operands = ["a", "new"].map(|name| format!("127.0.0.1:{port}/{name}"));
    let [from, to] = &operands;
    let mut command = programs.command(&["rename", "--trust-on-first-use", from, to]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let running = command.spawn().unwrap();
    let log = first.log();
    let asked = async {
        let is_there = |line: &String| line.contains("asked") && line.contains("Rename");
        while !log.lines().iter().any(is_there) {
            tokio::task::yield_now().await;
        }
    };
    within("the request", asked).await;
    relay.set(NetworkPath {
        lost_back: 100,
        ..NetworkPath::GOOD
    });
    drop(hold);
    let renamed = async {
        while !tree.has("new") {
            tokio::task::yield_now().await;
        }
    };
    within("the rename", renamed).await;
    first.kill().await;
    let second = server_for(&tree, &client).with(|config| {
        config.listen = listen;
        config.identity = identity();
    });
    let second = second.start().await;
    relay.set(NetworkPath::GOOD);
    let ended = tokio::task::spawn_blocking(|| running.wait_with_output().unwrap());
    let output = within("the end of the program", ended).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("trying again"), "{said}");
    assert!(said.contains("connected again"), "{said}");
    assert!(tree.has("new") && !tree.has("a"));
    second.stop().await;
}
