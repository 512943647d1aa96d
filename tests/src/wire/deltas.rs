//! Lists of chunks, and uploads that are made of them, byte by byte.

use quinn::{RecvStream, SendStream};
use quire_shared::ErrorCode;
use quire_shared::chunks::Chunk;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Changed, ChunkHead, ChunkPage, Chunks, CopyStep, DataStep, DeltaStep, Precondition, PutDelta,
    Reply, Trailer, Version,
};
use quire_test_harness::client::{path, put, store, version};
use quire_test_harness::raw::{message, refusal_on, reply};
use quire_test_harness::{Raw, TestServer, Tree, assert_same, content, within};

const MIB: usize = 1024 * 1024;

/// The list of the chunks of `file`.
async fn list(raw: &Raw, file: &str) -> (ChunkHead, Vec<Chunk>, Vec<u8>) {
    let (_send, mut recv) = raw.begin(chunks_of(file)).await;
    let first = page(&mut recv).await;
    assert!(first.chunks.is_empty() && first.digest.is_none());
    let mut found = Vec::new();
    loop {
        let page = page(&mut recv).await;
        assert_eq!(page.head, None);
        found.extend(page.chunks.iter());
        if let Some(digest) = page.digest {
            return (first.head.unwrap(), found, digest.as_bytes().to_vec());
        }
        assert!(!page.chunks.is_empty());
    }
}

fn chunks_of(file: &str) -> Chunks {
    Chunks {
        path: path(file),
        digest: DigestKind::Blake3,
        precondition: Precondition::Any,
    }
}

async fn page(recv: &mut RecvStream) -> ChunkPage {
    reply(recv).await.unwrap().into_result().unwrap()
}

// P53
#[tokio::test]
async fn a_list_has_all_chunks_of_one_state() {
    let sizes = [0, 1, 3 * MIB + 1, 70 * MIB];
    let contents = sizes.map(|size| content(5, size));
    let mut tree = Tree::new();
    for (number, bytes) in contents.iter().enumerate() {
        tree = tree.file(&format!("f{number}"), bytes);
    }
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    // The second time it may be remembered.
    for _ in 0..2 {
        for (number, bytes) in contents.iter().enumerate() {
            let file = format!("f{number}");
            let (head, found, digest) = list(&raw, &file).await;
            assert_eq!(head.size, bytes.len() as u64);
            assert_eq!(head.version, version(&client, &file).await);
            assert_eq!(found, content::chunks_of(bytes));
            assert_eq!(digest, DigestKind::Blake3.of(bytes).as_bytes());
        }
    }
    // Another state has another list.
    store(&client, "f2", &contents[3]).await.unwrap();
    assert_eq!(list(&raw, "f2").await.1, content::chunks_of(&contents[3]));
    client.close().await;
    raw.close().await;
    server.stop().await;
}

