//! Download of many files that the client names: what travels on the wire.

use std::os::unix::fs::symlink;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use quire_shared::digest::DigestKind;
use quire_shared::limits::{ENCLOSED_BYTES_MAX, REQUEST_BYTES_MAX};
use quire_shared::protocol::{
    GetFile, GetItem, GetMany, GotItem, LastItem, Precondition, Put, Reply, Trailer,
};
use quire_shared::{ErrorCode, codec};
use quire_transport::error_code::to_quic;
use tokio::time::timeout;

use quire_test_harness::client::{path, put, store_as};
use quire_test_harness::raw::{refusal_on, reply};
use quire_test_harness::{KIB, Raw, TestServer, Tree, content, files, within};

fn get_many(enclose_max: usize) -> GetMany {
    GetMany {
        digest: DigestKind::Blake3,
        enclose_max: enclose_max as u64,
        details: Default::default(),
    }
}

fn items(names: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in names {
        let path = path(name);
        codec::append(&GetItem::File(GetFile { path }), &mut bytes).unwrap();
    }
    bytes
}

fn last() -> Vec<u8> {
    codec::encode(&GetItem::Last(LastItem {})).unwrap()
}

/// Sends `items` and FIN.
async fn ask(raw: &Raw, enclose_max: usize, items: &[u8]) -> RecvStream {
    let (mut send, recv) = raw.begin(get_many(enclose_max)).await;
    // A server that has seen enough stops the stream.
    let _ = send.write_all(items).await;
    let _ = send.finish();
    recv
}

/// What came for an item.
#[derive(Debug, PartialEq)]
enum Got {
    Whole(Vec<u8>),
    /// Without its content; its size.
    Described(u64),
    Failed(ErrorCode),
}

/// Receives the answer to the item `index`, and checks its content.
async fn got(recv: &mut RecvStream, index: usize) -> Got {
    let answer = reply::<GotItem>(recv).await.unwrap().into_result().unwrap();
    // P48
    assert_eq!(answer.index, index as u64);
    let size = answer.body_size().unwrap();
    let header = match answer.result {
        Reply::Ok(header) => header,
        Reply::Failed(failure) => return Got::Failed(failure.code()),
    };
    let Some(size) = size else {
        return Got::Described(header.size);
    };
    let mut body = vec![0; usize::try_from(size).unwrap()];
    within("a body", recv.read_exact(&mut body)).await.unwrap();
    let trailer = reply::<Trailer>(recv).await.unwrap().into_result().unwrap();
    // P30
    assert_eq!(trailer.digest, DigestKind::Blake3.of(&body));
    Got::Whole(body)
}

async fn assert_got(recv: &mut RecvStream, expected: &[Got]) {
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(got(recv, index).await, *expected, "{index}");
    }
    assert_eq!(within("the end", recv.read_to_end(1)).await.unwrap(), b"");
}

// P48, P49, P50, P51
#[tokio::test]
async fn files_come_in_the_order_of_their_names_and_each_fails_alone() {
    let tree = Tree::new()
        .file("d/a", "first")
        .file("d/empty", "")
        .file("b", content(1, 100))
        .file("large", content(2, 101))
        .fifo("pipe");
    symlink("b", tree.path("link")).unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let wanted = [
        "d/a", "missing", "b", "", "d", "large", "link", "pipe", "b/x", "d/empty", "d/a",
    ];
    let expected = [
        Got::Whole(b"first".to_vec()),
        Got::Failed(ErrorCode::NOT_FOUND),
        Got::Whole(content(1, 100)),
        Got::Failed(ErrorCode::IS_DIRECTORY),
        Got::Failed(ErrorCode::IS_DIRECTORY),
        Got::Described(101),
        Got::Failed(ErrorCode::SPECIAL_FILE),
        Got::Failed(ErrorCode::SPECIAL_FILE),
        Got::Failed(ErrorCode::NOT_DIRECTORY),
        Got::Whole(Vec::new()),
        Got::Whole(b"first".to_vec()),
    ];
    let mut recv = ask(&raw, 100, &[items(&wanted), last()].concat()).await;
    assert_got(&mut recv, &expected).await;
    let mut recv = ask(&raw, 0, &[items(&["b", "d/empty"]), last()].concat()).await;
    assert_got(&mut recv, &[Got::Described(100), Got::Whole(Vec::new())]).await;
    let mut recv = ask(&raw, 100, &last()).await;
    assert_got(&mut recv, &[]).await;
    raw.close().await;
    server.stop().await;
}

