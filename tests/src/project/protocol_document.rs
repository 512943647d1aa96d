//! PROTOCOL.md against the code: every figure, table, grammar and example in the document is read here
//! and compared with the implementation.

mod diagnostic;
mod document;

use std::collections::{BTreeMap, BTreeSet};

use cddl_cat::cbor::validate_cbor_bytes;
use cddl_cat::flatten::flatten_from_str;
use document::{Document, Example, ExchangeLine};
use minicbor::Encoder;
use quire_shared::ErrorCode;
use quire_shared::codec::{self, DecodeError, PREFIX_BYTES};
use quire_shared::digest::DigestKind;
use quire_shared::pairing::Paired;
use quire_shared::protocol;
use quire_shared::protocol::{
    Attributes, CachePage, Changed, ChunkPage, Copied, DeltaStep, Done, GetHeader, GetItem,
    GotItem, Hashed, Message, Outcome, Page, Pong, PutDelta, PutItem, PutOffset, Reply, Request,
    Trailer, TreeItem, UploadPage,
};
use quire_shared::{limits, path};

/// Decodes the CBOR bytes of a message, and encodes the result.
type Recode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

/// The CDDL rules of every message with a length prefix.
const MESSAGES: &[(&str, Recode)] = &[
    ("request", recode::<Request>),
    ("pong-reply", recode::<Reply<Pong>>),
    ("get-header-reply", recode::<Reply<GetHeader>>),
    ("trailer-reply", recode::<Reply<Trailer>>),
    ("changed-reply", recode::<Reply<Changed>>),
    ("put-offset-reply", recode::<Reply<PutOffset>>),
    ("copied-reply", recode::<Reply<Copied>>),
    ("trailer", recode::<Trailer>),
    ("page-reply", recode::<Reply<Page>>),
    ("attributes-reply", recode::<Reply<Attributes>>),
    ("done-reply", recode::<Reply<Done>>),
    ("hashed-reply", recode::<Reply<Hashed>>),
    ("cache-page-reply", recode::<Reply<CachePage>>),
    ("upload-page-reply", recode::<Reply<UploadPage>>),
    ("chunk-page-reply", recode::<Reply<ChunkPage>>),
    ("delta-step", recode::<DeltaStep>),
    ("tree-item", recode::<TreeItem>),
    ("put-item", recode::<PutItem>),
    ("outcome-reply", recode::<Reply<Outcome>>),
    ("get-item", recode::<GetItem>),
    ("got-item-reply", recode::<Reply<GotItem>>),
    ("paired-reply", recode::<Reply<Paired>>),
];

fn recode<M: Message>(cbor: &[u8]) -> Result<Vec<u8>, DecodeError> {
    codec::encode(&codec::decode::<M>(cbor)?)
}

fn recoder(rule: &str) -> Recode {
    let found = MESSAGES.iter().find(|(name, _)| *name == rule);
    found.unwrap_or_else(|| panic!("`{rule}` is no message")).1
}

fn split(bytes: &[u8]) -> (usize, &[u8]) {
    let (prefix, cbor) = bytes.split_first_chunk::<PREFIX_BYTES>().unwrap();
    (u32::from_be_bytes(*prefix) as usize, cbor)
}

// P10
#[test]
fn examples_are_what_the_implementation_sends() {
    let document = Document::read();
    for example in &document.examples {
        let (length, cbor) = split(&example.bytes);
        assert_eq!(length, cbor.len(), "length prefix of {example:?}");
        let encoded = recoder(&example.rule)(cbor).unwrap();
        assert_eq!(encoded, example.bytes, "{example:?}");
        assert_eq!(diagnostic::show(cbor), example.diagnostic, "{example:?}");
        if example.rule == "request" {
            let request: Request = codec::decode(cbor).unwrap();
            let title = example.title.split(',').next();
            assert_eq!(title, Some(request.name()), "{example:?}");
        }
    }
}