// P53
#[tokio::test]
async fn a_list_of_a_file_that_changes_has_no_end() {
    let tree = Tree::new().file("f", "");
    let sparse = std::fs::File::options().write(true).open(tree.path("f"));
    let sparse = sparse.unwrap();
    sparse.set_len(1 << 30).unwrap();
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let (_send, mut recv) = raw.begin(chunks_of("f")).await;
    while page(&mut recv).await.chunks.is_empty() {}
    sparse.set_len((1 << 30) + 1).unwrap();
    let end = async {
        loop {
            match reply::<ChunkPage>(&mut recv).await {
                Ok(Reply::Ok(page)) => assert_eq!(page.digest, None),
                _ => return,
            }
        }
    };
    within("the end of the list", end).await;
    raw.close().await;
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_what_is_no_such_file_is_refused() {
    let tree = Tree::new().file("f", "content").directory("d");
    let server = TestServer::start(&tree).await;
    let raw = server.raw().await;
    let of = |file: &str, precondition| Chunks {
        precondition,
        ..chunks_of(file)
    };
    let other = Precondition::Match(Version::new(b"other").unwrap());
    let huge = std::fs::File::create(tree.path("huge")).unwrap();
    huge.set_len((1 << 40) + 1).unwrap();
    for (request, code) in [
        (of("d", Precondition::Any), ErrorCode::IS_DIRECTORY),
        (of("g", Precondition::Any), ErrorCode::NOT_FOUND),
        (of("f", Precondition::Absent), ErrorCode::EXISTS),
        (of("f", other), ErrorCode::CONFLICT),
        (of("huge", Precondition::Any), ErrorCode::LIMIT),
    ] {
        let (_send, mut recv) = raw.begin(request).await;
        assert_eq!(refusal_on(&mut recv).await, code);
    }
    raw.close().await;
    server.stop().await;
}

/// What a test sends after the request.
enum Sent<'a> {
    Copy(u64, u64),
    Data(u64, &'a [u8]),
    /// A trailer with the digest of these bytes.
    End(&'a [u8]),
}

/// Asks for a file of `size` bytes made of `base`, and sends `parts`.
async fn upload(
    raw: &Raw,
    base: &Version,
    size: Option<usize>,
    parts: &[Sent<'_>],
) -> (SendStream, RecvStream) {
    let mut put = put("f", size.unwrap_or(0));
    put.size = size.map(|size| size as u64);
    let base = base.clone();
    let (mut send, recv) = raw.begin(PutDelta { put, base }).await;
    let mut bytes = Vec::new();
    for part in parts {
        match *part {
            Sent::Copy(offset, length) => {
                let step = DeltaStep::Copy(CopyStep { offset, length });
                codec::append(&step, &mut bytes).unwrap();
            }
            Sent::Data(length, data) => {
                let step = DeltaStep::Data(DataStep { length });
                codec::append(&step, &mut bytes).unwrap();
                bytes.extend_from_slice(data);
            }
            Sent::End(of) => {
                let digest = DigestKind::Xxh3.of(of);
                let trailer = Trailer {
                    digest,
                    grew: false,
                };
                codec::append(&trailer, &mut bytes).unwrap();
            }
        }
    }
    // A server that refuses stops reading.
    let _ = send.write_all(&bytes).await;
    let _ = send.finish();
    (send, recv)
}

#[tokio::test]
async fn a_file_is_made_of_ranges_and_new_bytes() {
    let old = content(1, 9 * MIB + 5);
    let tree = Tree::new().file("f", &old);
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    let new = [&old[MIB + 1..], b"new", &old[..7 * MIB], &old[5..6]].concat();
    let parts = [
        Sent::Copy(MIB as u64 + 1, (old.len() - MIB - 1) as u64),
        Sent::Data(3, b"new"),
        Sent::Copy(0, 7 * MIB as u64),
        Sent::Copy(5, 1),
        Sent::End(&new),
    ];
    let base = version(&client, "f").await;
    let (_send, mut recv) = upload(&raw, &base, Some(new.len()), &parts).await;
    let changed: Changed = message::<Reply<_>>(&mut recv)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    assert_same(tree.read("f"), &new);
    assert_eq!(changed.version, version(&client, "f").await);
    // Nothing at all is a file as well.
    let (_send, mut recv) = upload(&raw, &changed.version, Some(0), &[Sent::End(b"")]).await;
    assert!(matches!(
        reply::<Changed>(&mut recv).await,
        Ok(Reply::Ok(_))
    ));
    assert_eq!(tree.read("f"), b"");
    client.close().await;
    raw.close().await;
    server.stop().await;
}

// P55
#[tokio::test]
async fn only_the_version_that_was_named_is_copied() {
    let tree = Tree::new().file("f", "old content");
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    let base = version(&client, "f").await;
    // Replaced after the request: the old one is copied, and takes the place of the other.
    let request = PutDelta {
        put: put("f", 3),
        base: base.clone(),
    };
    let (mut send, mut recv) = raw.begin(request).await;
    let staged = async {
        while !tree.path(".quire-staging").exists() {
            tokio::task::yield_now().await;
        }
    };
    within("a staged file", staged).await;
    store(&client, "f", b"another").await.unwrap();
    let copy = DeltaStep::Copy(CopyStep {
        offset: 0,
        length: 3,
    });
    let digest = DigestKind::Xxh3.of(b"old");
    let trailer = Trailer {
        digest,
        grew: false,
    };
    let rest = [
        codec::encode(&copy).unwrap(),
        codec::encode(&trailer).unwrap(),
    ];
    send.write_all(&rest.concat()).await.unwrap();
    send.finish().unwrap();
    let stored = reply::<Changed>(&mut recv).await.unwrap();
    assert!(matches!(stored, Reply::Ok(_)), "{stored:?}");
    assert_eq!(tree.read("f"), b"old");
    // Replaced before it.
    let (_send, mut recv) = upload(&raw, &base, Some(3), &[]).await;
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::CONFLICT);
    client.close().await;
    raw.close().await;
    server.stop().await;
}

// P56
#[tokio::test]
async fn steps_that_pass_an_end_are_refused() {
    let old = b"0123456789";
    let tree = Tree::new().file("f", old);
    let server = TestServer::start(&tree).await;
    let (raw, client) = (server.raw().await, server.client().await);
    let base = version(&client, "f").await;
    let all = Sent::Copy(0, 10);
    for (parts, code) in [
        (vec![Sent::Copy(0, 11)], ErrorCode::RANGE),
        (vec![Sent::Copy(10, 1)], ErrorCode::RANGE),
        (vec![Sent::Copy(u64::MAX, 2)], ErrorCode::RANGE),
        (vec![Sent::Copy(5, u64::MAX)], ErrorCode::RANGE),
        (vec![Sent::Copy(3, 0)], ErrorCode::MALFORMED),
        (vec![Sent::Data(0, b"")], ErrorCode::MALFORMED),
        (vec![Sent::Data(13, b"0123456789abc")], ErrorCode::DAMAGED),
        (vec![Sent::Data(u64::MAX, b"x")], ErrorCode::DAMAGED),
        (
            vec![Sent::Copy(0, 10), Sent::Copy(0, 3)],
            ErrorCode::DAMAGED,
        ),
        // Too little, and then nothing.
        (vec![Sent::Copy(0, 10)], ErrorCode::MALFORMED),
        (vec![Sent::Data(12, b"x")], ErrorCode::MALFORMED),
        // Other bytes than the digest says.
        (
            vec![Sent::Copy(0, 10), Sent::Copy(0, 2), Sent::End(b"x")],
            ErrorCode::DAMAGED,
        ),
        // More than the trailer.
        (
            vec![
                all,
                Sent::Copy(0, 2),
                Sent::End(b"012345678901"),
                Sent::End(b""),
            ],
            ErrorCode::MALFORMED,
        ),
    ] {
        let (_send, mut recv) = upload(&raw, &base, Some(12), &parts).await;
        assert_eq!(refusal_on(&mut recv).await, code);
        assert_eq!(tree.read("f"), old);
    }
    let (_send, mut recv) = upload(&raw, &base, None, &[]).await;
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::MALFORMED);
    client.close().await;
    raw.close().await;
    server.stop().await;
}
