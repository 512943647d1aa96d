//! Properties of the messages that carry many files on one stream.

use proptest::option;
use proptest::prelude::*;

use super::details::{detail_kinds, details};
use super::messages::{
    attributes, get_header, kind, name, path, precondition, preserve, raw_names, reply, time,
    version,
};
use super::{check, check_unknown_key};
use crate::codec::{DecodeError, decode, encode};
use crate::error_code::ErrorCode;
use crate::limits::{NAME_BYTES_MAX, VERSION_BYTES_MAX};
use crate::protocol::*;

fn failure() -> impl Strategy<Value = Failure> {
    any::<u16>().prop_map(|code| Failure::new(ErrorCode::from_number(code)))
}

pub(super) fn get_tree() -> impl Strategy<Value = Request> {
    let fields = (path(), kind(), any::<u64>(), detail_kinds(), any::<bool>());
    fields.prop_map(|(path, digest, enclose_max, details, describe_linked)| {
        let get = GetTree {
            path,
            digest,
            enclose_max,
            details,
            describe_linked,
        };
        get.into()
    })
}

pub(super) fn get_many() -> impl Strategy<Value = Request> {
    (kind(), any::<u64>(), detail_kinds()).prop_map(|(digest, enclose_max, details)| {
        let get = GetMany {
            digest,
            enclose_max,
            details,
        };
        get.into()
    })
}

fn get_item() -> impl Strategy<Value = GetItem> {
    prop_oneof![
        path().prop_map(|path| GetItem::File(GetFile { path })),
        Just(GetItem::Last(LastItem {})),
    ]
}

fn got_item() -> impl Strategy<Value = GotItem> {
    (any::<u64>(), reply(get_header())).prop_map(|(index, result)| GotItem { index, result })
}

pub(super) fn tree_item() -> impl Strategy<Value = TreeItem> {
    let entry = || (name(), attributes()).prop_map(|(name, attributes)| Entry { name, attributes });
    prop_oneof![
        entry().prop_map(TreeItem::Described),
        entry().prop_map(TreeItem::Enclosed),
        entry().prop_map(TreeItem::Entered),
        (name(), failure()).prop_map(|(name, failure)| TreeItem::Missed(Missed { name, failure })),
        (any::<u64>(), option::of(failure()), raw_names()).prop_map(
            |(unnameable, failure, raw_names)| {
                TreeItem::Left(Left {
                    unnameable,
                    failure,
                    raw_names,
                })
            }
        ),
    ]
}

pub(super) fn put_item() -> impl Strategy<Value = PutItem> {
    let put = super::messages::put().prop_filter_map("a put", |request| match request {
        Request::Put(put) => Some(PutItem::File(put)),
        _ => None,
    });
    let make = (path(), any::<bool>(), precondition());
    let set = (
        path(),
        option::of(time()),
        option::of(any::<u32>()),
        preserve(),
        details(),
    );
    prop_oneof![
        put,
        make.prop_map(|(path, make_parents, precondition)| {
            PutItem::Directory(MakeDirectory {
                path,
                make_parents,
                precondition,
                change_id: None,
            })
        }),
        set.prop_map(|(path, modified, mode, preserve, details)| {
            PutItem::Attributes(SetAttributes {
                path,
                modified,
                mode,
                preserve,
                details,
            })
        }),
        Just(PutItem::Last(LastItem {})),
    ]
}

