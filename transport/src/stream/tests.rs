//! Messages and ends of streams over a real connection.

use super::*;
use crate::error_code::from_quic;
use crate::loopback::Loopback;
use quire_shared::limits::REQUEST_BYTES_MAX;
use quire_shared::protocol::{Done, Failure, Ping, Reply, Request};

fn ping() -> Request {
    Ping::default().into()
}

#[tokio::test]
async fn a_request_is_answered_on_its_stream() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        sender.finish().unwrap();
        let reply: Reply<Done> = receiver.receive().await.unwrap();
        receiver.expect_end().await.unwrap();
        reply
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        let request: Request = receiver.receive().await.unwrap();
        receiver.expect_end().await.unwrap();
        sender.send(&Reply::Ok(Done {})).await.unwrap();
        sender.finish_and_wait().await.unwrap();
        request
    };
    let (reply, request) = loopback.talk(client, server).await;
    assert_eq!((reply, request), (Reply::Ok(Done {}), ping()));
}

// P7
#[tokio::test]
async fn a_dropped_sender_resets_the_stream() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        receiver.receive::<Reply<Done>>().await
    };
    let server = async |sender: Sender, mut receiver: Receiver| {
        receiver.receive::<Request>().await.unwrap();
        drop(sender);
        // Keeps the receiver alive, so that only the drop of the sender has an effect.
        receiver.expect_end().await
    };
    let (reply, _) = loopback.talk(client, server).await;
    assert_reset(reply, ErrorCode::CANCELLED);
}

// P7
#[tokio::test]
async fn a_reset_carries_its_code_even_after_a_message() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        receiver.receive::<Reply<Done>>().await.unwrap();
        sender.finish().unwrap();
        receiver.expect_end().await
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&Reply::Ok(Done {})).await.unwrap();
        receiver.receive::<Request>().await.unwrap();
        receiver.expect_end().await.unwrap();
        sender.reset(ErrorCode::CHANGED);
    };
    let (end, ()) = loopback.talk(client, server).await;
    assert_reset(end, ErrorCode::CHANGED);
}

fn assert_reset<T: std::fmt::Debug>(result: Result<T, ReceiveError>, code: ErrorCode) {
    match result {
        Err(ReceiveError::Read(quinn::ReadError::Reset(number))) => {
            assert_eq!(from_quic(number), code);
        }
        other => panic!("not a reset: {other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_receiver_stops_the_stream_with_a_code() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        let code = sender.stream.stopped().await.unwrap().unwrap();
        (
            from_quic(code),
            receiver.receive::<Reply<Done>>().await.unwrap(),
        )
    };
    // P8
    let server = async |mut sender: Sender, receiver: Receiver| {
        drop(receiver);
        let refused = Reply::Failed(Failure::new(ErrorCode::NO_SPACE));
        sender.send::<Reply<Done>>(&refused).await.unwrap();
        sender.finish_and_wait().await.unwrap();
        refused
    };
    let ((code, reply), sent) = loopback.talk(client, server).await;
    assert_eq!(code, ErrorCode::CANCELLED);
    assert_eq!(reply, sent, "the other direction is not affected");
}

// P6
#[tokio::test]
async fn a_clean_end_in_a_message_is_an_error() {
    let whole = codec::encode(&ping()).unwrap();
    let loopback = Loopback::connect().await;
    for end in 0..whole.len() {
        let part = Bytes::copy_from_slice(&whole[..end]);
        let client = async |mut sender: Sender, mut receiver: Receiver| {
            sender.send_bytes(part).await.unwrap();
            sender.finish().unwrap();
            let _ = receiver.expect_end().await;
        };
        let server = async |mut sender: Sender, mut receiver: Receiver| {
            let request = receiver.receive::<Request>().await;
            sender.finish().unwrap();
            request
        };
        let ((), request) = loopback.talk(client, server).await;
        assert!(
            matches!(request, Err(ReceiveError::Truncated)),
            "after {end} bytes: {request:?}"
        );
    }
}

// P11
#[tokio::test]
async fn a_length_over_the_limit_is_refused_without_waiting_for_the_bytes() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender
            .send_bytes(Bytes::from_static(&[0xff; 4]))
            .await
            .unwrap();
        receiver.expect_end().await.unwrap();
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        let request = receiver.receive::<Request>().await;
        sender.finish().unwrap();
        request
    };
    let ((), request) = loopback.talk(client, server).await;
    match request {
        Err(ReceiveError::Decode(DecodeError::TooLong { bytes, limit })) => {
            assert_eq!((bytes, limit), (u32::MAX as usize, REQUEST_BYTES_MAX));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn bytes_after_the_last_message_are_an_error() {
    let loopback = Loopback::connect().await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        sender.send_bytes(Bytes::from_static(&[0])).await.unwrap();
        sender.finish().unwrap();
        receiver.expect_end().await.unwrap();
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        receiver.receive::<Request>().await.unwrap();
        let end = receiver.expect_end().await;
        sender.finish().unwrap();
        end
    };
    let ((), end) = loopback.talk(client, server).await;
    assert!(matches!(
        end,
        Err(ReceiveError::Decode(DecodeError::TrailingBytes))
    ));
}

#[tokio::test]
async fn a_body_with_lost_packets_is_reassembled_with_and_without_memory() {
    let body: Bytes = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    for budget in [u64::MAX / 2, 0] {
        let loopback = Loopback::connect_lossy(budget).await;
        let client = async |mut sender: Sender, mut receiver: Receiver| {
            receiver.has_gaps = true;
            sender.send(&ping()).await.unwrap();
            sender.finish().unwrap();
            let mut got = Vec::new();
            while let Some(bytes) = receiver.receive_bytes(usize::MAX).await.unwrap() {
                got.extend(bytes);
            }
            (got, receiver.unordered.is_unordered())
        };
        let server = async |mut sender: Sender, mut receiver: Receiver| {
            receiver.receive::<Request>().await.unwrap();
            sender.set_priority(Priority::Bulk);
            sender.send_bytes(body.clone()).await.unwrap();
            sender.finish_and_wait().await.unwrap();
        };
        let ((got, is_unordered), ()) = loopback.talk(client, server).await;
        assert!(got == body, "{} bytes, some of them wrong", got.len());
        assert!(is_unordered);
        assert!(loopback.server.stats().path.lost_packets > 10);
    }
}

#[tokio::test]
async fn a_slow_reader_gets_bounded_pieces() {
    let loopback = Loopback::connect().await;
    let body: Bytes = (0..6_000_000_u32).map(|at| (at % 251) as u8).collect();
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        sender.send(&ping()).await.unwrap();
        sender.finish().unwrap();
        // Waits until all of it has arrived.
        while loopback.client.stats().udp_rx.bytes < body.len() as u64 {
            tokio::task::yield_now().await;
        }
        let mut buffer = MessageBuffer::default();
        let mut most = 0;
        let mut got = Vec::new();
        while receiver.receive_into(&mut buffer).await.unwrap() {
            most = most.max(buffer.len());
            let length = buffer.len();
            got.extend(buffer.body(length).unwrap());
        }
        (got, most)
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        receiver.receive::<Request>().await.unwrap();
        sender.send_bytes(body.clone()).await.unwrap();
        sender.finish_and_wait().await.unwrap();
    };
    let ((got, most), ()) = loopback.talk(client, server).await;
    assert!(got == body, "{} bytes, some of them wrong", got.len());
    assert!(most <= 64 * 1024, "{most} bytes at once");
}

