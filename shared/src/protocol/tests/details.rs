//! Details of files: what is refused while it is decoded, and that the most of them fit into messages.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use super::{longest_attributes, longest_paths};
use crate::codec::{DecodeError, PREFIX_BYTES, decode, encode};
use crate::error_code::ErrorCode;
use crate::limits::{
    ACCOUNT_NAME_BYTES_MAX, NAME_BYTES_MAX, XATTR_NAME_BYTES_MAX, XATTRS_BYTES_MAX, XATTRS_MAX,
};

pub(super) fn detail_kinds() -> impl Strategy<Value = DetailKinds> {
    any::<[bool; 3]>().prop_map(|[xattrs, owner, group]| DetailKinds {
        xattrs,
        owner,
        group,
    })
}

fn account() -> impl Strategy<Value = NamedId> {
    let name = option::of("[a-z][a-z0-9_-]{0,20}");
    (0..u32::MAX, name).prop_map(|(id, name)| NamedId {
        id,
        name: name.and_then(|name| AccountName::new(&name)),
    })
}

pub(super) fn details() -> impl Strategy<Value = Option<Box<Details>>> {
    let value = vec(any::<u8>(), 0..40);
    let xattrs = proptest::collection::btree_map("[a-z]{1,12}", value, 0..4).prop_map(|pairs| {
        let mut xattrs = Xattrs::default();
        for (name, value) in pairs {
            let name = XattrName::new(format!("user.{name}").as_bytes()).unwrap();
            xattrs.insert(name, &value).unwrap();
        }
        xattrs
    });
    let fields = (
        option::of(account()),
        option::of(account()),
        option::of(xattrs),
    );
    let details = fields.prop_map(|(owner, group, xattrs)| {
        Box::new(Details {
            owner,
            group,
            xattrs,
        })
    });
    option::of(details)
}

/// The bytes of a `Put` of the root with these bytes as its details.
fn put_with(details: &[u8]) -> Vec<u8> {
    // [3, {0: [], 8: details}]
    [&[0x82, 3, 0xa2, 0, 0x80, 8], details].concat()
}

/// The bytes of details with one extended attribute of this name.
fn xattr(name: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xa1, 2, 0xa1];
    let mut encoder = Encoder::new(&mut bytes);
    encoder.bytes(name).unwrap().bytes(b"value").unwrap();
    bytes
}

#[test]
fn names_of_other_namespaces_and_illegal_ones_are_refused() {
    let decoded = |name: &[u8]| decode::<Request>(&put_with(&xattr(name)));
    decoded(b"user.a").unwrap();
    decoded(&[b"user.", &[b'x'; XATTR_NAME_BYTES_MAX - 5][..]].concat()).unwrap();
    decoded(b"user.\xff\n").unwrap();
    for name in [
        &b"security.capability"[..],
        b"trusted.overlay.opaque",
        b"system.posix_acl_access",
        b"user",
        b"user.",
        b"User.a",
        b" user.a",
        b"",
        b"user.a\0b",
        b"user.\0",
        &[b"user.", &[b'x'; XATTR_NAME_BYTES_MAX - 4][..]].concat(),
    ] {
        let shown = name.escape_ascii();
        let error = decoded(name).unwrap_err();
        assert!(matches!(error, DecodeError::Detail(_)), "{shown}: {error}");
        assert_eq!(error.code(), ErrorCode::MALFORMED);
    }
}

#[test]
fn too_many_attributes_and_repeated_ones_are_refused() {
    let decoded = |pairs: &[(Vec<u8>, usize)]| {
        let mut bytes = vec![0xa1, 2];
        let mut encoder = Encoder::new(&mut bytes);
        encoder.map(pairs.len() as u64).unwrap();
        for (name, length) in pairs {
            encoder
                .bytes(name)
                .unwrap()
                .bytes(&vec![0; *length])
                .unwrap();
        }
        decode::<Request>(&put_with(&bytes)).map(drop)
    };
    let name = |number: usize| format!("user.{number:03}").into_bytes();
    let many = |count: usize, length| (0..count).map(|n| (name(n), length)).collect::<Vec<_>>();
    decoded(&many(XATTRS_MAX, 1)).unwrap();
    decoded(&many(XATTRS_MAX + 1, 1)).unwrap_err();
    decoded(&many(1, XATTRS_BYTES_MAX - 8)).unwrap();
    decoded(&many(1, XATTRS_BYTES_MAX - 7)).unwrap_err();
    decoded(&[(name(1), 1), (name(1), 1)]).unwrap_err();
    // A map that announces what no message has.
    let endless = [&[0xa1, 2, 0xbb][..], &[0xff; 8]].concat();
    assert_eq!(
        decode::<Request>(&put_with(&endless)),
        Err(DecodeError::Truncated)
    );
}

