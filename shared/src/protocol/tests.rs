//! Properties of every message: encoding round trips, limits, and refusal of damaged bytes.

mod delta;
mod details;
mod many;
mod messages;
mod replies;

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::codec::{DecodeError, PREFIX_BYTES, decode, decode_length, encode};
use crate::error_code::ErrorCode;
use crate::limits::{
    DIGEST_BYTES_MAX, LINK_TARGET_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX,
    PHRASE_BYTES_MAX, RAW_NAMES_MAX, REPLY_BYTES_MAX,
};
use crate::path::{PathError, RawName};

use messages::{
    attributes, cache_page, copied, digest, get_header, hashed, page, pong, reply, request,
    trailer, version,
};

/// Checks the properties of one message, including a cut at every byte.
fn check<M: Message + Debug + PartialEq>(message: &M) {
    let bytes = encode(message).unwrap();
    let (prefix, cbor) = bytes.split_first_chunk::<PREFIX_BYTES>().unwrap();
    // P11
    assert_eq!(decode_length::<M>(*prefix), Ok(cbor.len()));
    assert_eq!(decode::<M>(cbor).as_ref(), Ok(message));
    // P12
    for end in 0..cbor.len() {
        assert_eq!(
            decode::<M>(&cbor[..end]),
            Err(DecodeError::Truncated),
            "cut at {end} of {message:?}"
        );
    }
    let longer = [cbor, &[0]].concat();
    assert_eq!(decode::<M>(&longer), Err(DecodeError::TrailingBytes));
}

/// Checks that a decoder skips an unknown key, added to the map at position `map` of the bytes.
fn check_unknown_key<M: Message + Debug + PartialEq>(message: &M, map: usize, key: u16) {
    let mut cbor = encode(message).unwrap().split_off(PREFIX_BYTES);
    assert!(
        (0xa0..0xb7).contains(&cbor[map]),
        "a map with room for one key"
    );
    cbor[map] += 1;
    let mut more = Encoder::new(&mut cbor);
    more.u16(key).unwrap();
    // A nested value with every CBOR type.
    more.array(3)
        .unwrap()
        .map(1)
        .unwrap()
        .str("later")
        .unwrap()
        .null()
        .unwrap();
    more.bytes(&[1, 2]).unwrap().f64(0.5).unwrap();
    // P13
    assert_eq!(decode::<M>(&cbor).as_ref(), Ok(message));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn requests_survive_the_wire(request in request(), key in 7_u16..) {
        check(&request);
        check_unknown_key(&request, 2, key);
    }

    #[test]
    fn replies_survive_the_wire(
        header in reply(get_header()),
        trailer in reply(trailer()),
        copied in reply(copied()),
        changed in reply(version().prop_map(|version| Changed { version })),
        attributes in reply(attributes()),
        hashed in reply(hashed()),
        pong in reply(pong()),
        key in 7_u16..,
    ) {
        check(&header);
        check(&trailer);
        check(&copied);
        check(&changed);
        check(&attributes);
        check(&hashed);
        check(&pong);
        check_unknown_key(&header, 2, key);
        check_unknown_key(&trailer, 2, key);
        check_unknown_key(&copied, 2, key);
        check_unknown_key(&changed, 2, key);
        check_unknown_key(&attributes, 2, key);
        check_unknown_key(&hashed, 2, key);
        check_unknown_key(&pong, 2, key);
    }

    #[test]
    fn pages_survive_the_wire(page in reply(page()), cache in reply(cache_page()), key in 7_u16..) {
        check(&page);
        check(&cache);
        check_unknown_key(&page, 2, key);
        check_unknown_key(&cache, 2, key);
    }

    #[test]
    fn bare_trailers_survive_the_wire(digest in digest(), key in 7_u16..) {
        let trailer = Trailer {
            digest,
            grew: false,
        };
        check(&trailer);
        check_unknown_key(&trailer, 0, key);
        check(&Reply::Ok(Done {}));
        check_unknown_key(&Reply::Ok(Done {}), 2, key);
    }
}

/// Checks that decoding any bytes ends, and that a decoded message can be encoded and decoded
/// again.
fn check_any<M: Message + Debug + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = decode::<M>(bytes) {
        let again = encode(&message).unwrap();
        assert_eq!(decode::<M>(&again[PREFIX_BYTES..]), Ok(message));
    }
}

