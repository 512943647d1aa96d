//! Transfers that move only what changed.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use quire_client::download::{Fetched, PartUse};
use quire_client::upload::Stored;
use quire_client::{Client, Delta};
use quire_shared::ErrorCode;
use quire_shared::chunks::{Chunk, ChunkParameters};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Attributes, Changed, ChunkHead, ChunkPage, Done, EntryKind, Failure, GetHeader, Message,
    PutDelta, Reply, Request, Time, Trailer, Version,
};
use quire_test_harness::client::{path, put, version};
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::programs::Programs;
use quire_test_harness::raw::refusal_on;
use quire_test_harness::relay::{NetworkPath, Relay};
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::{TestServer, Tree, assert_same, content};

const MIB: usize = 1024 * 1024;

/// Size of the older version.
const SIZE: usize = 12 * MIB;

/// Most bytes that travel for a small change, both ways: some chunks and the list of all.
const CHANGE_BYTES_MAX: u64 = 1024 * 1024;

/// Versions of a file that differ a little from the older one.
fn edits(old: &[u8]) -> [(&'static str, Vec<u8>); 7] {
    let new = content(2, 100_000);
    let middle = old.len() / 2 + 1;
    let mut changed = old.to_vec();
    changed[middle..middle + 9].copy_from_slice(b"different");
    [
        ("inserted", [&old[..middle], &new, &old[middle..]].concat()),
        ("appended", [old, &new].concat()),
        ("prepended", [&new, old].concat()),
        ("truncated", old[..old.len() - 100_000].to_vec()),
        (
            "cut out",
            [&old[..middle], &old[middle + 99_999..]].concat(),
        ),
        ("changed", changed),
        ("touched", old.to_vec()),
    ]
}

/// A server with the older version, and a client over a relay that counts.
struct Counted {
    tree: Tree,
    server: TestServer,
    relay: Relay,
    client: Client,
    local: tempfile::TempDir,
}

impl Counted {
    async fn new(there: &[u8], here: &[u8]) -> Self {
        let tree = Tree::new().file("f", there);
        let server = TestServer::start(&tree).await;
        let relay = Relay::start(server.address(), NetworkPath::GOOD, 1).await;
        let connector = server.connector(relay.address(), &server.keys().writer);
        let client = connector.connect().await.unwrap();
        let local = scratch();
        let counted = Self {
            tree,
            server,
            relay,
            client,
            local,
        };
        fs::write(counted.target(), here).unwrap();
        counted
    }

    fn target(&self) -> PathBuf {
        self.local.path().join("f")
    }

    async fn put(&self, delta: Delta) -> Stored {
        let upload = self.client.upload(path("f")).overwrite(true).delta(delta);
        upload.from_file(self.target()).await.unwrap()
    }

    async fn get(&self, delta: Delta) -> Fetched {
        let download = self.client.download(path("f")).overwrite(true).delta(delta);
        download.to_file(self.target()).await.unwrap()
    }

    fn assert_same(&self, content: &[u8]) {
        assert_same(self.tree.read("f"), content);
        assert_same(fs::read(self.target()).unwrap(), content);
        assert_eq!(names(self.local.path()), ["f"]);
    }

    fn travelled(&self) -> u64 {
        self.relay.come().iter().sum()
    }

    async fn end(self) {
        self.client.close().await;
        self.server.stop().await;
    }
}

#[tokio::test]
async fn a_put_sends_only_what_changed() {
    let old = content(1, SIZE);
    for (edit, new) in edits(&old) {
        let counted = Counted::new(&old, &new).await;
        let stored = counted.put(Delta::Always).await;
        let PartUse::Copied(copied) = stored.part else {
            panic!("{edit}: {:?}", stored.part);
        };
        let travelled = counted.travelled();
        assert!(travelled < CHANGE_BYTES_MAX, "{edit}: {travelled}");
        assert!(copied + CHANGE_BYTES_MAX > new.len() as u64, "{edit}");
        assert_eq!(stored.bytes, new.len() as u64);
        assert_eq!(stored.digest, DigestKind::Xxh3.of(&new));
        assert_eq!(stored.version, version(&counted.client, "f").await);
        counted.assert_same(&new);
        counted.end().await;
    }
}

// P57
#[tokio::test]
async fn a_get_fetches_only_what_changed() {
    let old = content(1, SIZE);
    for (edit, new) in edits(&old) {
        let counted = Counted::new(&new, &old).await;
        let fetched = counted.get(Delta::Always).await;
        let PartUse::Copied(copied) = fetched.part else {
            panic!("{edit}: {:?}", fetched.part);
        };
        let travelled = counted.travelled();
        assert!(travelled < CHANGE_BYTES_MAX, "{edit}: {travelled}");
        assert!(copied + CHANGE_BYTES_MAX > new.len() as u64, "{edit}");
        assert_eq!(fetched.bytes, new.len() as u64);
        assert_eq!(fetched.digest, DigestKind::Xxh3.of(&new));
        assert_eq!(fetched.version, version(&counted.client, "f").await);
        counted.assert_same(&new);
        let time = |path: PathBuf| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(counted.target()), time(counted.tree.path("f")));
        counted.end().await;
    }
}

