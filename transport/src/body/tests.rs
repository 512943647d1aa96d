//! Bodies over a real connection: lengths around every boundary, and every way to end.

use super::blocking::PIECE_FIRST;
use super::*;
use crate::error_code::from_quic;
use crate::loopback::Loopback;
use quire_shared::digest::DigestKind;
use quire_shared::error_code::ErrorCode;
use std::io::Write;

/// Lengths around the boundaries of pieces, and some that need many.
const LENGTHS: [usize; 9] = [
    0,
    1,
    PIECE_FIRST - 1,
    PIECE_FIRST,
    PIECE_FIRST + 1,
    PIECE - 1,
    PIECE,
    PIECE + 1,
    5 * PIECE + 12_345,
];

/// Bytes in which a lost, doubled or swapped piece is detected.
fn content(bytes: usize) -> Vec<u8> {
    (0_u64..).flat_map(u64::to_le_bytes).take(bytes).collect()
}

type TransferResult = (
    Result<Digest, SendBodyError>,
    Result<Received<Vec<u8>>, ReceiveBodyError>,
);

/// Sends `source` as a body of `announced` length; the receiver expects `expected`.
async fn transfer(
    loopback: &Loopback,
    source: impl Read + Send + 'static,
    announced: Length,
    expected: Length,
    kind: DigestKind,
) -> TransferResult {
    let sent = AtomicU64::new(0);
    let received = AtomicU64::new(0);
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        let digest = send(&mut sender, source, announced, kind.hasher(), &sent).await;
        if digest.is_ok() {
            sender.finish().unwrap();
        }
        drop(sender);
        let _ = receiver.expect_end().await;
        digest
    };
    let server = async |mut sender: Sender, mut receiver: Receiver| {
        let body = receive(
            &mut receiver,
            Vec::new(),
            expected,
            kind.hasher(),
            &received,
        )
        .await;
        if body.is_ok() {
            receiver.expect_end().await.unwrap();
        }
        sender.finish().unwrap();
        body
    };
    let (digest, body) = loopback.talk(client, server).await;
    if let (Ok(digest), Ok(body)) = (&digest, &body) {
        // P30
        let mut whole = kind.hasher();
        whole.update(&body.sink);
        assert_eq!((digest, &body.digest), (&whole.finish(), digest));
        assert_eq!(sent.into_inner(), body.length);
        assert_eq!(received.into_inner(), body.length);
    }
    (digest, body)
}

fn assert_whole((digest, body): TransferResult, content: &[u8]) {
    digest.unwrap();
    let body = body.unwrap();
    assert_eq!(body.length, content.len() as u64);
    assert!(
        body.sink == content,
        "a body of {} bytes came out different",
        content.len()
    );
}

#[tokio::test]
async fn bodies_of_declared_length_arrive_whole() {
    let loopback = Loopback::connect().await;
    for bytes in LENGTHS {
        let content = content(bytes);
        let length = Length::Declared(bytes as u64);
        let source = io::Cursor::new(content.clone());
        // A stream without bytes opens with its FIN alone.
        let outcome = transfer(&loopback, source, length, length, DigestKind::Xxh3).await;
        assert_whole(outcome, &content);
    }
}

// P28
#[tokio::test]
async fn bodies_in_pieces_arrive_whole() {
    let loopback = Loopback::connect().await;
    for (bytes, kind) in LENGTHS.into_iter().zip(DigestKind::ALL.into_iter().cycle()) {
        let content = content(bytes);
        let source = io::Cursor::new(content.clone());
        let outcome = transfer(&loopback, source, Length::Pieces, Length::Pieces, kind).await;
        assert_whole(outcome, &content);
    }
}

#[tokio::test]
async fn a_source_with_more_than_the_declared_length_is_cut_there() {
    let loopback = Loopback::connect().await;
    let content = content(PIECE + 2);
    let length = Length::Declared(PIECE as u64 + 1);
    let source = io::Cursor::new(content.clone());
    let outcome = transfer(&loopback, source, length, length, DigestKind::Xxh3).await;
    assert_whole(outcome, &content[..=PIECE]);
}

/// A source that returns little at a time, like a pipe, and optionally ends with an error.
struct Pipe {
    content: io::Cursor<Vec<u8>>,
    fails: bool,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1_000);
        match self.content.read(&mut buffer[..end])? {
            0 if self.fails => Err(io::ErrorKind::BrokenPipe.into()),
            read => Ok(read),
        }
    }
}

#[tokio::test]
async fn a_source_that_gives_little_at_a_time_arrives_whole() {
    let loopback = Loopback::connect().await;
    let bytes = content(PIECE_FIRST + 77);
    let content = io::Cursor::new(bytes.clone());
    let pipe = Pipe {
        content,
        fails: false,
    };
    let outcome = transfer(
        &loopback,
        pipe,
        Length::Pieces,
        Length::Pieces,
        DigestKind::Xxh3,
    )
    .await;
    assert_whole(outcome, &bytes);
}

/// Checks that a body that can't be finished ends with a reset, not with a clean end.
fn assert_reset(body: &Result<Received<Vec<u8>>, ReceiveBodyError>) {
    let Err(ReceiveBodyError::Receive(ReceiveError::Read(quinn::ReadError::Reset(code)))) = body
    else {
        panic!("not reset: {body:?}");
    };
    assert_eq!(from_quic(*code), ErrorCode::CANCELLED);
}