fn check_any_message(bytes: &[u8]) {
    check_any::<Request>(bytes);
    check_any::<Reply<Pong>>(bytes);
    check_any::<Reply<GetHeader>>(bytes);
    check_any::<Reply<Trailer>>(bytes);
    check_any::<Trailer>(bytes);
    check_any::<Reply<Changed>>(bytes);
    check_any::<Reply<Done>>(bytes);
    check_any::<Reply<Attributes>>(bytes);
    check_any::<Reply<Hashed>>(bytes);
    check_any::<Reply<Page>>(bytes);
    check_any::<Reply<CachePage>>(bytes);
    check_any::<TreeItem>(bytes);
    check_any::<PutItem>(bytes);
    check_any::<Reply<Outcome>>(bytes);
    check_any::<Reply<GotItem>>(bytes);
    check_any::<GetItem>(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_bring_the_decoder_down(bytes in vec(any::<u8>(), 0..300)) {
        check_any_message(&bytes);
    }

    #[test]
    fn no_damaged_message_brings_the_decoder_down(
        request in request(),
        page in reply(page()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for mut bytes in [encode(&request).unwrap(), encode(&page).unwrap()] {
            let cbor = &mut bytes[PREFIX_BYTES..];
            for (position, value) in &damage {
                *position.get_mut(cbor) = *value;
            }
            check_any_message(cbor);
        }
    }
}

/// A request of `kind` whose map has the path `a` under key 0, and nothing else.
fn minimal(kind: u8) -> Result<Request, DecodeError> {
    decode(&[0x82, kind, 0xa1, 0x00, 0x81, 0x61, b'a'])
}

/// As [`minimal`], with the paths `a` and `b` under the keys 0 and 1.
fn minimal_pair(kind: u8) -> Result<Request, DecodeError> {
    decode(&[
        0x82, kind, 0xa2, 0x00, 0x81, 0x61, b'a', 0x01, 0x81, 0x61, b'b',
    ])
}

// P14
#[test]
fn missing_optional_keys_have_their_defaults() {
    let [a, b] = ["a", "b"].map(|text| RemotePath::parse(text).unwrap());
    let digest = DigestKind::Xxh3;
    let precondition = Precondition::Any;
    let get = Get {
        path: a.clone(),
        ..Get::default()
    };
    assert_eq!(minimal(2), Ok(get.into()));
    let put = Put {
        path: a.clone(),
        ..Put::default()
    };
    assert_eq!(minimal(3), Ok(put.into()));
    let (path, after) = (a.clone(), None);
    assert_eq!(minimal(4), Ok(List { path, after }.into()));
    let rename = Rename {
        from: a.clone(),
        to: b.clone(),
        source: precondition.clone(),
        target: precondition,
        change_id: None,
    };
    assert_eq!(minimal_pair(6), Ok(rename.into()));
    let path = a.clone();
    let delete = Delete {
        path,
        ..Delete::default()
    };
    assert_eq!(minimal(7), Ok(delete.into()));
    let path = a.clone();
    let make = MakeDirectory {
        path,
        ..MakeDirectory::default()
    };
    assert_eq!(minimal(8), Ok(make.into()));
    let copy = Copy {
        from: a.clone(),
        to: b,
        ..Copy::default()
    };
    assert_eq!(minimal_pair(9), Ok(copy.into()));
    assert_eq!(minimal(10), Ok(Hash { path: a, digest }.into()));
}

// P14
#[test]
fn missing_required_keys_are_malformed() {
    for kind in 2..=10 {
        assert_eq!(
            decode::<Request>(&[0x82, kind, 0xa0]),
            Err(DecodeError::Malformed)
        );
    }
    for kind in [6, 9] {
        assert_eq!(minimal(kind), Err(DecodeError::Malformed));
    }
    assert_eq!(
        decode::<Reply<Changed>>(&[0x82, 0, 0xa0]),
        Err(DecodeError::Malformed)
    );
    assert_eq!(decode::<Trailer>(&[0xa0]), Err(DecodeError::Malformed));
}

// P15
#[test]
fn additions_of_a_later_version_are_unknown_and_not_malformed() {
    let get_with = |key: u8, value: &[u8]| {
        let head = [0x82, 2, 0xa2, 0x00, 0x81, 0x61, b'a', key];
        decode::<Request>(&[&head, value].concat())
    };
    let unknown = Err(DecodeError::UnknownKind);
    for kind in [0, 21, 23] {
        assert_eq!(minimal(kind), unknown, "a kind of request");
    }
    assert_eq!(get_with(3, &[4]), unknown, "a kind of digest");
    assert_eq!(get_with(3, &[0x19, 1, 0]), unknown, "a kind of digest");
    assert_eq!(get_with(4, &[0x81, 3]), unknown, "a precondition");
    let put = [0x82, 3, 0xa2, 0x00, 0x81, 0x61, b'a', 7, 3];
    assert_eq!(decode::<Request>(&put), unknown, "a value of `preserve`");
    assert_eq!(
        decode::<Reply<Done>>(&[0x82, 2, 0xa0]),
        Err(DecodeError::UnknownKind),
        "a kind of reply"
    );
    assert_eq!(DecodeError::UnknownKind.code(), ErrorCode::UNSUPPORTED);
}

// P12
#[test]
fn a_precondition_with_surplus_elements_is_malformed() {
    // Without a check of the length, the surplus elements would be read as the rest of the map.
    for precondition in [&[0x83, 0x00, 0x06, 0xf5][..], &[0x83, 0x01, 0x06, 0xf5]] {
        let head = [0x82, 3, 0xa3, 0x00, 0x81, 0x61, b'a', 0x05];
        let request = decode::<Request>(&[&head, precondition].concat());
        assert_eq!(request, Err(DecodeError::Malformed));
    }
}

// P11
#[test]
fn a_length_over_the_limit_is_refused() {
    fn refuses<M: Message + Debug + PartialEq>() {
        let length = |bytes: usize| decode_length::<M>(u32::try_from(bytes).unwrap().to_be_bytes());
        let limit = M::BYTES_MAX;
        assert_eq!(length(limit), Ok(limit));
        for bytes in [limit + 1, u32::MAX as usize] {
            let error = DecodeError::TooLong { bytes, limit };
            assert_eq!(error.code(), ErrorCode::MESSAGE_TOO_LONG);
            assert_eq!(length(bytes), Err(error));
        }
    }
    refuses::<Request>();
    refuses::<Reply<GetHeader>>();
    refuses::<Trailer>();
    refuses::<Reply<Page>>();
}

/// Both extremes of a path of full length: few long names, and as many names as allowed.
fn longest_paths() -> [RemotePath; 2] {
    let path_of = |count: usize| {
        let names = PATH_BYTES_MAX - (count - 1);
        let bytes = |index: usize| names / count + usize::from(index < names % count);
        let names = (0..count).map(|index| Name::new("n".repeat(bytes(index))).unwrap());
        RemotePath::from_names(names.collect()).unwrap()
    };
    let fewest = (PATH_BYTES_MAX + 1).div_ceil(NAME_BYTES_MAX + 1);
    [path_of(fewest), path_of(PATH_COMPONENTS_MAX)]
}

/// Attributes that take as many bytes as they can, without details.
fn longest_attributes() -> Attributes {
    Attributes {
        kind: EntryKind::Other,
        size: u64::MAX,
        modified: Time {
            seconds: i64::MIN,
            nanoseconds: u32::MAX,
        },
        mode: u32::MAX,
        version: Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap(),
        target: LinkTarget::new(&[0xff; LINK_TARGET_BYTES_MAX]),
        hard_link: Some(HardLinkId::of(u128::MAX)),
        details: None,
    }
}

#[test]
fn the_largest_legal_messages_fit_their_limits() {
    let attributes = longest_attributes();
    let precondition = Precondition::Match(attributes.version.clone());
    for path in longest_paths() {
        let copy = Copy {
            from: path.clone(),
            to: path.clone(),
            recursive: true,
            source: precondition.clone(),
            target: precondition.clone(),
            preserve: Preserve::Nothing,
            details: Default::default(),
            change_id: None,
            hard_link: true,
        };
        encode(&Request::from(copy)).unwrap();
        let entry = CacheEntry {
            path,
            bytes: u64::MAX,
            hits: u64::MAX,
            readers: u64::MAX,
        };
        let page = CachePage {
            entries: vec![entry],
            limit: u64::MAX,
            last: true,
        };
        encode(&Reply::Ok(page)).unwrap();
    }
    let raw_names = vec![RawName::new(&[0xff; NAME_BYTES_MAX]).unwrap(); RAW_NAMES_MAX];
    let name = Name::new("n".repeat(NAME_BYTES_MAX)).unwrap();
    let page = Page {
        entries: vec![Entry {
            name,
            attributes: attributes.clone(),
        }],
        unnameable: u64::MAX,
        last: true,
        raw_names: raw_names.clone(),
    };
    encode(&Reply::Ok(page)).unwrap();
    let failure = Failure {
        number: u16::MAX,
        phrase: "p".repeat(PHRASE_BYTES_MAX),
        below: None,
    };
    let left = Left {
        unnameable: u64::MAX,
        failure: Some(failure.clone()),
        raw_names,
    };
    encode(&TreeItem::Left(left)).unwrap();
    encode(&Reply::Ok(attributes)).unwrap();
    encode(&Reply::<Done>::Failed(failure)).unwrap();
}

#[test]
fn tokens_and_digests_over_their_limits_are_malformed() {
    let bytes = |count: usize| {
        let mut cbor = vec![0xa1, 0x00, 0x58, u8::try_from(count).unwrap()];
        cbor.resize(cbor.len() + count, 0xff);
        cbor
    };
    assert!(decode::<Trailer>(&bytes(DIGEST_BYTES_MAX)).is_ok());
    assert_eq!(
        decode::<Trailer>(&bytes(DIGEST_BYTES_MAX + 1)),
        Err(DecodeError::Malformed)
    );
    let changed = |count| decode::<Reply<Changed>>(&[vec![0x82, 0], bytes(count)].concat());
    assert!(changed(VERSION_BYTES_MAX).is_ok());
    assert_eq!(changed(VERSION_BYTES_MAX + 1), Err(DecodeError::Malformed));
    assert_eq!(Version::new(&[0; VERSION_BYTES_MAX + 1]), None);
}

// P33
#[test]
fn a_path_that_breaks_a_rule_is_refused_by_the_decoder() {
    let stat = |names: &[&str]| {
        let mut cbor = vec![0x82, 5, 0xa1, 0x00];
        let mut encoder = Encoder::new(&mut cbor);
        encoder.array(names.len() as u64).unwrap();
        for name in names {
            encoder.str(name).unwrap();
        }
        decode::<Request>(&cbor)
    };
    let refused = |names: &[&str], rule: PathError| {
        let error = stat(names).unwrap_err();
        assert_eq!(error, DecodeError::InvalidPath(rule), "{names:?}");
        assert_eq!(error.code(), ErrorCode::INVALID_PATH);
    };
    refused(&[""], PathError::Empty);
    refused(&["a", "", "b"], PathError::Empty);
    refused(&["."], PathError::Relative);
    refused(&["a", ".."], PathError::Relative);
    refused(&["../b"], PathError::Separator);
    refused(&["/"], PathError::Separator);
    refused(&["/etc/passwd"], PathError::Separator);
    refused(&["a\0"], PathError::Nul);
    refused(&[".quire-staging", "a"], PathError::Reserved);
    let long = "é".repeat(NAME_BYTES_MAX / 2 + 1);
    refused(&[&long], PathError::NameTooLong { bytes: long.len() });
    refused(&vec!["a"; PATH_COMPONENTS_MAX + 1], PathError::TooDeep);
    let long = "n".repeat(NAME_BYTES_MAX);
    let names = vec![&*long; 16];
    assert!(stat(&names).is_ok());
    let names = [&names[..], &["x"]].concat();
    refused(&names, PathError::TooLong { bytes: 4097 });
    // The announced count of components must not cause an allocation.
    let endless = [
        0x82, 5, 0xa1, 0x00, 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    ];
    assert_eq!(decode::<Request>(&endless), Err(DecodeError::Truncated));
    // Not UTF-8.
    let invalid = [0x82, 5, 0xa1, 0x00, 0x81, 0x61, 0xff];
    assert_eq!(decode::<Request>(&invalid), Err(DecodeError::Malformed));
}

// P36
#[test]
fn phrases_of_unknown_codes_are_bounded() {
    let failure = |number, phrase: &str| Failure {
        number,
        phrase: phrase.to_owned(),
        below: None,
    };
    assert_eq!(failure(6, "whatever").phrase(), "not found");
    assert_eq!(failure(9000, "a later reason").phrase(), "a later reason");
    // The limit falls into the middle of the last character that would fit.
    let long = format!("x{}", "é".repeat(PHRASE_BYTES_MAX));
    let phrase = failure(9000, &long);
    assert_eq!(phrase.phrase().len(), PHRASE_BYTES_MAX - 1);
    assert!(long.starts_with(phrase.phrase()));
}
