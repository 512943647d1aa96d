//! Malformed messages and streams, byte by byte.

use minicbor::Encoder;
use quire_shared::ErrorCode;
use quire_shared::limits::{
    NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX, PIECE_BYTES_MAX, REQUEST_BYTES_MAX,
};
use quire_shared::protocol::{Attributes, Ping, Pong, Put, Reply};
use quire_transport::error_code::to_quic;

use quire_test_harness::client::{fetch, put, stat};
use quire_test_harness::raw::{encoded, framed, refusal_on};
use quire_test_harness::{TestServer, Tree, assert_same, within};

/// A request of kind `kind` whose map `fields` writes.
fn request(kind: u16, fields: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut encoder = Encoder::new(&mut payload);
    encoder.array(2).unwrap().u16(kind).unwrap();
    fields(&mut encoder);
    framed(&payload)
}

/// A stat request for a path of these names, valid or not.
fn stat_of(names: &[&str]) -> Vec<u8> {
    request(5, |encoder| {
        encoder
            .map(1)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(names.len() as u64)
            .unwrap();
        for name in names {
            encoder.str(name).unwrap();
        }
    })
}

// P12
#[tokio::test]
async fn a_request_that_ends_early_or_late_or_is_something_else_is_malformed() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let whole = encoded(stat("f"));
    for cut in 0..whole.len() {
        assert_eq!(
            raw.refusal(&whole[..cut]).await,
            ErrorCode::MALFORMED,
            "cut at {cut}"
        );
    }
    for (what, payload) in [
        ("nothing", &b""[..]),
        ("a number", b"\x01"),
        ("an array that ends early", b"\x82\x05"),
        ("an array of one", b"\x81\x01"),
        ("an array of three", b"\x83\x01\xa0\xa0"),
        ("a map", b"\xa1\x01\x01"),
        ("a kind that is text", b"\x82\x61a\xa0"),
        ("a request without its path", b"\x82\x05\xa0"),
        ("a path that is text", b"\x82\x05\xa1\x00\x61a"),
        ("a name that is a number", b"\x82\x05\xa1\x00\x81\x01"),
        ("a name that is bytes", b"\x82\x05\xa1\x00\x81\x41a"),
        ("a name that isn't UTF-8", b"\x82\x05\xa1\x00\x81\x61\xff"),
        ("bytes behind the message", b"\x82\x01\xa0\x00"),
        ("an endless array of arrays", &[0x81; 1000]),
        (
            "a text longer than the message",
            b"\x82\x05\xa1\x00\x81\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            "an array longer than the message",
            b"\x82\x05\xa1\x00\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
    ] {
        assert_eq!(
            raw.refusal(&framed(payload)).await,
            ErrorCode::MALFORMED,
            "{what}"
        );
    }
    raw.close().await;
    server.stop().await;
}

// P11
#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_message_comes() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for length in [REQUEST_BYTES_MAX + 1, 1 << 20, u32::MAX as usize] {
        // Only the prefix, without FIN: the answer must not wait for more.
        let (mut send, mut recv) = raw.open().await;
        let prefix = u32::try_from(length).unwrap().to_be_bytes();
        send.write_all(&prefix).await.unwrap();
        assert_eq!(
            refusal_on(&mut recv).await,
            ErrorCode::MESSAGE_TOO_LONG,
            "{length}"
        );
        let stopped = within("the stop of the rest", send.stopped())
            .await
            .unwrap();
        assert_eq!(stopped, Some(to_quic(ErrorCode::MESSAGE_TOO_LONG)));
    }
    // The longest legal one, padded with a key of a later version.
    let filled = request(1, |encoder| {
        let frame = 2 + 1 + 2 + 3;
        encoder.map(1).unwrap().u8(99).unwrap();
        encoder.bytes(&vec![0; REQUEST_BYTES_MAX - frame]).unwrap();
    });
    assert_eq!(filled.len(), 4 + REQUEST_BYTES_MAX);
    assert!(matches!(raw.ask::<Pong>(&filled).await, Reply::Ok(_)));
    raw.close().await;
    server.stop().await;
}

