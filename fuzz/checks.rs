//! Properties that must hold for any bytes: one function for each decoder.
//!
//! The fuzz targets call them with generated inputs. A test of the workspace calls them with the
//! stored corpus, so that old findings are checked on every run, without a nightly toolchain.

use std::path::Path;

use quire_server::auth::authorized_keys::AuthorizedKeys;
use quire_server::auth::rules::Rules;
use quire_shared::RemotePath;
use quire_shared::codec::{self, PREFIX_BYTES};
use quire_shared::pairing::{Paired, PairingCode};
use quire_shared::protocol::{
    Attributes, CachePage, Changed, ChunkPage, DeltaStep, Done, GetHeader, GetItem, GotItem,
    Hashed, Message, Outcome, Page, Pong, PutItem, Reply, Request, Trailer, TreeItem,
};

/// A check of one decoder.
pub(crate) type Check = fn(&[u8]);

/// All checks, by the name of their fuzz target.
#[allow(dead_code, reason = "each fuzz target uses one of them alone")]
pub(crate) const CHECKS: [(&str, Check); 4] = [
    ("request", request),
    ("reply", reply),
    ("keys", keys),
    ("code", code),
];

/// Checks that a message which decodes can be encoded, and decodes to the same message again.
fn round_trips<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<M>(bytes) else {
        return;
    };
    let Ok(encoded) = codec::encode(&message) else {
        // The peer's encoding may be shorter, for example with keys left out, so that only this one
        // is over the limit.
        return;
    };
    let again = codec::decode::<M>(&encoded[PREFIX_BYTES..]);
    assert_eq!(again.ok().as_ref(), Some(&message));
}

/// Messages that a server receives.
pub(crate) fn request(bytes: &[u8]) {
    round_trips::<Request>(bytes);
    round_trips::<Trailer>(bytes);
    round_trips::<PutItem>(bytes);
    round_trips::<GetItem>(bytes);
    round_trips::<DeltaStep>(bytes);
}

/// Messages that a client receives.
pub(crate) fn reply(bytes: &[u8]) {
    round_trips::<Reply<Pong>>(bytes);
    round_trips::<Reply<GetHeader>>(bytes);
    round_trips::<Reply<Trailer>>(bytes);
    round_trips::<Reply<Changed>>(bytes);
    round_trips::<Reply<Page>>(bytes);
    round_trips::<Reply<ChunkPage>>(bytes);
    round_trips::<Reply<Attributes>>(bytes);
    round_trips::<Reply<Done>>(bytes);
    round_trips::<Reply<Hashed>>(bytes);
    round_trips::<Reply<CachePage>>(bytes);
    round_trips::<Reply<Paired>>(bytes);
    round_trips::<Reply<Outcome>>(bytes);
    round_trips::<Reply<GotItem>>(bytes);
    round_trips::<TreeItem>(bytes);
}

/// Texts that people write: a file of authorized keys, rules, and a path.
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

/// A pairing code as typed by a person.
pub(crate) fn code(bytes: &[u8]) {
    if let Some(code) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        let code: PairingCode = code;
        assert_eq!(code.to_string().parse(), Ok(code));
    }
}