// P50
#[tokio::test]
async fn a_request_for_larger_files_than_a_stream_carries_is_clipped() {
    let most = ENCLOSED_BYTES_MAX;
    let tree = Tree::new()
        .file("most", content(1, most))
        .file("more", content(2, most + 1));
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let mut recv = ask(
        &raw,
        usize::MAX,
        &[items(&["more", "most"]), last()].concat(),
    )
    .await;
    let expected = [
        Got::Described(most as u64 + 1),
        Got::Whole(content(1, most)),
    ];
    assert_got(&mut recv, &expected).await;
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn an_item_is_answered_while_others_are_still_to_be_named() {
    let tree = Tree::new().file("a", "1").file("b", "2");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let (mut send, mut recv) = raw.begin(get_many(100)).await;
    for (index, name) in ["a", "b", "a"].into_iter().enumerate() {
        send.write_all(&items(&[name])).await.unwrap();
        let expected = Got::Whole(tree.read(name));
        assert_eq!(got(&mut recv, index).await, expected);
    }
    send.write_all(&last()).await.unwrap();
    send.finish().unwrap();
    assert_got(&mut recv, &[]).await;
    raw.close().await;
    server.stop().await;
}

// P39, P51
#[tokio::test]
async fn rights_hold_for_each_item() {
    let tree = Tree::new()
        .file("d/a", "content")
        .file("d/private/secret", "hidden")
        .file("d/names/f", "shown by name only")
        .file("d/in/x", "to be got by name only");
    let rules = "read,/d/private=none,/d/names=list,/d/in=get";
    let server = TestServer::builder(&tree).anonymous(rules).start().await;
    let raw = Raw::connect(&server, &server.keys().stranger).await;
    let wanted = [
        "d/private/secret",
        "d/private/missing",
        "d/names/f",
        "d/in/x",
        "d/a",
    ];
    let expected = [
        Got::Failed(ErrorCode::NOT_FOUND),
        Got::Failed(ErrorCode::NOT_FOUND),
        Got::Failed(ErrorCode::NOT_AUTHORIZED),
        Got::Whole(tree.read("d/in/x")),
        Got::Whole(b"content".to_vec()),
    ];
    let mut recv = ask(&raw, 100, &[items(&wanted), last()].concat()).await;
    assert_got(&mut recv, &expected).await;
    raw.close().await;
    server.stop().await;
}

// P6, P11, P52
#[tokio::test]
async fn a_stream_of_names_that_breaks_the_rules_is_refused_as_a_whole() {
    let tree = Tree::new();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let too_long = u32::try_from(REQUEST_BYTES_MAX + 1).unwrap();
    for (what, items, code) in [
        ("no end", Vec::new(), ErrorCode::MALFORMED),
        (
            "an end within an item",
            last()[..5].to_vec(),
            ErrorCode::MALFORMED,
        ),
        (
            "more than the last",
            [last(), last()].concat(),
            ErrorCode::MALFORMED,
        ),
        (
            "an item over its limit",
            too_long.to_be_bytes().to_vec(),
            ErrorCode::MESSAGE_TOO_LONG,
        ),
        (
            "an item of a later version",
            vec![0, 0, 0, 3, 0x82, 2, 0xa0],
            ErrorCode::UNSUPPORTED,
        ),
        (
            "a name that is none",
            b"\0\0\0\x08\x82\x00\xa1\x00\x81\x62..".to_vec(),
            ErrorCode::INVALID_PATH,
        ),
    ] {
        let mut recv = ask(&raw, 100, &items).await;
        assert_eq!(refusal_on(&mut recv).await, code, "{what}");
    }
    raw.close().await;
    server.stop().await;
}

// P21
#[tokio::test]
async fn a_locked_file_delays_only_what_was_named_after_it() {
    let tree = Tree::new().file("a", "1").file("d/b", "2").file("c", "3");
    let server = TestServer::start(&tree).await;
    let holder = files::caller(server.files(), "write");
    let hold = server.files().hold(&holder, &path("d")).await.unwrap();
    let raw = server.raw().await;
    let mut recv = ask(&raw, 100, &[items(&["a", "d/b", "c"]), last()].concat()).await;
    assert_eq!(got(&mut recv, 0).await, Got::Whole(b"1".to_vec()));
    drop(hold);
    assert_eq!(got(&mut recv, 1).await, Got::Whole(b"2".to_vec()));
    assert_eq!(got(&mut recv, 2).await, Got::Whole(b"3".to_vec()));
    // No lock is held while the answers wait for the client.
    let client = server.client().await;
    let any = Put {
        precondition: Precondition::Any,
        ..put("c", 3)
    };
    within("a put", store_as(&client, any, b"new"))
        .await
        .unwrap();
    client.close().await;
    raw.close().await;
    server.stop().await;
}

/// Names files until the server takes no more; returns how many bytes it took.
async fn name_until_full(send: &mut SendStream, item: &[u8]) -> usize {
    let mut taken = 0;
    while taken < TOO_MUCH
        && let Ok(written) = timeout(Duration::from_millis(200), send.write(item)).await
    {
        taken += written.unwrap();
    }
    taken
}

/// More bytes of names than the windows of a stream that carries no body take at once.
const TOO_MUCH: usize = 16 * 1024 * KIB;

// P52
#[tokio::test]
async fn a_client_that_names_and_never_reads_is_held_back() {
    let name = "n".repeat(200);
    let tree = Tree::new().file(&name, content(1, ENCLOSED_BYTES_MAX));
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let (mut send, mut recv) = raw.begin(get_many(ENCLOSED_BYTES_MAX)).await;
    let item = items(&[&name]).repeat(64);
    let taken = name_until_full(&mut send, &item).await;
    // What the windows carry is answered; of the rest, the server holds little, and the window of this
    // stream what it may.
    assert!(taken < TOO_MUCH, "{taken} bytes of names were taken");
    // Each is answered once the client reads.
    for index in 0..100 {
        assert!(matches!(got(&mut recv, index).await, Got::Whole(_)));
    }
    recv.stop(to_quic(ErrorCode::CANCELLED)).unwrap();
    drop(send);
    // Fails if anything is left of the request.
    raw.close().await;
    server.stop().await;
}
