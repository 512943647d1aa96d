//! Tests of the names that are held, and of files that change while they are read.

use std::sync::Arc;

use quire_shared::digest::DigestKind;
use quire_shared::protocol::{GetFile, LastItem, Trailer};
use quire_shared::{ErrorCode, codec};
use quire_transport::stream::item_decoder::ItemDecoder;

use super::*;
use crate::files::fixture::{Meddling, OneFile};

fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap()
}

fn item(text: &str) -> Vec<u8> {
    let path = path(text);
    codec::encode(&GetItem::File(GetFile { path })).unwrap()
}

// P52
#[test]
fn a_bounded_number_of_names_is_held_and_more_are_taken_as_they_are_answered() {
    let deep = "d/".repeat(200) + "f";
    for name in ["f", "dir/some-file.txt", &"n".repeat(255), &deep] {
        let items = item(name).repeat(10_000);
        let mut names = NamesAhead::default();
        names.buffer.push(&items);
        names.decode().unwrap();
        assert!(!names.has_room());
        let held = names.paths.len();
        let each = memory_of(&path(name));
        assert!(held * each >= NAMED_BYTES, "{held} of {name}");
        assert!((held - 1) * each < NAMED_BYTES, "{held} of {name}");
        // Those that are being read count as well.
        let reading = mem::take(&mut names.paths);
        names.decode().unwrap();
        assert!(names.paths.is_empty());
        let rest = reading.into_iter().skip(3).collect();
        names.put_back(rest).unwrap();
        assert_eq!(names.paths.len(), held);
        let left = names.buffer.len() / item(name).len();
        assert_eq!(left, 10_000 - held - 3);
    }
}

#[test]
fn an_end_that_waits_for_room_is_seen() {
    let mut names = NamesAhead::default();
    let count = NAMED_BYTES / memory_of(&path("f")) + 1;
    names.buffer.push(&item("f").repeat(count));
    names.decode().unwrap();
    names
        .buffer
        .push(&codec::encode(&GetItem::Last(LastItem {})).unwrap());
    names.has_ended = true;
    names.decode().unwrap();
    assert!(!names.is_last_known);
    names.put_back(VecDeque::new()).unwrap();
    assert_eq!(names.paths.len(), count);
    names.paths.clear();
    names.put_back(VecDeque::new()).unwrap();
    assert!(names.is_last_known);
    let mut names = NamesAhead {
        has_ended: true,
        ..NamesAhead::default()
    };
    names.buffer.push(&item("f"));
    let error = names.decode().unwrap_err();
    assert!(matches!(error, ReceiveError::Truncated), "{error}");
}

/// Changes the file after it was opened and before it is read.
struct Meddler {
    packer: ItemPacker,
    one: Arc<OneFile>,
    meddling: Meddling,
}

impl FileVisitor for Meddler {
    fn opened(&mut self, file: Result<OpenFile, Error>) -> Result<(), Error> {
        self.one.meddle(self.meddling);
        self.packer.opened(file)
    }

    fn is_full(&self) -> bool {
        self.packer.is_full()
    }
}

/// The answer for a file with `content` that is changed meanwhile.
async fn answer(content: &str, meddling: Meddling) -> (GotItem, Option<(Bytes, Trailer)>) {
    let one = Arc::new(OneFile::new(content));
    let request = GetMany {
        digest: DigestKind::Sha256,
        enclose_max: 100,
        details: Default::default(),
    };
    let meddler = Meddler {
        packer: ItemPacker::new(&request),
        one: Arc::clone(&one),
        meddling,
    };
    let reads = one
        .files
        .named_reads(&one.caller, Default::default())
        .unwrap();
    let (rest, meddler) = reads.open([OneFile::path()].into(), meddler).await.unwrap();
    assert!(rest.is_empty());
    let (bytes, _) = meddler.packer.next();
    let mut decoder = ItemDecoder::<Reply<GotItem>>::new(|reply| match reply {
        Reply::Ok(got) => got.body_size(),
        Reply::Failed(_) => Ok(None),
    });
    decoder.buffer.push(&bytes);
    let (got, enclosed) = decoder.item::<Reply<Trailer>>().unwrap().unwrap();
    decoder.expect_end().unwrap();
    let enclosed = enclosed.map(|(body, trailer)| (body, trailer.into_result().unwrap()));
    (got.into_result().unwrap(), enclosed)
}

// P49, P51
#[tokio::test]
async fn a_file_that_changes_while_it_is_read_comes_without_its_content_and_one_that_grew_with_it()
{
    for (meddling, grew) in [(Meddling::Nothing, false), (Meddling::Append, true)] {
        let (got, enclosed) = answer("content", meddling).await;
        assert_eq!(got.index, 0);
        let (body, trailer) = enclosed.unwrap();
        assert_eq!((&*body, trailer.grew), (&b"content"[..], grew));
        assert_eq!(trailer.digest, DigestKind::Sha256.of(b"content"));
    }
    for meddling in [Meddling::Touch, Meddling::Truncate] {
        let (got, enclosed) = answer("content", meddling).await;
        assert_eq!(enclosed, None);
        let header = got.result.into_result().unwrap();
        assert_eq!((header.size, header.length), (7, 0));
    }
    let (got, enclosed) = answer("", Meddling::Touch).await;
    assert_eq!(enclosed, None);
    let failure = got.result.into_result().unwrap_err();
    assert_eq!(failure.code(), ErrorCode::CHANGED);
}