// P7
#[tokio::test]
async fn a_source_with_less_than_the_declared_length_is_reported_and_resets() {
    let loopback = Loopback::connect().await;
    for bytes in [1, PIECE_FIRST, PIECE + 1] {
        let length = Length::Declared(bytes as u64 + 3);
        let source = io::Cursor::new(content(bytes));
        let (digest, body) = transfer(&loopback, source, length, length, DigestKind::Xxh3).await;
        assert!(
            matches!(digest, Err(SendBodyError::Short { missing: 3 })),
            "{digest:?}"
        );
        assert_reset(&body);
    }
}

#[tokio::test]
async fn a_source_that_fails_is_reported_and_resets() {
    let loopback = Loopback::connect().await;
    let content = io::Cursor::new(content(PIECE_FIRST + 1));
    let pipe = Pipe {
        content,
        fails: true,
    };
    let length = Length::Pieces;
    let (digest, body) = transfer(&loopback, pipe, length, length, DigestKind::Xxh3).await;
    let Err(SendBodyError::Disk(error)) = digest else {
        panic!("not reported: {digest:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_reset(&body);
}

// P6
#[tokio::test]
async fn a_body_that_ends_early_is_truncated() {
    let loopback = Loopback::connect().await;
    for missing in [1, PIECE as u64] {
        let source = io::Cursor::new(content(PIECE_FIRST));
        let announced = Length::Declared(PIECE_FIRST as u64);
        let expected = Length::Declared(PIECE_FIRST as u64 + missing);
        let (_, body) = transfer(&loopback, source, announced, expected, DigestKind::Xxh3).await;
        assert!(
            matches!(
                body,
                Err(ReceiveBodyError::Receive(ReceiveError::Truncated))
            ),
            "{body:?}"
        );
    }
}

/// Receives a body in pieces from `raw` bytes on the stream.
async fn receive_pieces(raw: Vec<u8>) -> Result<Received<Vec<u8>>, ReceiveBodyError> {
    let client = async |mut sender: Sender, mut receiver: Receiver| {
        // Fails if the receiver has already stopped the stream.
        let _ = sender.send_bytes(Bytes::from(raw)).await;
        let _ = sender.finish();
        let _ = receiver.expect_end().await;
    };
    let server = async |_sender: Sender, mut receiver: Receiver| {
        let hasher = DigestKind::Xxh3.hasher();
        receive(
            &mut receiver,
            Vec::new(),
            Length::Pieces,
            hasher,
            &AtomicU64::new(0),
        )
        .await
    };
    Loopback::connect().await.talk(client, server).await.1
}

// P6
#[tokio::test]
async fn pieces_that_end_without_an_empty_one_are_truncated() {
    for raw in [
        &[0, 0, 0, 2, 1, 2][..],
        &[0, 0, 0, 2, 1],
        &[0, 0, 0, 2, 1, 2, 0, 0],
    ] {
        let body = receive_pieces(raw.to_vec()).await;
        assert!(
            matches!(
                body,
                Err(ReceiveBodyError::Receive(ReceiveError::Truncated))
            ),
            "{body:?}"
        );
    }
}

// P29
#[tokio::test]
async fn a_piece_over_the_limit_is_refused_and_one_at_the_limit_taken() {
    let limit = u32::try_from(PIECE_BYTES_MAX).unwrap();
    let body = receive_pieces((limit + 1).to_be_bytes().to_vec()).await;
    match body {
        Err(ReceiveBodyError::Receive(ReceiveError::Decode(DecodeError::TooLong {
            bytes,
            limit,
        }))) => assert_eq!((bytes, limit), (PIECE_BYTES_MAX + 1, PIECE_BYTES_MAX)),
        other => panic!("not refused: {other:?}"),
    }
    let content = content(PIECE_BYTES_MAX);
    let raw = [&limit.to_be_bytes(), &*content, &[0; 4]].concat();
    assert!(receive_pieces(raw).await.unwrap().sink == content);
}

impl HoleWrite for Vec<u8> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        extents::write_zeros(self, bytes)
    }
}

/// A disk with room for some bytes only.
#[derive(Debug)]
struct FullDisk(usize);

impl Write for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_sink_that_fails_is_reported_and_stops_the_sender() {
    let loopback = Loopback::connect().await;
    let length = Length::Declared(u64::MAX);
    let client = async |mut sender: Sender, _receiver: Receiver| {
        let hasher = DigestKind::Xxh3.hasher();
        send(
            &mut sender,
            io::repeat(7),
            length,
            hasher,
            &AtomicU64::new(0),
        )
        .await
    };
    let server = async |_sender: Sender, mut receiver: Receiver| {
        let sink = extents::Filled(FullDisk(2 * PIECE));
        let hasher = DigestKind::Xxh3.hasher();
        receive(&mut receiver, sink, length, hasher, &AtomicU64::new(0)).await
    };
    let (digest, body) = loopback.talk(client, server).await;
    let Err(ReceiveBodyError::Disk(error)) = body else {
        panic!("not reported: {body:?}");
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let Err(SendBodyError::Send(SendError::Write(quinn::WriteError::Stopped(code)))) = digest
    else {
        panic!("not stopped: {digest:?}");
    };
    assert_eq!(from_quic(code), ErrorCode::CANCELLED);
}