#[test]
fn accounts_that_no_system_has_are_refused() {
    let decoded = |id: u32, name: &str| {
        let mut bytes = vec![0xa1, 0, 0xa2, 0];
        let mut encoder = Encoder::new(&mut bytes);
        encoder.u32(id).unwrap().u8(1).unwrap().str(name).unwrap();
        decode::<Request>(&put_with(&bytes)).map(drop)
    };
    decoded(0, "root").unwrap();
    decoded(u32::MAX - 1, &"x".repeat(ACCOUNT_NAME_BYTES_MAX)).unwrap();
    // To chown(2) it means that nothing changes.
    decoded(u32::MAX, "root").unwrap_err();
    for name in [
        "",
        "a\0b",
        "a:0",
        "a\nroot",
        &"x".repeat(ACCOUNT_NAME_BYTES_MAX + 1),
    ] {
        assert_eq!(
            decoded(1, name),
            Err(DecodeError::Detail(DetailError::AccountName)),
            "{name:?}"
        );
    }
}

#[test]
fn bits_and_keys_of_a_later_version_are_skipped() {
    // [5, {0: [], 1: 0xffff_ffff}]
    let stat = decode::<Request>(&[0x82, 5, 0xa2, 0, 0x80, 1, 0x1a, 0xff, 0xff, 0xff, 0xff]);
    let wanted = Stat {
        path: RemotePath::ROOT,
        details: DetailKinds::ALL,
    };
    assert_eq!(stat, Ok(wanted.into()));
    let later = put_with(&[0xa1, 0x18, 99, 0x82, 1, 2]);
    let Ok(Request::Put(put)) = decode::<Request>(&later) else {
        panic!("not decoded");
    };
    assert_eq!(put.details, Some(Box::default()));
}

#[test]
fn the_most_details_fit_into_every_message() {
    let account = |id| NamedId {
        id,
        name: AccountName::new(&"x".repeat(ACCOUNT_NAME_BYTES_MAX)),
    };
    let mut xattrs = Xattrs::default();
    let each = XATTRS_BYTES_MAX / XATTRS_MAX;
    for number in 0..XATTRS_MAX {
        let name = XattrName::new(format!("user.{number:03}").as_bytes()).unwrap();
        xattrs.insert(name, &vec![0xff; each - 8]).unwrap();
    }
    let details = Some(Box::new(Details {
        owner: Some(account(u32::MAX - 1)),
        group: Some(account(u32::MAX - 1)),
        xattrs: Some(xattrs),
    }));
    let version = Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap();
    for path in longest_paths() {
        let put = Put {
            path,
            size: Some(u64::MAX),
            precondition: Precondition::Match(version.clone()),
            details: details.clone(),
            ..Put::default()
        };
        encode(&Request::from(PutDelta {
            put,
            base: version.clone(),
        }))
        .unwrap();
    }
    let attributes = Attributes {
        kind: EntryKind::File,
        details,
        ..longest_attributes()
    };
    let name = Name::new("n".repeat(NAME_BYTES_MAX)).unwrap();
    let encoded = encode(&TreeItem::Enclosed(Entry { name, attributes })).unwrap();
    assert!(encoded.len() - PREFIX_BYTES > XATTRS_BYTES_MAX);
    // P11
    let over = Attributes::BYTES_MAX + 1;
    let prefix = u32::try_from(over).unwrap().to_be_bytes();
    let error = crate::codec::decode_length::<Reply<Attributes>>(prefix).unwrap_err();
    assert_eq!(error.code(), ErrorCode::MESSAGE_TOO_LONG);
}
