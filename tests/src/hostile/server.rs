//! A malicious server: nothing is written outside the chosen directory, everything in it is a plain file
//! or directory, and the client continues.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use quinn::{Connection, SendStream};
use quire_client::Client;
use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer};
use quire_shared::ErrorCode;
use quire_shared::codec::{self, PREFIX_BYTES};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    Attributes, Entry, EntryKind, GetHeader, GotItem, Left, Message, Reply, Request, Time, Trailer,
    TreeItem, Version,
};
use quire_transport::error_code::to_quic;
use tokio::task::JoinSet;

use crate::transfer::cut_gets::answer;
use quire_test_harness::client::{fetch, list, name, path, stat};
use quire_test_harness::content::Random;
use quire_test_harness::fake::{self, FakeServer};
use quire_test_harness::raw::framed;
use quire_test_harness::tree::{names, scratch};
use quire_test_harness::within;

/// Names that no file may get, and names of other files.
const NAMES: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "../canary",
    "/tmp/quire-canary",
    "a/b",
    "a\\..\\b",
    "a\0b",
    "canary",
    "aa",
    "\u{1b}]0;title\u{7}",
    "a\nb",
    "-rf",
    ".quire-part",
    "\u{202e}fdp.exe",
];

/// Bytes of a malicious server, from one seed.
struct Hostile(Random);

impl Hostile {
    /// The answer to a `get-tree`, with one fault.
    fn tree(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.0.below(6) {
            self.item(&mut bytes);
        }
        if self.0.below(4) > 0 {
            bytes.extend(message(&TreeItem::Left(Left::default())));
        }
        self.spoil(&mut bytes);
        bytes
    }

    /// The answer to a `get-many`, with one fault.
    fn many(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in 0..self.0.below(50) as u64 {
            let size = self.0.below(100) as u64;
            let length = *self.0.one_of(&[size, size, size, 0]);
            let header = GetHeader {
                version: Version::new(b"1").unwrap(),
                size,
                length,
                modified: self.entry().attributes.modified,
                mode: 0o7777,
                in_extents: false,
                details: None,
            };
            let result = Reply::Ok(header);
            bytes.extend(message(&Reply::Ok(GotItem { index, result })));
            if length == size {
                bytes.extend(enclosed(length));
            }
        }
        self.spoil(&mut bytes);
        bytes
    }

    fn item(&mut self, bytes: &mut Vec<u8>) {
        let entry = self.entry();
        let entry_size = entry.attributes.size;
        match self.0.below(8) {
            0 => bytes.extend(self.renamed(&TreeItem::Described(entry))),
            1 => bytes.extend(message(&TreeItem::Left(Left::default()))),
            2 | 3 => {
                for _ in 0..1 + self.0.below(400) * self.0.below(2) {
                    bytes.extend(self.renamed(&TreeItem::Entered(entry.clone())));
                }
            }
            _ => {
                bytes.extend(self.renamed(&TreeItem::Enclosed(entry)));
                bytes.extend(enclosed(entry_size.min(100)));
            }
        }
    }

    fn entry(&mut self) -> Entry {
        let sizes = [0, 5, 100, 1 << 20, 1 << 40, u64::MAX];
        let kinds = [
            EntryKind::File,
            EntryKind::File,
            EntryKind::Directory,
            EntryKind::Symlink,
            EntryKind::Other,
        ];
        Entry {
            name: name("aa"),
            attributes: Attributes {
                kind: *self.0.one_of(&kinds),
                size: *self.0.one_of(&sizes),
                modified: Time {
                    seconds: self.0.next_u64().cast_signed(),
                    nanoseconds: u32::MAX,
                },
                mode: 0o7777,
                version: Version::new(b"1").unwrap(),
                target: None,
                details: None,
                hard_link: None,
            },
        }
    }

    /// A message about "aa" with another name in its place.
    fn renamed<M: Message>(&mut self, item: &M) -> Vec<u8> {
        let mut payload = message(item).split_off(PREFIX_BYTES);
        let other = match self.0.below(3) {
            0 => (*self.0.one_of(NAMES)).to_owned(),
            1 => format!("n{}", self.0.below(20)),
            _ => "long".repeat(self.0.below(100)),
        };
        let at = payload.windows(3).position(|bytes| bytes == b"\x62aa");
        let length = u16::try_from(other.len()).unwrap().to_be_bytes();
        let text = [&[0x79], length.as_slice(), other.as_bytes()].concat();
        let at = at.unwrap();
        payload.splice(at..at + 3, text);
        framed(&payload)
    }

    /// Flips, cuts, repeats or adds some of the bytes, or leaves them.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let at = self.0.below(bytes.len() + 1);
        match self.0.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.0.below(8),
            1 => bytes.truncate(at),
            2 => {
                let noise = self.0.next_u64().to_be_bytes();
                bytes.splice(at..at, noise);
            }
            3 => bytes.extend_from_within(at..),
            4 => {
                bytes.splice(at..at, [0xff; 4]);
            }
            _ => {}
        }
    }

    async fn reply(mut self, request: Request, mut send: SendStream) {
        let bytes = match request {
            Request::GetTree(_) => self.tree(),
            Request::GetMany(_) => self.many(),
            _ => {
                let length = self.0.below(300);
                let mut bytes = answer(&vec![b'y'; length]);
                self.spoil(&mut bytes);
                bytes
            }
        };
        let _ = send.write_all(&bytes).await;
        if self.0.below(8) == 0 {
            let _ = send.reset(to_quic(ErrorCode::INTERNAL));
        }
        let _ = send.finish();
        // A client that has seen enough stops it.
        let _ = send.stopped().await;
    }
}

