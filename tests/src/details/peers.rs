//! Details between ends of different versions, and what a hostile server tells.

use quire_client::{ClientError, DetailsFailure, Keep};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    DetailKinds, Details, Failure, GetHeader, Pong, Put, Reply, Request, Time, Trailer, Version,
    XattrName, Xattrs,
};
use quire_shared::{ErrorCode, codec};
use quire_test_harness::client::{fetch, put};
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::raw::encoded;
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{TestServer, Tree};

use super::{XATTRS, get_tree, has_xattrs, put_tree, set_xattr};

/// The answer to a `get` of a file with one attribute of this name, which may be illegal.
fn answer(name: &[u8]) -> Vec<u8> {
    let legal = [b"user.", &vec![b'q'; name.len() - 5][..]].concat();
    let mut xattrs = Xattrs::default();
    let legal_name = XattrName::new(&legal).unwrap();
    xattrs.insert(legal_name, b"value").unwrap();
    let details = Details {
        xattrs: Some(xattrs),
        ..Details::default()
    };
    let header = GetHeader {
        version: Version::new(b"1").unwrap(),
        size: 1,
        length: 1,
        modified: Time {
            seconds: 1,
            nanoseconds: 0,
        },
        mode: 0o644,
        in_extents: false,
        details: details.boxed(),
    };
    let mut bytes = codec::encode(&Reply::Ok(header)).unwrap();
    let position = bytes.windows(legal.len()).position(|part| part == legal);
    bytes[position.unwrap()..][..name.len()].copy_from_slice(name);
    bytes.push(b'x');
    let trailer = Trailer {
        digest: DigestKind::Xxh3.of(b"x"),
        grew: false,
    };
    bytes.extend(codec::encode(&Reply::Ok(trailer)).unwrap());
    bytes
}

// P62
#[tokio::test]
async fn a_server_that_tells_others_than_those_of_the_user_is_not_believed() {
    for (name, is_legal) in [
        (&b"user.legal"[..], true),
        (b"security.capability", false),
        (b"trusted.overlay.opaque", false),
        (b"system.posix_acl_access", false),
        (b"user.with\0nul", false),
    ] {
        let fake = FakeServer::start(async move |connection| {
            // The walk of a tree, which this server hasn't, then the file.
            loop {
                let (request, mut send, _recv) = fake::request(&connection).await;
                match request {
                    Request::Get(get) => {
                        assert_eq!(get.details, XATTRS.kinds);
                        send.write_all(&answer(name)).await.unwrap();
                        send.finish().unwrap();
                        return;
                    }
                    _ => {
                        let failure = Failure::new(ErrorCode::NOT_DIRECTORY);
                        fake::send(&mut send, &Reply::<Pong>::Failed(failure)).await;
                        send.finish().unwrap();
                    }
                }
            }
        });
        let client = fake.client().await;
        let here = scratch();
        let failed = get_tree(&client, "f", here.path().join("f"), XATTRS).await;
        let written = names(here.path());
        match is_legal {
            true => {
                let is_unsupported = failed.iter().any(|text| text.contains("not supported"));
                assert!(failed.is_empty() || is_unsupported, "{failed:?}");
            }
            false => {
                assert!(failed[0].contains("unexpected"), "{failed:?}");
                assert_eq!(written, Vec::<String>::new());
            }
        }
        client.close().await;
        fake.stop().await;
    }
}

// P64
#[tokio::test]
async fn a_client_finds_out_that_a_server_of_an_earlier_version_keeps_nothing() {
    for (known, wanted, is_known) in [
        (DetailKinds::default(), XATTRS.kinds, false),
        (XATTRS.kinds, DetailKinds::ALL, false),
        (XATTRS.kinds, XATTRS.kinds, true),
        (DetailKinds::ALL, XATTRS.kinds, true),
    ] {
        let fake = FakeServer::start(async move |connection| {
            let (_, mut send, _recv) = fake::request(&connection).await;
            let pong = Pong {
                software: "old".to_owned(),
                writable: true,
                measured: None,
                details: known,
                remembers: None,
            };
            fake::send(&mut send, &Reply::Ok(pong)).await;
            send.finish().unwrap();
        });
        let client = fake.client().await;
        let answer = client.require_details(wanted).await;
        match is_known {
            true => answer.unwrap(),
            false => assert!(matches!(
                answer,
                Err(ClientError::Details(DetailsFailure::Unknown))
            )),
        }
        client.close().await;
        fake.stop().await;
    }
    // Who wants nothing asks nothing.
    let tree = Tree::new();
    let test = TestServer::start(&tree).await;
    let client = test.client().await;
    client
        .require_details(DetailKinds::default())
        .await
        .unwrap();
    client.close().await;
    test.stop().await;
}

#[tokio::test]
async fn a_file_system_without_attributes_is_named_as_the_reason() {
    let here = scratch();
    if !has_xattrs(here.path()) {
        return;
    }
    let file = here.path().join("f");
    std::fs::write(&file, "x").unwrap();
    set_xattr(&file, "user.a", b"1");
    for (keep, reason) in [
        (XATTRS, "seems to have no extended attributes"),
        (Keep::default(), "not supported by the other side"),
    ] {
        let fake = FakeServer::start(async |connection| {
            let (request, mut send, _recv) = fake::request(&connection).await;
            assert!(matches!(request, Request::Put(_)), "{request:?}");
            let failure = Failure::new(ErrorCode::UNSUPPORTED);
            fake::send(&mut send, &Reply::<Pong>::Failed(failure)).await;
            send.finish().unwrap();
        });
        let client = fake.client().await;
        let failed = put_tree(&client, &file, "f", keep).await;
        assert!(failed[0].contains(reason), "{failed:?}");
        client.close().await;
        fake.stop().await;
    }
}

// P13
#[tokio::test]
async fn a_server_skips_details_of_a_later_version() {
    let tree = Tree::new();
    let test = TestServer::start(&tree).await;
    let raw = test.raw().await;
    let request = Put {
        details: Some(Box::default()),
        ..put("f", 0)
    };
    // The empty map of details gets a key that nobody knows yet.
    let mut bytes = encoded(request);
    assert_eq!(bytes.pop(), Some(0xa0));
    bytes.extend([0xa1, 0x17, 1]);
    let length = u32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    let trailer = Trailer {
        digest: DigestKind::Xxh3.of(b""),
        grew: false,
    };
    bytes.extend(codec::encode(&trailer).unwrap());
    let reply = raw.ask::<quire_shared::protocol::Changed>(&bytes).await;
    reply.into_result().unwrap();
    raw.close().await;
    let client = test.client().await;
    assert_eq!(fetch(&client, "f").await.unwrap(), b"");
    client.close().await;
    test.stop().await;
}