#[test]
fn examples_cover_every_message() {
    let document = Document::read();
    let shown: BTreeSet<_> = document
        .examples
        .iter()
        .map(|example| &*example.rule)
        .collect();
    assert_eq!(shown, MESSAGES.iter().map(|(rule, _)| *rule).collect());
    let requests = document
        .examples
        .iter()
        .filter(|example| example.rule == "request");
    let kinds: BTreeSet<u16> = requests
        .map(|request| kind_of(split(&request.bytes).1))
        .collect();
    assert_eq!(kinds, (0..1_000).filter(|kind| is_known(*kind)).collect());
    let failures = document.examples.iter().filter(|example| {
        let failed = example.rule != "request" && example.bytes.get(PREFIX_BYTES + 1) == Some(&1);
        failed && example.bytes.get(PREFIX_BYTES) == Some(&0x82)
    });
    assert_ne!(failures.count(), 0, "no failure is shown");
}

fn kind_of(request: &[u8]) -> u16 {
    let mut decoder = minicbor::Decoder::new(request);
    decoder.array().unwrap();
    decoder.u16().unwrap()
}

/// Whether this version has a request with this number, whatever rights it needs.
fn is_known(kind: u16) -> bool {
    let mut cbor = Vec::new();
    Encoder::new(&mut cbor)
        .array(2)
        .unwrap()
        .u16(kind)
        .unwrap()
        .map(0)
        .unwrap();
    codec::decode::<Request>(&cbor) != Err(DecodeError::UnknownKind)
}

#[test]
fn exchanges_are_whole_streams() {
    let document = Document::read();
    let mut bodies = BTreeSet::new();
    for exchange in &document.exchanges {
        let mut request = None;
        let (mut body, mut kinds, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for line in exchange {
            match &*line.rule {
                "body" => body.extend_from_slice(&line.bytes),
                "piece" => {
                    let (length, piece) = split(&line.bytes);
                    assert_eq!(length, piece.len(), "{line:?}");
                    body.extend_from_slice(piece);
                }
                rule => {
                    let cbor = split(&line.bytes).1;
                    assert_eq!(recoder(rule)(cbor).as_ref(), Ok(&line.bytes), "{line:?}");
                    match rule {
                        "request" => request = Some(codec::decode::<Request>(cbor).unwrap()),
                        "trailer" => digests.push(codec::decode::<Trailer>(cbor).unwrap().digest),
                        "trailer-reply" => {
                            let trailer = codec::decode::<Reply<Trailer>>(cbor).unwrap();
                            digests.push(trailer.into_result().unwrap().digest);
                        }
                        _ => {}
                    }
                }
            }
            kinds.push(&*line.rule);
        }
        kinds.dedup();
        let request = request.unwrap();
        let expected = sequence(&request, body.len(), exchange);
        assert_eq!(kinds, expected);
        let mut hasher = digest_of(&request).hasher();
        hasher.update(&body);
        // P30
        assert_eq!(digests, [hasher.finish()]);
        bodies.insert(expected);
    }
    let kinds = "get, two kinds of put, get-tree, put-many, get-many, put-delta";
    assert_eq!(bodies.len(), 7, "{kinds}");
}

/// The parts on the stream of `request`, whose body has `length` bytes.
fn sequence(
    request: &Request,
    length: usize,
    exchange: &[ExchangeLine],
) -> &'static [&'static str] {
    match request {
        Request::Get(get) => {
            assert_eq!(get.length, Some(length as u64));
            &["request", "get-header-reply", "body", "trailer-reply"]
        }
        Request::Put(put) if put.size.is_some() => {
            assert_eq!(put.size, Some(length as u64));
            &["request", "body", "trailer", "changed-reply"]
        }
        Request::PutDelta(_) => &["request", "delta-step", "body", "trailer", "changed-reply"],
        Request::Put(_) => {
            let last = exchange.iter().rfind(|line| line.rule == "piece").unwrap();
            assert_eq!(split(&last.bytes).0, 0, "the last piece is empty");
            &["request", "piece", "trailer", "changed-reply"]
        }
        Request::GetTree(_) => &[
            "request",
            "attributes-reply",
            "tree-item",
            "body",
            "trailer-reply",
            "tree-item",
        ],
        Request::PutMany(_) => &[
            "request",
            "put-item",
            "body",
            "trailer",
            "put-item",
            "outcome-reply",
        ],
        Request::GetMany(_) => &[
            "request",
            "get-item",
            "got-item-reply",
            "body",
            "trailer-reply",
        ],
        other => panic!("{} has no body", other.name()),
    }
}

