//! The client against a server that does as each test says, right or wrong.

#![expect(
    clippy::unwrap_used,
    reason = "in a test a failure of the surroundings is a failure"
)]

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, ServerConfig};
use quire_certs::Identity;
use quire_client::download::{Fetched, SaveOptions};
use quire_client::known_servers::ServerId;
use quire_client::tree::{self, Fetch, FetchOptions, Transfer};
use quire_client::trust::ServerVerifier;
use quire_client::upload::{Content, Links, LocalFile};
use quire_client::{Client, ClientError, Exit};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Attributes, Changed, Entry, EntryKind, Failure, Get, GetHeader, List, Message, Page, Pong,
    Precondition, Put, Reply, Request, Stat, Time, Trailer, Version,
};
use quire_shared::stream::{Receiver, Sender};
use quire_shared::{ErrorCode, Name, RemotePath, tls, transport};

/// A client, and the server's end of its connection.
struct Pair {
    client: Client,
    fingerprint: String,
    server: Connection,
    // Kept, because a connection ends with its endpoint.
    _endpoint: Endpoint,
}

impl Pair {
    async fn new() -> Self {
        let identity = Identity::generate(&["localhost".to_owned()]).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(tls::VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(identity.chain().to_vec(), identity.private_key())
            .unwrap();
        config.alpn_protocols = vec![transport::ALPN.to_vec()];
        let config = QuicServerConfig::try_from(config).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint =
            Endpoint::server(ServerConfig::with_crypto(Arc::new(config)), address).unwrap();
        let id = ServerId::new("127.0.0.1", endpoint.local_addr().unwrap().port()).unwrap();
        let own = Identity::generate(&[]).unwrap();
        let verifier = ServerVerifier::pinned(id.clone(), identity.fingerprint());
        let accept = async { endpoint.accept().await.unwrap().await.unwrap() };
        let (client, server) = tokio::join!(Client::connect(&id, &own, verifier), accept);
        Self {
            client: client.unwrap(),
            fingerprint: own.fingerprint().to_string(),
            server,
            _endpoint: endpoint,
        }
    }

    /// The next request, with its stream.
    async fn request(&self) -> (Request, Sender, Receiver) {
        let (send, recv) = self.server.accept_bi().await.unwrap();
        let mut receiver = Receiver::new(recv);
        let request = receiver.receive().await.unwrap();
        (request, Sender::new(send), receiver)
    }

    /// Answers the next request with one message, and returns the request.
    async fn answer<R: Message>(&self, reply: Reply<R>) -> Request {
        let (request, mut sender, _receiver) = self.request().await;
        sender.send(&reply).await.unwrap();
        sender.finish_and_wait().await.unwrap();
        request
    }
}

fn failed<R>(code: ErrorCode) -> Reply<R> {
    Reply::Failed(Failure::new(code))
}

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn version() -> Version {
    Version::new(b"v").unwrap()
}

fn get(name: &str) -> Get {
    Get {
        path: path(name),
        offset: 0,
        length: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
    }
}

fn put(size: Option<u64>) -> Put {
    Put {
        path: path("f"),
        size,
        modified: None,
        mode: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        make_parents: false,
    }
}

fn header(length: u64) -> GetHeader {
    GetHeader {
        version: version(),
        size: length,
        length,
        modified: Time {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        },
        mode: 0o640,
    }
}

fn trailer(content: &[u8]) -> Trailer {
    let mut hasher = DigestKind::Xxh3.hasher();
    hasher.update(content);
    Trailer {
        digest: hasher.finish(),
    }
}

fn attributes(kind: EntryKind) -> Attributes {
    Attributes {
        kind,
        size: 3,
        modified: Time {
            seconds: 1_000_000_000,
            nanoseconds: 0,
        },
        mode: 0o750,
        version: version(),
    }
}

fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry {
        name: Name::new(name).unwrap(),
        attributes: attributes(kind),
    }
}

