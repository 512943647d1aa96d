//! Servers that are killed and started again at the same address, and what their clients notice.

use quinn::ConnectionError;
use quire_certs::{Role, StateDir, load_or_create};
use quire_client::ClientError;
use quire_server::config::Listen;

use quire_test_harness::client::{path, stat, store};
use quire_test_harness::{TestServer, Tree, files, within};

#[tokio::test]
async fn clients_of_a_server_that_was_killed_and_started_again_know_at_once() {
    let tree = Tree::new().file("d/f", "content");
    let state = StateDir::open(Some(&tree.outside().join("state"))).unwrap();
    let identity = || load_or_create(&state, Role::Server).unwrap();
    let first = TestServer::builder(&tree).with(|config| config.identity = identity());
    let first = first.start().await;
    let listen = vec![Listen {
        address: first.address(),
        optional: false,
    }];
    let holder = files::caller(first.files(), "write");
    let hold = first.files().hold(&holder, &path("d")).await.unwrap();
    let (waiting, idle) = (first.client().await, first.client().await);
    store(&idle, "g", b"content").await.unwrap();
    let mut asking = Box::pin(waiting.stat(stat("d/f")));
    let asked = async {
        while !first.log().lines().iter().any(|line| line.contains("d/f")) {
            tokio::task::yield_now().await;
        }
    };
    let begun = async {
        tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            () = asked => {}
        }
    };
    within("the request", begun).await;
    first.kill().await;
    drop(hold);
    let second = TestServer::builder(&tree).with(|config| {
        config.listen = listen;
        config.identity = identity();
    });
    let second = second.start().await;
    // A lost connection would be known only after its idle timeout, and as timed out.
    let answers = [
        within("an answer", asking).await,
        idle.stat(stat("d/f")).await,
    ];
    for answer in answers {
        assert!(
            matches!(answer, Err(ClientError::Lost(ConnectionError::Reset))),
            "{answer:?}"
        );
    }
    waiting.close().await;
    idle.close().await;
    second.stop().await;
}