// P15
#[tokio::test]
async fn kinds_of_a_later_version_are_unsupported() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for kind in [0, 17, 20, 99, u16::MAX] {
        let unknown = request(kind, |encoder| {
            encoder.map(0).unwrap();
        });
        assert_eq!(
            raw.refusal(&unknown).await,
            ErrorCode::UNSUPPORTED,
            "kind {kind}"
        );
    }
    let digest = request(2, |encoder| {
        encoder
            .map(2)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .str("f")
            .unwrap();
        encoder.u8(3).unwrap().u8(9).unwrap();
    });
    assert_eq!(
        raw.refusal(&digest).await,
        ErrorCode::UNSUPPORTED,
        "digest kind"
    );
    let precondition = request(2, |encoder| {
        encoder
            .map(2)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .str("f")
            .unwrap();
        encoder.u8(4).unwrap().array(1).unwrap().u8(9).unwrap();
    });
    assert_eq!(
        raw.refusal(&precondition).await,
        ErrorCode::UNSUPPORTED,
        "precondition"
    );
    raw.close().await;
    server.stop().await;
}

// P13, P14
#[tokio::test]
async fn unknown_keys_are_skipped_and_missing_optional_ones_defaulted() {
    let tree = Tree::new().file("f", "content");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let later = request(5, |encoder| {
        encoder
            .map(4)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .str("f")
            .unwrap();
        encoder.u8(77).unwrap().str("of a later version").unwrap();
        encoder
            .u16(1000)
            .unwrap()
            .array(2)
            .unwrap()
            .bool(true)
            .unwrap()
            .map(0)
            .unwrap();
        encoder.i8(-1).unwrap().bytes(b"negative").unwrap();
    });
    let Reply::Ok(attributes) = raw.ask::<Attributes>(&later).await else {
        panic!("refused what it doesn't know");
    };
    assert_eq!(attributes.size, 7);
    let delete = request(7, |encoder| {
        encoder
            .map(1)
            .unwrap()
            .u8(0)
            .unwrap()
            .array(1)
            .unwrap()
            .str("f")
            .unwrap();
    });
    raw.ask::<quire_shared::protocol::Done>(&delete)
        .await
        .into_result()
        .unwrap();
    assert!(!tree.has("f"));
    raw.close().await;
    server.stop().await;
}

// P33
#[tokio::test]
async fn paths_that_break_a_rule_are_refused_in_every_form() {
    let tree = Tree::new().file("f", "content").file("d/g", "content");
    std::fs::write(tree.outside().join("secret"), "secret").unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let long_name = "n".repeat(NAME_BYTES_MAX + 1);
    let deep = vec!["d"; PATH_COMPONENTS_MAX + 1];
    let long_names: Vec<_> = (0..20).map(|_| "n".repeat(NAME_BYTES_MAX)).collect();
    let long: Vec<_> = long_names.iter().map(String::as_str).collect();
    assert!(long_names.iter().map(|name| name.len() + 1).sum::<usize>() > PATH_BYTES_MAX + 1);
    for names in [
        &[".."][..],
        &["..", "outside", "secret"],
        &["d", "..", "f"],
        &["."],
        &["d", "."],
        &[""],
        &["", "etc", "passwd"],
        &["d", ""],
        &["/"],
        &["/etc/passwd"],
        &["d/g"],
        &["../outside/secret"],
        &["..\0"],
        &["f\0"],
        &["\0"],
        &[".quire-staging"],
        &["d", ".quire-"],
        &[&long_name],
        &deep,
        &long,
    ] {
        assert_eq!(
            raw.refusal(&stat_of(names)).await,
            ErrorCode::INVALID_PATH,
            "{names:?}"
        );
    }
    raw.close().await;
    server.stop().await;
}

// P34
#[tokio::test]
async fn paths_that_only_look_like_traversal_are_names() {
    let tree = Tree::new().file("d/g", "content");
    std::fs::write(tree.outside().join("secret"), "secret").unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for names in [
        &["%2e%2e", "outside"][..],
        &["..%2foutside"],
        &["..\\outside\\secret"],
        &["%2e%2e%2foutside"],
        &["\u{2025}", "outside"],
        &["．．", "outside"],
        &["..;", "outside"],
        &["...", "outside"],
        &["C:", "Windows"],
        &["D", "G"],
        &["d", "G"],
        &["~"],
        &["$HOME"],
    ] {
        assert_eq!(
            raw.refusal(&stat_of(names)).await,
            ErrorCode::NOT_FOUND,
            "{names:?}"
        );
    }
    raw.ask::<Attributes>(&stat_of(&["d", "g"]))
        .await
        .into_result()
        .unwrap();
    raw.close().await;
    server.stop().await;
}