fn page(entries: &[Entry], last: bool) -> Page {
    Page {
        entries: entries.to_vec(),
        unnameable: 0,
        last,
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// How the server ends a body of which it has sent five bytes.
enum End {
    Good,
    Finish,
    Reset(ErrorCode),
    WrongDigest,
    Failed(ErrorCode),
    Close,
}

/// Saves a file whose body of `length` ends so; nothing may be left unless all is well.
async fn save(length: u64, end: End) -> Result<Fetched, ClientError> {
    let pair = Pair::new().await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("f");
    let moved = AtomicU64::new(0);
    let serve = async {
        let (_, mut sender, _receiver) = pair.request().await;
        sender.send(&Reply::Ok(header(length))).await.unwrap();
        sender
            .send_bytes(Bytes::from_static(b"hello"))
            .await
            .unwrap();
        match end {
            End::Good => sender.send(&Reply::Ok(trailer(b"hello"))).await.unwrap(),
            End::WrongDigest => sender.send(&Reply::Ok(trailer(b"Hello"))).await.unwrap(),
            End::Failed(code) => sender.send(&failed::<Trailer>(code)).await.unwrap(),
            End::Finish => {}
            End::Reset(code) => {
                sender.reset(code);
                return;
            }
            End::Close => {
                pair.server.close(ErrorCode::SHUTTING_DOWN.into(), b"");
                return;
            }
        }
        // A client that has heard enough may stop the stream.
        let _ = sender.finish_and_wait().await;
    };
    let fetch = async {
        let download = pair.client.get(get("f")).await?;
        download.save(&target, SaveOptions::default(), &moved).await
    };
    let (fetched, ()) = tokio::join!(fetch, serve);
    match &fetched {
        Ok(_) => assert_eq!(fs::read(&target).unwrap(), b"hello"),
        Err(_) => assert!(names(directory.path()).is_empty()),
    }
    fetched
}

#[tokio::test]
async fn a_file_is_saved_only_if_length_and_digest_agree() {
    let fetched = save(5, End::Good).await.unwrap();
    assert_eq!(fetched.bytes, 5);
    assert_eq!(fetched.version, version());
    let error = save(5, End::WrongDigest).await.unwrap_err();
    assert!(matches!(error, ClientError::Damaged), "{error:?}");
    let error = save(6, End::Finish).await.unwrap_err();
    assert!(matches!(error, ClientError::Truncated), "{error:?}");
    assert_eq!(error.exit(), Exit::Damaged);
    let error = save(5, End::Finish).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Damaged, "no trailer, no proof");
}

#[tokio::test]
async fn a_file_that_changed_or_a_lost_connection_leaves_nothing() {
    let error = save(6, End::Reset(ErrorCode::CHANGED)).await.unwrap_err();
    assert!(matches!(error, ClientError::Changed), "{error:?}");
    let error = save(5, End::Failed(ErrorCode::CHANGED)).await.unwrap_err();
    assert!(matches!(error, ClientError::Changed), "{error:?}");
    assert_eq!(error.exit(), Exit::Damaged);
    let error = save(6, End::Reset(ErrorCode::DISK)).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::DISK));
    let error = save(6, End::Close).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unreachable, "{error:?}");
}

#[tokio::test]
async fn a_header_that_contradicts_itself_is_refused() {
    let pair = Pair::new().await;
    let wrong = GetHeader {
        size: 4,
        ..header(5)
    };
    let (result, _) = tokio::join!(pair.client.get(get("f")), pair.answer(Reply::Ok(wrong)));
    assert!(matches!(result.unwrap_err(), ClientError::Unexpected(_)));
}

#[tokio::test]
async fn refusals_keep_their_code() {
    let pair = Pair::new().await;
    for code in ErrorCode::ALL {
        let stat = pair.client.stat(Stat { path: path("f") });
        let (result, _) = tokio::join!(stat, pair.answer::<Attributes>(failed(*code)));
        let error = result.unwrap_err();
        match *code {
            ErrorCode::CHANGED => assert!(matches!(error, ClientError::Changed)),
            ErrorCode::NOT_AUTHORIZED => {
                assert!(matches!(error, ClientError::NotAuthorized { .. }));
            }
            code => assert_eq!(error.code(), Some(code)),
        }
        assert_eq!(error.exit(), Exit::of_code(*code));
    }
}

#[tokio::test]
async fn a_client_that_isnt_let_in_hears_its_own_fingerprint() {
    let pair = Pair::new().await;
    pair.server.close(ErrorCode::NOT_AUTHORIZED.into(), b"");
    let error = pair.client.ping().await.unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert!(error.to_string().contains(&pair.fingerprint), "{error}");
}

