//! Many named files, from a server that may answer in any way.

use std::fs;
use std::sync::{Arc, Mutex};

use quire_client::ClientError;
use quire_client::transfer::{self, DownloadJob, FetchOptions, Transfer, TransferEvent};
use quire_shared::ErrorCode;
use quire_shared::codec;
use quire_shared::digest::DigestKind;
use quire_shared::limits::ENCLOSED_BYTES_MAX;
use quire_shared::protocol::{
    GetHeader, GetItem, GetMany, GotItem, Message, Reply, Request, Trailer,
};
use quire_transport::stream::{Receiver, Sender};
use tempfile::TempDir;

use quire_test_harness::fake::FakeConnection;
use quire_test_harness::within;

use crate::{failed, header, names, path, trailer};

/// More than are asked for at once by requests of their own.
const FILES: u64 = 40;

/// Answers to items, as a server may send them.
#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    fn message(mut self, message: &impl Message) -> Self {
        codec::append(message, &mut self.0).unwrap();
        self
    }

    fn item(self, index: u64, result: Reply<GetHeader>) -> Self {
        self.message(&Reply::Ok(GotItem { index, result }))
    }

    /// A file with the content `abc`, and a trailer for `proved`.
    fn file(mut self, index: u64, proved: &[u8]) -> Self {
        self = self.item(index, Reply::Ok(header(3)));
        self.0.extend_from_slice(b"abc");
        self.message(&Reply::Ok(trailer(proved)))
    }

    fn files(self, indices: std::ops::Range<u64>) -> Self {
        indices.fold(self, |answers, index| answers.file(index, b"abc"))
    }
}

/// How the stream of the answers ends.
enum AnswersEnd {
    /// After the last item.
    Finish,
    /// At once.
    Early,
    Reset(ErrorCode),
}

/// What became of the files `f00`, `f01` and so on.
struct FetchedFiles {
    directory: TempDir,
    transfer: Arc<Transfer>,
    errors: Vec<(String, String)>,
    /// Those that were asked for by requests of their own.
    asked: Vec<String>,
}

impl FetchedFiles {
    fn assert_all_but(&self, missing: &[u64]) {
        let there = (0..FILES).filter(|file| !missing.contains(file));
        let there: Vec<_> = there.map(file_name).collect();
        assert_eq!(names(self.directory.path()), there);
        for name in &there {
            let content = fs::read(self.directory.path().join(name)).unwrap();
            assert_eq!(content, b"abc", "{name}");
        }
        let moved = there.len() as u64;
        assert_eq!(self.transfer.files(), moved);
        assert_eq!(self.transfer.failed(), missing.len() as u64);
    }
}

fn file_name(index: u64) -> String {
    format!("f{index:02}")
}

/// Fetches all files from a server that sends `answers`.
async fn fetch_from(answers: Answers, end: AnswersEnd) -> FetchedFiles {
    let pair = FakeConnection::open().await;
    let directory = tempfile::tempdir().unwrap();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&errors);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            let error = (name.to_string(), error.to_string());
            log.lock().unwrap().push(error);
        }
    });
    let jobs = (0..FILES).map(file_name).map(|name| DownloadJob {
        from: path(&name),
        to: directory.path().join(&name),
        contents: false,
    });
    let mut asked = Vec::new();
    let options = FetchOptions::default();
    let fetching = transfer::fetch(&pair.client, jobs.collect(), options, &transfer);
    tokio::select! {
        () = within("the files", fetching) => {}
        () = serve(&pair, answers, end, &mut asked) => {}
    }
    asked.sort();
    let errors = errors.lock().unwrap().clone();
    FetchedFiles {
        directory,
        transfer,
        errors,
        asked,
    }
}

/// Answers all requests: the first as told, those for single files with `abc`.
async fn serve(pair: &FakeConnection, answers: Answers, end: AnswersEnd, asked: &mut Vec<String>) {
    let (request, mut sender, mut receiver) = pair.request().await;
    let wanted = GetMany {
        digest: DigestKind::Xxh3,
        enclose_max: ENCLOSED_BYTES_MAX as u64,
        details: Default::default(),
    };
    assert_eq!(request, wanted.into());
    // A client that has seen enough stops the stream.
    let _ = sender.send_bytes(answers.0.into()).await;
    match end {
        AnswersEnd::Finish => {
            assert_eq!(named(&mut receiver).await, FILES);
            let _ = sender.finish();
        }
        AnswersEnd::Early => {
            let _ = sender.finish();
        }
        AnswersEnd::Reset(code) => sender.reset(code),
    }
    // Dropping one would tell the client to stop.
    let mut streams = vec![(sender, receiver)];
    loop {
        let (request, mut sender, receiver) = pair.request().await;
        asked.extend(match request {
            Request::Get(get) => Some(get.path.to_relative()),
            _ => None,
        });
        content(&mut sender).await;
        streams.push((sender, receiver));
    }
}