/// The digest kind of the trailer.
fn digest_of(request: &Request) -> DigestKind {
    match request {
        Request::Get(get) => get.digest,
        Request::Put(put) | Request::PutDelta(PutDelta { put, .. }) => put.digest,
        Request::GetTree(get) => get.digest,
        // Each item says it; the example's items use the default.
        Request::PutMany(_) => DigestKind::Xxh3,
        Request::GetMany(get) => get.digest,
        other => panic!("{} has no trailer", other.name()),
    }
}

#[test]
fn the_grammar_takes_every_example() {
    let document = Document::read();
    for Example { rule, bytes, .. } in &document.examples {
        let valid = validate_cbor_bytes(rule, &document.cddl, split(bytes).1);
        assert!(valid.is_ok(), "{rule}: {valid:?}");
    }
}

/// Each byte of each example is replaced by some other values. The grammar and the decoder must agree on
/// the result, except for rules that only the prose states, and for maps with a key twice, which no
/// sender writes.
#[test]
fn the_grammar_and_the_decoder_agree_on_damaged_examples() {
    let document = Document::read();
    let (mut taken, mut refused) = (0, 0);
    for Example { rule, bytes, .. } in &document.examples {
        let recode = recoder(rule);
        let mut cbor = split(bytes).1.to_vec();
        for position in 0..cbor.len() {
            for flip in FLIPS {
                cbor[position] ^= flip;
                let decoded = recode(&cbor);
                let valid = validate_cbor_bytes(rule, &document.cddl, &cbor);
                let agreed = match (&decoded, &valid) {
                    (Ok(_), Ok(())) | (Err(_), Err(_)) => true,
                    (Err(error), Ok(())) => is_prose(error) || diagnostic::repeats_a_key(&cbor),
                    (Ok(_), Err(_)) => false,
                };
                assert!(
                    agreed,
                    "{rule} {}: {decoded:?}, {valid:?}",
                    diagnostic::hex(&cbor)
                );
                *if valid.is_ok() {
                    &mut taken
                } else {
                    &mut refused
                } += 1;
                cbor[position] ^= flip;
            }
        }
    }
    assert!(
        taken > 100 && refused > 100,
        "{taken} taken, {refused} refused"
    );
}

/// Changes of a byte: nearby values, and the type of the item that it begins.
const FLIPS: [u8; 6] = [0x01, 0x02, 0x10, 0x20, 0x60, 0xff];

/// Rules that the grammar doesn't state: those of names and details, and bytes after the message.
fn is_prose(error: &DecodeError) -> bool {
    matches!(
        error,
        DecodeError::InvalidPath(_) | DecodeError::Detail(_) | DecodeError::TrailingBytes
    )
}

#[test]
fn the_grammar_has_a_rule_for_every_type_of_the_conversation() {
    let document = Document::read();
    let rules = flatten_from_str(&document.cddl).unwrap();
    let source = ["", "/delta", "/details", "/links", "/many", "/replies"]
        .map(|file| document::read(&format!("shared/src/protocol{file}.rs")))
        .concat();
    let types: Vec<_> = ["pub struct ", "pub enum "]
        .iter()
        .flat_map(|keyword| {
            source
                .lines()
                .filter_map(move |line| line.trim().strip_prefix(*keyword))
        })
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next())
        .collect();
    assert!(types.len() > 25, "{types:?}");
    for name in types {
        // CDDL itself has a type `time`.
        let rule = if name == "Time" {
            "timestamp".to_owned()
        } else {
            kebab(name)
        };
        assert!(rules.contains_key(&rule), "no rule `{rule}` for {name}");
    }
    for (rule, _) in MESSAGES {
        assert!(rules.contains_key(*rule), "no rule `{rule}`");
    }
}

fn kebab(name: &str) -> String {
    let mut kebab = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !kebab.is_empty() {
            kebab.push('-');
        }
        kebab.extend(character.to_lowercase());
    }
    kebab
}

