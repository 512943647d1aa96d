//! Bodies on their way to a server that takes them, or doesn't.

use std::fs;
use std::io::Read;
use std::sync::atomic::AtomicU64;

use quire_client::ClientError;
use quire_client::upload::{Links, LocalFile, UploadBody};
use quire_shared::ErrorCode;
use quire_shared::protocol::{Changed, Reply, Request, Trailer};
use quire_transport::error_code::from_quic;
use quire_transport::stream::Receiver;

use quire_test_harness::fake::FakeConnection;

use crate::{failed, put, trailer, version};

#[tokio::test]
async fn a_put_stops_when_it_is_refused_early() {
    for stops in [true, false] {
        let pair = FakeConnection::open().await;
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
            let endless = UploadBody::stream(std::io::repeat(7), "endless");
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
    let pair = FakeConnection::open().await;
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
        .put(put(Some(5)), UploadBody::stream(content, "hello"), &moved);
    let (stored, ()) = tokio::join!(offer, serve);
    assert_eq!(stored.unwrap().version, version());
    assert_eq!(moved.into_inner(), 5);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_not_published() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    fs::write(&file, "hello").unwrap();
    let pair = FakeConnection::open().await;
    let opened = LocalFile::open(&file, Links::Follow).await.unwrap();
    let request = put(Some(opened.size()));
    fs::write(&file, "hel").unwrap();
    let serve = async {
        let (_send, recv) = pair.server.accept_bi().await.unwrap();
        // A reset may overtake the request itself.
        let mut receiver = Receiver::new(recv, &pair.flow());
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
    let stored = stored.unwrap_err();
    assert!(matches!(&stored, ClientError::LocalChanged(path) if *path == file));
    let quire_transport::stream::ReceiveError::Read(quinn::ReadError::Reset(code)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(from_quic(code), ErrorCode::CHANGED);
}

#[tokio::test]
async fn a_source_that_fails_is_named() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("no more"))
        }
    }
    let pair = FakeConnection::open().await;
    let moved = AtomicU64::new(0);
    let offer = pair
        .client
        .put(put(None), UploadBody::stream(Broken, "broken"), &moved);
    // The request itself need not arrive: the reset that follows at once may overtake it.
    let (stored, _stream) = tokio::join!(offer, pair.server.accept_bi());
    let error = stored.unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
}