fn message<M: Message>(message: &M) -> Vec<u8> {
    codec::encode(message).unwrap()
}

/// A body of `length` bytes, and its trailer.
fn enclosed(length: u64) -> Vec<u8> {
    let mut bytes = vec![b'x'; usize::try_from(length).unwrap()];
    let digest = DigestKind::Xxh3.of(&bytes);
    let grew = false;
    bytes.extend(message(&Reply::Ok(Trailer { digest, grew })));
    bytes
}

/// Answers every request of a connection with bytes from `seed`.
async fn play(connection: Connection, seed: u64) {
    let mut streams = JoinSet::new();
    let mut number = seed;
    while let Ok((send, mut recv)) = connection.accept_bi().await {
        number += 1;
        let hostile = Hostile(Random::new(number));
        streams.spawn(async move {
            if let Ok(request) = quire_test_harness::raw::message(&mut recv).await {
                hostile.reply(request, send).await;
            }
        });
    }
}

/// Fetches directories, files and lists; ignores the results.
async fn ask(client: &Client, to: &Path) {
    let transfer = Transfer::new(|_| {});
    let item = DownloadJob {
        from: path("t"),
        to: to.to_owned(),
        contents: false,
    };
    let options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    let fetching = transfer::fetch(client, vec![item], options, &transfer);
    within("the end of a hostile tree", fetching).await;
    let _ = Arc::into_inner(transfer);
    if to.is_dir() {
        let transfer = Transfer::new(|_| {});
        let items = (0..40).map(|file| DownloadJob {
            from: path(&format!("m{file}")),
            to: to.join(format!("m{file}")),
            contents: false,
        });
        let options = FetchOptions::default();
        let fetching = transfer::fetch(client, items.collect(), options, &transfer);
        within("the end of many hostile files", fetching).await;
    }
    let others = async {
        let _ = fetch(client, "f").await;
        let _ = list(client, "").await;
        let _ = client.stat(stat("f")).await;
    };
    within("the end of hostile answers", others).await;
}

/// The tree below `directory`: plain files and directories, with permission bits only.
fn check(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        assert!(metadata.is_file() || metadata.is_dir(), "{entry:?}");
        let mode = metadata.permissions().mode();
        assert_eq!(mode & 0o7000, 0, "{entry:?}");
        assert!(metadata.len() <= 1 << 20, "{entry:?}");
        if metadata.is_dir() {
            check(&entry.path());
        }
    }
}

async fn survive(rounds: u64) {
    const ROUNDS_PER_CLIENT: u64 = 50;
    let local = scratch();
    let chosen = local.path().join("chosen");
    fs::create_dir(&chosen).unwrap();
    fs::write(local.path().join("canary"), "untouched").unwrap();
    for seed in 0..rounds.div_ceil(ROUNDS_PER_CLIENT) {
        let fake = FakeServer::start(async move |connection| play(connection, seed << 32).await);
        let client = fake.client().await;
        for _ in 0..ROUNDS_PER_CLIENT {
            let target = chosen.join("target");
            ask(&client, &target).await;
            let here = names(&chosen);
            assert!(here.iter().all(|name| name == "target"), "{here:?}");
            if target.exists() {
                check(&chosen);
                fs::remove_dir_all(&target)
                    .or_else(|_| fs::remove_file(&target))
                    .unwrap();
            }
        }
        client.close().await;
        fake.stop().await;
        assert_eq!(names(local.path()), ["canary", "chosen"]);
        let canary = fs::read(local.path().join("canary")).unwrap();
        assert_eq!(canary, b"untouched");
        assert!(!Path::new("/tmp/quire-canary").exists());
    }
}

#[tokio::test]
async fn a_client_writes_nothing_elsewhere_whatever_a_server_answers() {
    survive(250).await;
}

#[tokio::test]
#[ignore = "a minute"]
async fn a_client_writes_nothing_elsewhere_in_ten_thousand_answers() {
    // Four requests per round.
    survive(2500).await;
}

/// The requested content has arrived; what follows it belongs to no request.
#[tokio::test]
async fn what_follows_an_answer_without_end_is_not_taken() {
    let fake = FakeServer::start(async |connection| {
        let (_, mut send, _recv) = fake::request(&connection).await;
        send.write_all(&answer(b"content")).await.unwrap();
        let mut sent = 0_u64;
        while send.write_all(&[0; 65_536]).await.is_ok() {
            sent += 65_536;
        }
        assert!(
            sent <= quire_transport::flow::windows::stream_window(quire_shared::Side::Client)
                .into()
        );
    });
    let client = fake.client().await;
    let fetched = within("an answer", fetch(&client, "f")).await;
    assert!(fetched.is_err() || fetched.is_ok_and(|bytes| bytes == b"content"));
    client.close().await;
    fake.stop().await;
}