#[test]
fn the_table_of_errors_is_the_implementations() {
    let document = Document::read();
    let documented: Vec<_> = document
        .table("| number | name | phrase |")
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1].clone(), row[2].clone()))
        .collect();
    let implemented: Vec<(u16, _, _)> = ErrorCode::ALL
        .iter()
        .map(|code| {
            let text = |text: Option<&str>| text.unwrap().to_owned();
            (code.number(), text(code.name()), text(code.phrase()))
        })
        .collect();
    assert_eq!(documented, implemented);
    for code in document.mentioned_codes() {
        assert!(
            ErrorCode::ALL
                .iter()
                .any(|known| known.name() == Some(&*code)),
            "`{code}` is no error code"
        );
    }
}

#[test]
fn the_table_of_limits_is_the_implementations() {
    let document = Document::read();
    let documented: BTreeMap<_, _> = document
        .table("| name | value | what |")
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse::<usize>().unwrap()))
        .collect();
    let implemented = [
        ("EXTENT_BYTES_MIN", limits::EXTENT_BYTES_MIN),
        ("NAME_BYTES_MAX", limits::NAME_BYTES_MAX),
        ("PATH_BYTES_MAX", limits::PATH_BYTES_MAX),
        ("PATH_COMPONENTS_MAX", limits::PATH_COMPONENTS_MAX),
        ("REQUEST_BYTES_MAX", limits::REQUEST_BYTES_MAX),
        ("REPLY_BYTES_MAX", limits::REPLY_BYTES_MAX),
        ("DETAILED_BYTES_MAX", limits::DETAILED_BYTES_MAX),
        ("PAGE_BYTES_MAX", limits::PAGE_BYTES_MAX),
        ("VERSION_BYTES_MAX", limits::VERSION_BYTES_MAX),
        ("HARD_LINK_BYTES_MAX", limits::HARD_LINK_BYTES_MAX),
        ("LINK_TARGET_BYTES_MAX", limits::LINK_TARGET_BYTES_MAX),
        ("RAW_NAMES_MAX", limits::RAW_NAMES_MAX),
        ("XATTR_NAME_BYTES_MAX", limits::XATTR_NAME_BYTES_MAX),
        ("XATTRS_BYTES_MAX", limits::XATTRS_BYTES_MAX),
        ("XATTRS_MAX", limits::XATTRS_MAX),
        ("ACCOUNT_NAME_BYTES_MAX", limits::ACCOUNT_NAME_BYTES_MAX),
        ("DIGEST_BYTES_MAX", limits::DIGEST_BYTES_MAX),
        ("PIECE_BYTES_MAX", limits::PIECE_BYTES_MAX),
        ("ENCLOSED_BYTES_MAX", limits::ENCLOSED_BYTES_MAX),
        ("PHRASE_BYTES_MAX", limits::PHRASE_BYTES_MAX),
        ("STREAMS_MAX", limits::STREAMS_MAX as usize),
    ];
    let implemented = implemented.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(documented, BTreeMap::from(implemented));
    let source = document::read("shared/src/limits.rs");
    let declared: BTreeSet<_> = source
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next())
        .collect();
    assert_eq!(declared, documented.keys().map(String::as_str).collect());
}

#[test]
fn names_and_numbers_in_the_prose_are_the_implementations() {
    let document = Document::read();
    let stated = |before: &str| document.quoted_after(before);
    let alpn = String::from_utf8(protocol::ALPN.to_vec()).unwrap();
    assert_eq!(stated("The ALPN identifier (RFC 7301) is "), alpn);
    let port = stated("A server listens on UDP port ");
    assert_eq!(port.parse(), Ok(protocol::PORT));
    assert_eq!(stated("The prefix "), path::RESERVED_PREFIX);
    assert_eq!(stated("U+0000, begins with "), path::RESERVED_PREFIX);
    let kinds: Vec<_> = DigestKind::ALL
        .iter()
        .map(|kind| (u64::from(kind.number()), kind.digest_bytes() as u64))
        .collect();
    assert_eq!(document.digest_kinds(), kinds);
}

#[test]
fn requirements_are_numbered_without_gaps() {
    let numbers = Document::read().requirements();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    assert!(numbers.len() > 25);
}