#[tokio::test]
async fn close_tells_the_server() {
    let pair = Pair::new().await;
    let pong = Pong {
        software: "test".to_owned(),
        writable: true,
    };
    let (answer, _) = tokio::join!(pair.client.ping(), pair.answer(Reply::Ok(pong.clone())));
    assert_eq!(answer.unwrap(), pong);
    let (closed, ()) = tokio::join!(pair.server.closed(), pair.client.close());
    assert!(matches!(
        closed,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
}

#[tokio::test]
async fn a_put_stops_when_it_is_refused_early() {
    for stops in [true, false] {
        let pair = Pair::new().await;
        let serve = async {
            let (request, mut sender, mut receiver) = pair.request().await;
            assert!(matches!(request, Request::Put(_)));
            sender
                .send(&failed::<Changed>(ErrorCode::BUSY))
                .await
                .unwrap();
            sender.finish().unwrap();
            if stops {
                receiver.stop(ErrorCode::BUSY);
            }
            // The client stops sending by itself, or because it was told to.
            while receiver
                .receive_bytes(usize::MAX)
                .await
                .is_ok_and(|bytes| bytes.is_some())
            {}
            pair.server.closed().await;
        };
        let offer = async {
            let moved = AtomicU64::new(0);
            let endless = Content::stream(std::io::repeat(7), "endless");
            let result = pair.client.put(put(None), endless, &moved).await;
            pair.client.clone().close().await;
            result
        };
        let (result, ()) = tokio::join!(offer, serve);
        assert_eq!(result.unwrap_err().code(), Some(ErrorCode::BUSY));
    }
}

#[tokio::test]
async fn a_put_sends_the_body_and_its_digest() {
    let pair = Pair::new().await;
    let content = b"hello".as_slice();
    let serve = async {
        let (_, mut sender, mut receiver) = pair.request().await;
        let mut body = Vec::new();
        while body.len() < content.len() {
            body.extend(
                receiver
                    .receive_bytes(content.len() - body.len())
                    .await
                    .unwrap()
                    .unwrap(),
            );
        }
        assert_eq!(body, content);
        let sent: Trailer = receiver.receive().await.unwrap();
        assert_eq!(sent, trailer(content));
        receiver.expect_end().await.unwrap();
        let version = version();
        sender.send(&Reply::Ok(Changed { version })).await.unwrap();
        sender.finish_and_wait().await.unwrap();
    };
    let moved = AtomicU64::new(0);
    let offer = pair
        .client
        .put(put(Some(5)), Content::stream(content, "hello"), &moved);
    let (stored, ()) = tokio::join!(offer, serve);
    assert_eq!(stored.unwrap().version, version());
    assert_eq!(moved.into_inner(), 5);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_published() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    for shrinks in [true, false] {
        fs::write(&file, "hello").unwrap();
        let pair = Pair::new().await;
        let opened = LocalFile::open(&file, Links::Follow).await.unwrap();
        let request = put(Some(opened.size()));
        fs::write(&file, if shrinks { "hel" } else { "hello, world" }).unwrap();
        let serve = async {
            let (_send, recv) = pair.server.accept_bi().await.unwrap();
            // A reset may overtake the request itself.
            let mut receiver = Receiver::new(recv);
            loop {
                match receiver.receive_bytes(usize::MAX).await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("a changed file looks like a whole one"),
                    Err(error) => return error,
                }
            }
        };
        let moved = AtomicU64::new(0);
        let offer = pair.client.put(request, opened.into_content(), &moved);
        let (stored, error) = tokio::join!(offer, serve);
        assert!(matches!(stored.unwrap_err(), ClientError::Changed));
        let quire_shared::stream::ReceiveError::Read(quinn::ReadError::Reset(code)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(ErrorCode::from_quic(code), ErrorCode::CHANGED);
    }
}

#[tokio::test]
async fn a_source_that_fails_is_named() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no more"))
        }
    }
    let pair = Pair::new().await;
    let moved = AtomicU64::new(0);
    let offer = pair
        .client
        .put(put(None), Content::stream(Broken, "broken"), &moved);
    let (stored, _) = tokio::join!(offer, pair.request());
    let error = stored.unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
}