#[tokio::test]
async fn a_reset_is_reported_in_unordered_reads_too() {
    let loopback = Loopback::connect_lossy(0).await;
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        receiver.has_gaps = true;
        sender.send(&ping()).await.unwrap();
        loop {
            match receiver.receive_bytes(usize::MAX).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a clean end"),
                Err(error) => return (Err::<(), _>(error), receiver.unordered.is_unordered()),
            }
        }
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        receiver.receive::<Request>().await.unwrap();
        sender.set_priority(Priority::Bulk);
        let body = Bytes::from(vec![0; 4_000_000]);
        sender.send_bytes(body).await.unwrap();
        sender.reset(ErrorCode::CHANGED);
        let _ = receiver.expect_end().await;
    };
    let ((result, is_unordered), ()) = loopback.talk(client, server).await;
    assert_reset(result, ErrorCode::CHANGED);
    assert!(is_unordered);
}

// P5
#[tokio::test]
async fn there_are_no_other_streams_and_no_datagrams() {
    let loopback = Loopback::connect().await;
    let refused = async |opening: &mut (dyn Future<Output = ()> + Unpin)| {
        tokio::select! {
            biased;
            () = opening => panic!("opened"),
            () = tokio::task::yield_now() => {}
        }
    };
    for connection in [&loopback.client, &loopback.server] {
        let mut opening = Box::pin(async {
            let _ = connection.open_uni().await;
        });
        refused(&mut opening).await;
        assert_eq!(connection.max_datagram_size(), None);
    }
    let mut opening = Box::pin(async {
        let _ = loopback.server.open_bi().await;
    });
    refused(&mut opening).await;
}

#[test]
fn messages_go_ahead_of_small_bodies_and_those_ahead_of_bulk() {
    assert!(Priority::Control > Priority::Small && Priority::Small > Priority::Bulk);
    assert_eq!(Priority::of_body(Some(0)), Priority::Small);
    assert_eq!(
        Priority::of_body(Some(SMALL_BODY_BYTES_MAX)),
        Priority::Small
    );
    assert_eq!(
        Priority::of_body(Some(SMALL_BODY_BYTES_MAX + 1)),
        Priority::Bulk
    );
    assert_eq!(Priority::of_body(None), Priority::Bulk);
}