// P19
#[tokio::test]
async fn links_lead_nowhere() {
    let tree = Tree::new()
        .file("d/f", "content")
        .link("in", "d/f")
        .link("dir", "d");
    let secret = tree.outside().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let (outside, parent) = (tree.outside(), "../outside");
    let tree = tree
        .link("out", &secret)
        .link("outdir", outside)
        .link("relative", parent);
    let server = TestServer::start(&tree).await;
    let client = server.client().await;
    let refused = [ErrorCode::SPECIAL_FILE, ErrorCode::NOT_DIRECTORY];
    for name in [
        "in",
        "out",
        "dir/f",
        "outdir/secret",
        "relative/secret",
        "dir",
    ] {
        let error = fetch(&client, name).await.unwrap_err();
        assert!(refused.contains(&error.code().unwrap()), "{name}: {error}");
    }
    for name in ["in", "out", "dir/new", "outdir/new", "relative/new"] {
        let error = quire_test_harness::client::store(&client, name, b"new")
            .await
            .unwrap_err();
        assert!(refused.contains(&error.code().unwrap()), "{name}: {error}");
    }
    let making = Put {
        make_parents: true,
        ..put("outdir/a/b", 3)
    };
    let error = quire_test_harness::client::store_as(&client, making, b"new")
        .await
        .unwrap_err();
    assert!(refused.contains(&error.code().unwrap()), "{error}");
    assert_same(std::fs::read(&secret).unwrap(), "secret");
    assert_eq!(quire_test_harness::tree::names(&tree.outside()), ["secret"]);
    assert_eq!(tree.names("d"), ["f"]);
    client.close().await;
    server.stop().await;
}

// P29
#[tokio::test]
async fn a_piece_over_its_limit_is_refused_before_it_comes() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    for length in [PIECE_BYTES_MAX + 1, u32::MAX as usize] {
        let (mut send, mut recv) = raw
            .begin(Put {
                size: None,
                ..put("f", 0)
            })
            .await;
        send.write_all(&u32::try_from(length).unwrap().to_be_bytes())
            .await
            .unwrap();
        assert_eq!(
            refusal_on(&mut recv).await,
            ErrorCode::MESSAGE_TOO_LONG,
            "{length}"
        );
        drop(send);
    }
    assert!(!tree.has("f"));
    raw.close().await;
    server.stop().await;
}

// P5
#[tokio::test]
async fn neither_unidirectional_streams_nor_datagrams_are_taken() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    assert_eq!(raw.connection.max_datagram_size(), None);
    let ping = encoded(Ping::default());
    tokio::select! {
        biased;
        opened = raw.connection.open_uni() => panic!("a stream: {opened:?}"),
        answer = raw.ask::<Pong>(&ping) => assert!(matches!(answer, Reply::Ok(_))),
    }
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn more_streams_than_allowed_wait_for_their_turn() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let mut open = Vec::new();
    for _ in 0..quire_shared::limits::STREAMS_MAX {
        open.push(
            raw.begin(Put {
                size: None,
                ..put("f", 0)
            })
            .await,
        );
    }
    tokio::select! {
        biased;
        opened = raw.connection.open_bi() => panic!("one stream too many: {opened:?}"),
        () = std::future::ready(()) => {}
    }
    drop(open);
    raw.ask::<Pong>(&encoded(Ping::default()))
        .await
        .into_result()
        .unwrap();
    raw.close().await;
    server.stop().await;
}

// P37
#[tokio::test]
async fn a_failure_carries_the_phrase_of_its_code_and_nothing_from_within() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let (mut send, mut recv) = raw.begin(stat("missing")).await;
    send.finish().unwrap();
    let bytes = within("a reply", recv.read_to_end(4096)).await.unwrap();
    let mut expected = b"\x82\x01\xa2\x00\x06\x01\x69".to_vec();
    expected.extend_from_slice(b"not found");
    assert_eq!(bytes, framed(&expected));
    raw.close().await;
    server.stop().await;
}
