//! Tests of the whole: the real server and the real client, in one process, over loopback.
//!
//! There is one folder per subject. Servers, clients and directories come from `quire-test-harness`;
//! power cuts, kills and full disks are in `quire-durability`. A test builds a `Tree`, starts a server on it, asks
//! something of it and says how it must come out:
//!
//! ```ignore
//! // P17
//! #[tokio::test]
//! async fn a_renamed_file_is_fetched_by_its_new_name() {
//!     let tree = Tree::new().file("a", "content");
//!     let server = TestServer::start(&tree).await;
//!     let client = server.client().await;
//!
//!     client.rename(rename("a", "b")).await.unwrap();
//!     assert_same(&fetch(&client, "b").await.unwrap(), b"content");
//!
//!     drop(client);
//!     server.stop().await;
//! }
//! ```
//!
//! `stop` is part of every test: it fails the test if a client is still connected, the server
//! doesn't come to an end, a task of it panicked, it logged an error, a path is still locked, or
//! anything is left in staging. The rest of the rules: a name says subject, condition and outcome;
//! `// P17` above a test names the requirement of PROTOCOL.md that it proves; nothing sleeps,
//! chooses a port, measures time or depends on another test; content comes from a seed; what can't
//! be tried on this machine says so through `skip`.

#[cfg(test)]
mod details;
#[cfg(test)]
mod front_end;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod links;
#[cfg(test)]
mod namespace;
#[cfg(test)]
mod outcomes;
#[cfg(test)]
mod project;
#[cfg(test)]
mod sync;
#[cfg(test)]
mod transfer;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod wire;