pub(super) fn outcome() -> impl Strategy<Value = Outcome> {
    let result = reply(version().prop_map(|version| Changed { version }));
    (any::<u64>(), result, any::<bool>()).prop_map(|(index, result, existed)| Outcome {
        index,
        result,
        existed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn items_of_a_tree_survive_the_wire(item in tree_item(), key in 7_u16..) {
        check(&item);
        check_unknown_key(&item, 2, key);
    }

    #[test]
    fn items_that_are_put_and_their_outcomes_survive_the_wire(
        item in put_item(),
        outcome in reply(outcome()),
        key in 7_u16..,
    ) {
        check(&item);
        check_unknown_key(&item, 2, key);
        check(&outcome);
        check_unknown_key(&outcome, 2, key);
    }

    #[test]
    fn items_that_are_asked_for_and_their_answers_survive_the_wire(
        item in get_item(),
        got in reply(got_item()),
        key in 7_u16..,
    ) {
        check(&item);
        check_unknown_key(&item, 2, key);
        check(&got);
        check_unknown_key(&got, 2, key);
    }
}

// P14
#[test]
fn missing_optional_keys_of_many_files_have_their_defaults() {
    let get = Request::from(GetMany::default());
    assert_eq!(decode(&[0x82, 17, 0xa0]), Ok(get));
    assert_eq!(decode(&[0x82, 1, 0xa0]), Ok(GetItem::Last(LastItem {})));
    let missing = decode::<GetItem>(&[0x82, 0, 0xa0]);
    assert_eq!(missing, Err(DecodeError::Malformed));
    let unknown = decode::<GetItem>(&[0x82, 2, 0xa0]);
    assert_eq!(unknown, Err(DecodeError::UnknownKind));
}

// P49
#[test]
fn a_file_among_many_comes_whole_or_without_its_content() {
    let size_of = |size, length| {
        let header = GetHeader {
            version: Version::new(b"v").unwrap(),
            size,
            length,
            modified: Time {
                seconds: 0,
                nanoseconds: 0,
            },
            mode: 0,
            in_extents: false,
            details: None,
        };
        let result = Reply::Ok(header);
        GotItem { index: 0, result }.body_size()
    };
    assert_eq!(size_of(5, 5), Ok(Some(5)));
    assert_eq!(size_of(0, 0), Ok(Some(0)));
    assert_eq!(size_of(5, 0), Ok(None));
    for (size, length) in [(5, 4), (5, 6), (0, 1)] {
        assert_eq!(size_of(size, length), Err(DecodeError::Malformed));
    }
    let result = Reply::Failed(Failure::new(ErrorCode::NOT_FOUND));
    assert_eq!(GotItem { index: 0, result }.body_size(), Ok(None));
}

// P14
#[test]
fn missing_optional_keys_of_a_tree_have_their_defaults() {
    let get = GetTree {
        path: RemotePath::parse("a").unwrap(),
        digest: DigestKind::Xxh3,
        enclose_max: 0,
        details: Default::default(),
        describe_linked: false,
    };
    let cbor = [0x82, 12, 0xa1, 0x00, 0x81, 0x61, b'a'];
    assert_eq!(decode::<Request>(&cbor), Ok(get.into()));
    let left = TreeItem::Left(Left::default());
    assert_eq!(decode(&[0x82, 4, 0xa0]), Ok(left));
    for kind in [0, 1, 2, 3] {
        let missing = decode::<TreeItem>(&[0x82, kind, 0xa0]);
        assert_eq!(missing, Err(DecodeError::Malformed), "kind {kind}");
    }
    let unknown = decode::<TreeItem>(&[0x82, 5, 0xa0]);
    assert_eq!(unknown, Err(DecodeError::UnknownKind));
}

#[test]
fn the_largest_items_fit_their_limits() {
    let name = Name::new("n".repeat(NAME_BYTES_MAX)).unwrap();
    let attributes = super::longest_attributes();
    encode(&TreeItem::Described(Entry { name, attributes })).unwrap();
    for path in super::longest_paths() {
        let put = Put {
            path,
            size: Some(u64::MAX),
            modified: Some(Time {
                seconds: i64::MIN,
                nanoseconds: u32::MAX,
            }),
            mode: Some(u32::MAX),
            digest: DigestKind::Sha256,
            precondition: Precondition::Match(Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap()),
            make_parents: true,
            preserve: Preserve::Nothing,
            details: None,
        };
        encode(&GetItem::File(GetFile {
            path: put.path.clone(),
        }))
        .unwrap();
        encode(&PutItem::File(put)).unwrap();
    }
}

// P14
#[test]
fn missing_optional_keys_of_what_is_put_have_their_defaults() {
    let path = RemotePath::parse("a").unwrap();
    let set = SetAttributes {
        path,
        modified: None,
        mode: None,
        preserve: Preserve::Usual,
        details: None,
    };
    let cbor = [0x82, 2, 0xa1, 0x00, 0x81, 0x61, b'a'];
    assert_eq!(decode(&cbor), Ok(PutItem::Attributes(set)));
    assert_eq!(decode(&[0x82, 3, 0xa0]), Ok(PutItem::Last(LastItem {})));
    assert_eq!(
        decode::<PutItem>(&[0x82, 4, 0xa0]),
        Err(DecodeError::UnknownKind)
    );
    let outcome = Outcome {
        index: 1,
        result: Reply::Failed(Failure::new(ErrorCode::EXISTS)),
        existed: false,
    };
    let bytes = encode(&outcome).unwrap();
    let without = [&[0xa2], &bytes[5..bytes.len() - 2]].concat();
    assert_eq!(decode(&without), Ok(outcome));
}

#[test]
fn what_a_failure_or_copy_is_about_fits_into_any_reply() {
    let failure = Failure::new(ErrorCode::NOT_EMPTY);
    for path in super::longest_paths() {
        assert_eq!(failure.clone().about(Some(path)).below(), None);
    }
    for names in [8, 255] {
        let name = Name::new("n".repeat(2040 / names - 3)).unwrap();
        let path = RemotePath::from_names(vec![name; names]).unwrap();
        let failure = failure.clone().about(Some(path.clone()));
        assert_eq!(failure.below(), Some(&path));
        encode(&Reply::<Done>::Failed(failure)).unwrap();
        let version = Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap();
        let copied = Copied::new(version, u64::MAX, vec![path; 3]);
        assert_eq!(copied.names.len(), 1);
        encode(&Reply::Ok(copied)).unwrap();
    }
}
