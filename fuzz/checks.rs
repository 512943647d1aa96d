//! What must hold for any bytes at all, one function for each decoder.
//!
//! The fuzz targets call these with what the fuzzer makes up, and a plain test with the corpus
//! that is kept, so that what was once found stays found without a nightly toolchain.

use std::path::Path;

use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::auth::rules::Rules;
use quire_shared::RemotePath;
use quire_shared::codec::{self, PREFIX_BYTES};
use quire_shared::pairing::{Paired, PairingCode};
use quire_shared::protocol::{
    Attributes, CachePage, Changed, Done, GetHeader, Hashed, Message, Outcome, Page, Pong, PutItem,
    Reply, Request, Trailer, TreeItem,
};

/// A check of one decoder.
pub(crate) type Check = fn(&[u8]);

/// All of them, by the names of their targets.
#[allow(dead_code, reason = "each fuzz target uses one of them alone")]
pub(crate) const CHECKS: [(&str, Check); 4] = [
    ("request", request),
    ("reply", reply),
    ("keys", keys),
    ("code", code),
];

/// What decodes is encoded in a way that decodes to the same.
fn survives<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<M>(bytes) else {
        return;
    };
    let Ok(encoded) = codec::encode(&message) else {
        // Longer in our words than in theirs, and over the limit only then.
        return;
    };
    let again = codec::decode::<M>(&encoded[PREFIX_BYTES..]);
    assert_eq!(again.ok().as_ref(), Some(&message));
}

/// A request, as a server receives it.
pub(crate) fn request(bytes: &[u8]) {
    survives::<Request>(bytes);
    survives::<Trailer>(bytes);
    survives::<PutItem>(bytes);
}

/// Any answer, as a client receives it.
pub(crate) fn reply(bytes: &[u8]) {
    survives::<Reply<Pong>>(bytes);
    survives::<Reply<GetHeader>>(bytes);
    survives::<Reply<Trailer>>(bytes);
    survives::<Reply<Changed>>(bytes);
    survives::<Reply<Page>>(bytes);
    survives::<Reply<Attributes>>(bytes);
    survives::<Reply<Done>>(bytes);
    survives::<Reply<Hashed>>(bytes);
    survives::<Reply<CachePage>>(bytes);
    survives::<Reply<Paired>>(bytes);
    survives::<Reply<Outcome>>(bytes);
    survives::<TreeItem>(bytes);
}

/// A file of authorized keys, rules, and a path as people type it.
pub(crate) fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = AuthorizedKeys::parse(Path::new("fuzzed"), text);
    if let Ok(rules) = text.parse::<Rules>() {
        assert_eq!(rules.to_string().parse(), Ok(rules));
    }
    if let Ok(path) = RemotePath::parse(text) {
        assert_eq!(
            RemotePath::parse(&path.to_relative()).ok(),
            (!path.is_root()).then_some(path)
        );
    }
}

/// A pairing code as people type it.
pub(crate) fn code(bytes: &[u8]) {
    if let Some(code) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        let code: PairingCode = code;
        assert_eq!(code.to_string().parse(), Ok(code));
    }
}