#[tokio::test]
async fn files_with_little_in_common_travel_whole() {
    let (one, other) = (content(1, SIZE), content(2, SIZE));
    let counted = Counted::new(&one, &other).await;
    assert_eq!(counted.put(Delta::Always).await.part, PartUse::None);
    counted.assert_same(&other);
    fs::write(counted.target(), &one).unwrap();
    assert_eq!(counted.get(Delta::Always).await.part, PartUse::None);
    counted.assert_same(&other);
    assert!(counted.travelled() > 2 * SIZE as u64);
    counted.end().await;
}

#[tokio::test]
async fn the_comparison_can_be_forbidden_and_is_left_out_on_a_local_network() {
    let old = content(1, SIZE);
    let new = [&old[..], b"new"].concat();
    for delta in [Delta::Never, Delta::Auto] {
        let counted = Counted::new(&old, &new).await;
        // On a busy machine the way through the relay may be as long as a real one.
        let is_left_out = delta == Delta::Never || counted.client.flow().is_local();
        let stored = counted.put(delta).await;
        assert!(!is_left_out || stored.part == PartUse::None, "{delta:?}");
        fs::write(counted.target(), &old).unwrap();
        let fetched = counted.get(delta).await;
        assert!(!is_left_out || fetched.part == PartUse::None, "{delta:?}");
        counted.assert_same(&new);
        counted.end().await;
    }
}

#[tokio::test]
async fn on_a_longer_path_large_files_are_compared_by_themselves() {
    let far = NetworkPath {
        delay: std::time::Duration::from_millis(10),
        ..NetworkPath::GOOD
    };
    let old = content(1, SIZE);
    let new = [&old[..], b"new"].concat();
    let tree = Tree::new().file("f", &old).file("small", &old[..7 * MIB]);
    let server = TestServer::start(&tree).await;
    let relay = Relay::start(server.address(), far, 1).await;
    let connector = server.connector(relay.address(), &server.keys().writer);
    let client = connector.connect().await.unwrap();
    let local = scratch();
    let source = local.path().join("f");
    fs::write(&source, &new).unwrap();
    let upload = |name: &str| client.upload(path(name)).overwrite(true);
    let stored = upload("f").from_file(&source).await.unwrap();
    assert!(matches!(stored.part, PartUse::Copied(_)), "{stored:?}");
    let stored = upload("small").from_file(&source).await.unwrap();
    assert_eq!(stored.part, PartUse::None);
    client.close().await;
    server.stop().await;
}

#[tokio::test]
async fn who_may_not_read_a_file_sends_it_whole() {
    let old = content(1, 2 * MIB);
    let tree = Tree::new().file("f", &old);
    let server = TestServer::builder(&tree).anonymous("put").start().await;
    let client = server.connect(&server.keys().stranger).await.unwrap();
    let raw = quire_test_harness::Raw::connect(&server, &server.keys().stranger).await;
    let new = [&old[..], b"new"].concat();
    let local = scratch();
    let source = local.path().join("f");
    fs::write(&source, &new).unwrap();
    let writer = server.client().await;
    let base = version(&writer, "f").await;
    let request = PutDelta {
        put: put("f", 1),
        base,
    };
    let (_send, mut recv) = raw.begin(request).await;
    assert_eq!(refusal_on(&mut recv).await, ErrorCode::NOT_FOUND);
    let upload = client.upload(path("f")).overwrite(true);
    let stored = upload.delta(Delta::Always).from_file(&source).await;
    assert_eq!(stored.unwrap().part, PartUse::None);
    assert_same(tree.read("f"), &new);
    for client in [client, writer] {
        client.close().await;
    }
    raw.close().await;
    server.stop().await;
}