async fn content(sender: &mut Sender) {
    sender.send(&Reply::Ok(header(3))).await.unwrap();
    sender.send_bytes(b"abc"[..].into()).await.unwrap();
    sender.send(&Reply::Ok(trailer(b"abc"))).await.unwrap();
    let _ = sender.finish();
}

/// How many files are named up to the last item.
async fn named(receiver: &mut Receiver) -> u64 {
    let mut count = 0;
    while let GetItem::File(file) = receiver.receive().await.unwrap() {
        assert_eq!(file.path, path(&file_name(count)));
        count += 1;
    }
    receiver.expect_end().await.unwrap();
    count
}

fn told(file: u64, error: &ClientError) -> (String, String) {
    (format!("/{}", file_name(file)), error.to_string())
}

// P49, P51
#[tokio::test]
async fn a_file_that_is_damaged_or_refused_fails_alone_and_a_larger_one_is_asked_for_again() {
    let answers = Answers::default()
        .files(0..3)
        .file(3, b"xyz")
        .item(4, failed(ErrorCode::NOT_FOUND))
        .item(5, Reply::Ok(header(3)));
    let mut answers = answers;
    answers.0.extend_from_slice(b"ab?");
    let larger = GetHeader {
        length: 0,
        ..header(1 << 40)
    };
    let answers = answers
        .message(&failed::<Trailer>(ErrorCode::CHANGED))
        .item(6, Reply::Ok(larger))
        .files(7..FILES);
    let fetched = fetch_from(answers, AnswersEnd::Finish).await;
    fetched.assert_all_but(&[3, 4, 5]);
    let expected = [
        told(3, &ClientError::Damaged),
        (format!("/{}", file_name(4)), "not found".to_owned()),
        told(5, &ClientError::Changed),
    ];
    assert_eq!(fetched.errors, expected);
    assert_eq!(fetched.asked, [file_name(6)]);
}

// P48, P49, P50
#[tokio::test]
async fn an_answer_that_breaks_a_rule_ends_the_stream_and_the_rest_is_asked_for_one_by_one() {
    let part = GetHeader {
        length: 2,
        ..header(3)
    };
    let start = || Answers::default().files(0..2);
    for (what, answers) in [
        ("one twice", start().file(1, b"abc")),
        ("one too early", start().file(3, b"abc")),
        ("one that wasn't named", start().file(FILES + 7, b"abc")),
        ("a part of a file", start().item(2, Reply::Ok(part))),
        (
            "more than may be enclosed",
            start().item(2, Reply::Ok(header(ENCLOSED_BYTES_MAX as u64 + 1))),
        ),
        ("no message", {
            let mut answers = start();
            answers.0.extend_from_slice(&[0, 0, 0, 1, 0xff]);
            answers
        }),
    ] {
        let fetched = fetch_from(answers, AnswersEnd::Finish).await;
        fetched.assert_all_but(&[2]);
        let [(name, error)] = fetched.errors.as_slice() else {
            panic!("{what}: {:?}", fetched.errors);
        };
        assert_eq!(*name, format!("/{}", file_name(2)), "{what}");
        assert!(error.contains("unexpected"), "{what}: {error}");
        let rest: Vec<_> = (3..FILES).map(file_name).collect();
        assert_eq!(fetched.asked, rest, "{what}");
    }
}

// P6, P48
#[tokio::test]
async fn answers_that_end_too_early_or_go_on_after_the_last_are_an_error() {
    let fetched = fetch_from(Answers::default().files(0..2), AnswersEnd::Early).await;
    fetched.assert_all_but(&[2]);
    assert_eq!(fetched.errors, [told(2, &ClientError::Truncated)]);
    let fetched = fetch_from(Answers::default().files(0..FILES - 1), AnswersEnd::Finish).await;
    fetched.assert_all_but(&[FILES - 1]);
    assert_eq!(fetched.errors, [told(FILES - 1, &ClientError::Truncated)]);
    let more = Answers::default().files(0..FILES).file(FILES, b"abc");
    let fetched = fetch_from(more, AnswersEnd::Finish).await;
    // All that was asked for is proved right.
    fetched.assert_all_but(&[]);
}

// P15
#[tokio::test]
async fn files_that_a_server_does_not_send_on_one_stream_are_asked_for_one_by_one() {
    let all: Vec<_> = (0..FILES).map(file_name).collect();
    let unsupported = Answers::default().message(&failed::<GotItem>(ErrorCode::UNSUPPORTED));
    let fetched = fetch_from(unsupported, AnswersEnd::Early).await;
    fetched.assert_all_but(&[]);
    assert_eq!((fetched.errors, fetched.asked), (Vec::new(), all.clone()));
    for code in [ErrorCode::TIMEOUT, ErrorCode::LIMIT] {
        let answers = Answers::default().files(0..2);
        let fetched = fetch_from(answers, AnswersEnd::Reset(code)).await;
        fetched.assert_all_but(&[]);
        assert_eq!(fetched.errors, []);
        // A reset may overtake what was sent before.
        assert!(fetched.asked.ends_with(&all[2..]), "{:?}", fetched.asked);
    }
}