#[tokio::test]
async fn entries_out_of_order_or_twice_are_refused() {
    let file = EntryKind::File;
    for second in ["a", "b"] {
        let pair = Pair::new().await;
        let serve = async {
            let (_, mut sender, _receiver) = pair.request().await;
            let first = page(&[entry("b", file)], false);
            sender.send(&Reply::Ok(first)).await.unwrap();
            let last = page(&[entry(second, file)], true);
            sender.send(&Reply::Ok(last)).await.unwrap();
            let _ = sender.finish_and_wait().await;
        };
        let list = async {
            let list = List {
                path: path("d"),
                after: None,
            };
            let mut listing = pair.client.list(list).await.unwrap();
            assert!(listing.next().await.unwrap().is_some());
            assert!(listing.next().await.is_err());
        };
        tokio::join!(list, serve);
    }
}

#[tokio::test]
async fn a_paused_listing_goes_on_after_its_last_name() {
    let pair = Pair::new().await;
    let file = EntryKind::File;
    let serve = async {
        let (_, mut first, _receiver) = pair.request().await;
        let entries = [entry("a", file), entry("b", file)];
        first.send(&Reply::Ok(page(&entries, false))).await.unwrap();
        let again = pair
            .answer(Reply::Ok(page(&[entry("c", file)], true)))
            .await;
        let Request::List(list) = again else {
            panic!("{again:?}");
        };
        assert_eq!(list.after.unwrap().as_str(), "b");
    };
    let list = async {
        let list = List {
            path: path("d"),
            after: None,
        };
        let mut listing = pair.client.list(list).await.unwrap();
        let mut names = Vec::new();
        while let Some(entry) = listing.next().await.unwrap() {
            listing.pause();
            names.push(entry.name.as_str().to_owned());
        }
        assert_eq!(names, ["a", "b", "c"]);
    };
    tokio::join!(list, serve);
}

#[tokio::test]
async fn a_tree_arrives_with_its_times_and_without_links() {
    let pair = Pair::new().await;
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("top");
    let transfer = Transfer::new(|_| {});
    let serve = async {
        loop {
            let (request, mut sender, _receiver) = pair.request().await;
            match request {
                Request::Stat(_) => {
                    let top = attributes(EntryKind::Directory);
                    sender.send(&Reply::Ok(top)).await.unwrap();
                }
                Request::List(list) if list.path == path("d") => {
                    let entries = [
                        entry("empty", EntryKind::Directory),
                        entry("f", EntryKind::File),
                        entry("gone", EntryKind::File),
                        entry("link", EntryKind::Symlink),
                        entry("pipe", EntryKind::Other),
                    ];
                    sender.send(&Reply::Ok(page(&entries, true))).await.unwrap();
                }
                Request::List(_) => sender.send(&Reply::Ok(page(&[], true))).await.unwrap(),
                Request::Get(get) if get.path == path("d/f") => {
                    sender.send(&Reply::Ok(header(3))).await.unwrap();
                    sender.send_bytes(Bytes::from_static(b"abc")).await.unwrap();
                    sender.send(&Reply::Ok(trailer(b"abc"))).await.unwrap();
                }
                _ => {
                    let gone = failed::<GetHeader>(ErrorCode::NOT_FOUND);
                    sender.send(&gone).await.unwrap();
                }
            }
            sender.finish().unwrap();
        }
    };
    let items = vec![Fetch {
        from: path("d"),
        to: target.clone(),
    }];
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    tokio::select! {
        () = tree::fetch(&pair.client, items, options, &transfer) => {}
        () = serve => {}
    }
    assert_eq!(names(&target), ["empty", "f"]);
    assert_eq!(fs::read(target.join("f")).unwrap(), b"abc");
    for path in [&target, &target.join("empty"), &target.join("f")] {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_000_000_000, "{}", path.display());
    }
    assert_eq!((transfer.files(), transfer.directories()), (1, 2));
    assert_eq!((transfer.skipped(), transfer.failed()), (2, 1));
    assert_eq!(transfer.exit(), Exit::NotFound, "one file had gone");
}