/// What a fake server has.
struct FakeFile {
    content: Vec<u8>,
    /// The chunks that it says the file has, and the digest.
    list: Option<(Vec<Chunk>, Vec<u8>)>,
}

impl FakeFile {
    /// Starts a server that answers what it doesn't lie about; `None` for the list of one that knows
    /// no chunks. Uploads end up in `stored`.
    fn serve(self, stored: &'static Mutex<Vec<u8>>) -> FakeServer {
        FakeServer::start(async move |connection| {
            while let Ok((send, recv)) = connection.accept_bi().await {
                self.answer(send, recv, stored).await;
            }
        })
    }

    async fn answer(
        &self,
        mut send: quinn::SendStream,
        mut recv: quinn::RecvStream,
        stored: &Mutex<Vec<u8>>,
    ) {
        let version = Version::new(b"v").unwrap();
        let size = self.content.len() as u64;
        let modified = Time {
            seconds: 1,
            nanoseconds: 0,
        };
        let request: Request = quire_test_harness::raw::message(&mut recv).await.unwrap();
        match (request, &self.list) {
            (Request::Chunks(_), Some((chunks, digest))) => {
                let head = ChunkHead {
                    version,
                    size: chunks.iter().map(|chunk| u64::from(chunk.length)).sum(),
                    parameters: ChunkParameters::for_size(size).unwrap(),
                };
                let page = ChunkPage {
                    head: Some(head),
                    chunks: chunks.iter().copied().collect(),
                    digest: Some(DigestKind::Xxh3.of(digest)),
                };
                say(&mut send, &Reply::Ok(page)).await;
            }
            (Request::Stat(_), _) => {
                let attributes = Attributes {
                    kind: EntryKind::File,
                    size,
                    modified,
                    mode: 0o644,
                    version,
                    target: None,
                    details: None,
                    hard_link: None,
                };
                say(&mut send, &Reply::Ok(attributes)).await;
            }
            (Request::Get(get), _) => {
                let start = usize::try_from(get.offset).unwrap();
                let length = get.length.map_or(size - get.offset, |length| length);
                let body = &self.content[start..start + usize::try_from(length).unwrap()];
                let header = GetHeader {
                    version,
                    size,
                    length,
                    modified,
                    mode: 0o644,
                    in_extents: false,
                    details: None,
                };
                fake::send(&mut send, &Reply::Ok(header)).await;
                send.write_all(body).await.unwrap();
                let (digest, grew) = (get.digest.of(body), false);
                say(&mut send, &Reply::Ok(Trailer { digest, grew })).await;
            }
            (Request::Put(put), _) => {
                let mut body = vec![0; usize::try_from(put.size.unwrap()).unwrap()];
                recv.read_exact(&mut body).await.unwrap();
                let _ = recv.read_to_end(1000).await;
                *stored.lock().unwrap() = body;
                say(&mut send, &Reply::Ok(Changed { version })).await;
            }
            (request, list) => {
                let code = match (request, list) {
                    (Request::PutDelta(_), Some(_)) => ErrorCode::CONFLICT,
                    _ => ErrorCode::UNSUPPORTED,
                };
                say(&mut send, &Reply::<Done>::Failed(Failure::new(code))).await;
                let _ = recv.read_to_end(usize::MAX).await;
            }
        }
    }
}

/// Sends the last message of a stream.
async fn say<M: Message>(send: &mut quinn::SendStream, message: &M) {
    fake::send(send, message).await;
    send.finish().unwrap();
}

// P57
#[tokio::test]
async fn a_list_that_is_not_that_of_the_file_is_noticed() {
    let old = content(1, 2 * MIB);
    let new = [&old[..], b"new"].concat();
    let right = content::chunks_of(&new);
    let mut swapped = right.clone();
    swapped.swap(1, 2);
    let mut other_id = right.clone();
    other_id[0].id = right[1].id;
    let mut unknown = right.clone();
    unknown[3].id = quire_shared::chunks::ChunkId::of(b"unknown");
    for (lie, list, digest) in [
        ("nothing", right.clone(), &new),
        ("the digest", right, &old),
        ("the order", swapped, &new),
        ("a chunk", other_id, &new),
        ("a chunk that nobody has", unknown, &new),
        ("all", content::chunks_of(&old), &old),
    ] {
        let fake = FakeFile {
            content: new.clone(),
            list: Some((list, digest.clone())),
        };
        let fake = fake.serve(Box::leak(Box::default()));
        let client = fake.client().await;
        let local = scratch();
        let target = local.path().join("f");
        fs::write(&target, &old).unwrap();
        let download = client.download(path("f")).overwrite(true);
        let fetched = download.delta(Delta::Always).to_file(&target).await;
        let part = fetched
            .unwrap_or_else(|error| panic!("{lie}: {error}"))
            .part;
        match lie {
            // The list of another version whose digest is right as well is that version.
            "all" => assert_same(fs::read(&target).unwrap(), &old),
            // Where a chunk is fetched by its place, what its identifier says doesn't matter.
            "nothing" | "a chunk that nobody has" => {
                assert!(matches!(part, PartUse::Copied(_)), "{lie}");
                assert_same(fs::read(&target).unwrap(), &new);
            }
            _ => {
                assert_eq!(part, PartUse::None, "{lie}");
                assert_same(fs::read(&target).unwrap(), &new);
            }
        }
        assert_eq!(names(local.path()), ["f"]);
        client.close().await;
        fake.stop().await;
    }
}

#[tokio::test]
async fn a_server_without_chunks_or_with_another_base_gets_the_whole_file() {
    let old = content(1, 2 * MIB);
    let new = [&old[..], b"new"].concat();
    for list in [None, Some((content::chunks_of(&old), old.clone()))] {
        let stored: &'static Mutex<Vec<u8>> = Box::leak(Box::default());
        let knows_chunks = list.is_some();
        let fake = FakeFile {
            content: old.clone(),
            list,
        };
        let fake = fake.serve(stored);
        let client = fake.client().await;
        let local = scratch();
        let file = local.path().join("f");
        fs::write(&file, &new).unwrap();
        let upload = client.upload(path("f")).overwrite(true);
        let sent = upload.delta(Delta::Always).from_file(&file).await.unwrap();
        assert_eq!(sent.part, PartUse::None);
        assert_same(&*stored.lock().unwrap(), &new);
        if !knows_chunks {
            let download = client.download(path("f")).overwrite(true);
            let fetched = download.delta(Delta::Always).to_file(&file).await;
            assert_eq!(fetched.unwrap().part, PartUse::None);
            assert_same(fs::read(&file).unwrap(), &old);
        }
        client.close().await;
        fake.stop().await;
    }
}

#[test]
fn the_program_says_how_much_did_not_travel() {
    let Some(programs) = Programs::find() else {
        return;
    };
    let old = content(1, 2 * MIB);
    let tree = Tree::new().file("f", &old).file("d/f", &old);
    let server = programs.serve(&tree.root());
    let script = r"
        quire get $HOST/f f && echo more >>f
        quire --json put --force --delta f $HOST/f
        quire get $HOST/d/f old && quire --json get --force --delta $HOST/f old
        mkdir d && cp f d/f
        quire --json put -r --force --delta d/. $HOST/d
        quire --json get --force --whole-file $HOST/d/f old
        quire -v get --force --delta $HOST/f old 2>&1 | grep 'not sent'
        quire get --delta --whole-file $HOST/f new || echo refused
    ";
    let ran = programs.shell(&server, script);
    let said = String::from_utf8(ran.stdout).unwrap();
    let copied = said.lines().filter(|line| line.contains("\"copied\":"));
    assert_eq!(copied.count(), 3, "{said}");
    assert_eq!(said.matches("not sent").count(), 1, "{said}");
    assert!(said.ends_with("refused\n"), "{said}");
    assert_same(tree.read("d/f"), [&old[..], b"more\n"].concat());
}
