//! Generators of every message for property tests.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::*;
use super::details::{detail_kinds, details};
use crate::digest::Digest;
use crate::error_code::ErrorCode;
use crate::limits::LINK_TARGET_BYTES_MAX;
use crate::path::RawName;

pub(super) fn name() -> impl Strategy<Value = Name> {
    let character = prop_oneof![any::<char>(), proptest::char::range('a', 'z')];
    let text = vec(character, 1..60).prop_map(|characters| characters.into_iter().collect());
    text.prop_filter_map("not a name", |text: String| Name::new(text).ok())
}

pub(super) fn path() -> impl Strategy<Value = RemotePath> {
    vec(name(), 0..8).prop_map(|names| RemotePath::from_names(names).unwrap())
}

pub(super) fn version() -> impl Strategy<Value = Version> {
    vec(any::<u8>(), 0..=VERSION_BYTES_MAX).prop_map(|bytes| Version::new(&bytes).unwrap())
}

pub(super) fn digest() -> impl Strategy<Value = Digest> {
    (kind(), vec(any::<u8>(), 0..100)).prop_map(|(kind, bytes)| {
        let mut hasher = kind.hasher();
        hasher.update(&bytes);
        hasher.finish()
    })
}

pub(super) fn copied() -> impl Strategy<Value = Copied> {
    let fields = (version(), any::<u64>(), vec(path(), 0..4), any::<bool>());
    fields.prop_map(|(version, left_out, names, is_hard_link)| Copied {
        version,
        left_out,
        names,
        is_hard_link,
    })
}

pub(super) fn trailer() -> impl Strategy<Value = Trailer> {
    (digest(), any::<bool>()).prop_map(|(digest, grew)| Trailer { digest, grew })
}

pub(super) fn pong() -> impl Strategy<Value = Pong> {
    let figures = (any::<u8>(), any::<u32>(), any::<u32>(), any::<u32>());
    let measured = figures.prop_map(|(limit, lost, late, jitter)| Measured {
        limit,
        lost,
        late,
        jitter,
    });
    let remembers = option::of(any::<u64>());
    let fields = (
        ".{0,40}",
        any::<bool>(),
        option::of(measured),
        detail_kinds(),
        remembers,
    );
    fields.prop_map(|(software, writable, measured, details, remembers)| Pong {
        software,
        writable,
        measured,
        details,
        remembers,
    })
}

fn ping() -> impl Strategy<Value = Ping> {
    let transfer = (any::<bool>(), any::<u64>());
    let transfer = transfer.prop_map(|(is_upload, micros)| EndedTransfer { is_upload, micros });
    option::of(transfer).prop_map(|transfer| Ping { transfer })
}

pub(super) fn kind() -> impl Strategy<Value = DigestKind> {
    proptest::sample::select(DigestKind::ALL.to_vec())
}

pub(super) fn precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        Just(Precondition::Any),
        Just(Precondition::Absent),
        version().prop_map(Precondition::Match),
    ]
}

pub(super) fn preserve() -> impl Strategy<Value = Preserve> {
    proptest::sample::select(vec![Preserve::Usual, Preserve::Exact, Preserve::Nothing])
}

pub(super) fn time() -> impl Strategy<Value = Time> {
    (any::<i64>(), any::<u32>()).prop_map(|(seconds, nanoseconds)| Time {
        seconds,
        nanoseconds,
    })
}

pub(super) fn get() -> impl Strategy<Value = Request> {
    let fields = (
        path(),
        any::<u64>(),
        option::of(any::<u64>()),
        kind(),
        precondition(),
        any::<[bool; 2]>(),
        detail_kinds(),
    );
    fields.prop_map(
        |(path, offset, length, digest, precondition, flags, details)| {
            let [digest_from_start, takes_extents] = flags;
            let get = Get {
                path,
                offset,
                length,
                digest,
                precondition,
                digest_from_start,
                takes_extents,
                details,
            };
            get.into()
        },
    )
}

pub(super) fn put() -> impl Strategy<Value = Request> {
    let header = (
        option::of(any::<u64>()),
        option::of(time()),
        option::of(any::<u32>()),
    );
    let options = (any::<bool>(), preserve(), details());
    let fields = (path(), header, kind(), precondition(), options);
    fields.prop_map(
        |(path, (size, modified, mode), digest, precondition, options)| {
            let (make_parents, preserve, details) = options;
            let put = Put {
                path,
                size,
                modified,
                mode,
                digest,
                precondition,
                make_parents,
                preserve,
                details,
            };
            put.into()
        },
    )
}

fn change_id() -> impl Strategy<Value = Option<ChangeId>> {
    option::of(any::<[u8; ChangeId::BYTES]>().prop_map(ChangeId::new))
}

pub(super) fn two_paths() -> impl Strategy<Value = Request> {
    let fields = (
        path(),
        path(),
        precondition(),
        precondition(),
        option::of((any::<bool>(), preserve(), detail_kinds(), any::<bool>())),
        change_id(),
    );
    fields.prop_map(
        |(from, to, source, target, copied, change_id)| match copied {
            None => Rename {
                from,
                to,
                source,
                target,
                change_id,
            }
            .into(),
            Some((recursive, preserve, details, hard_link)) => Copy {
                from,
                to,
                recursive,
                source,
                target,
                preserve,
                details,
                hard_link,
                change_id,
            }
            .into(),
        },
    )
}

pub(super) fn one_path() -> impl Strategy<Value = Request> {
    prop_oneof![
        ping().prop_map(Request::from),
        Just(ListCache {}.into()),
        Just(PutMany {}.into()),
        any::<[u8; 32]>().prop_map(|proof| Pair { proof }.into()),
        (path(), option::of(name())).prop_map(|(path, after)| List { path, after }.into()),
        (path(), detail_kinds()).prop_map(|(path, details)| Stat { path, details }.into()),
        (path(), kind()).prop_map(|(path, digest)| Hash { path, digest }.into()),
        (path(), any::<bool>(), precondition(), change_id()).prop_map(
            |(path, recursive, precondition, change_id)| {
                let delete = Delete {
                    path,
                    recursive,
                    precondition,
                    change_id,
                };
                delete.into()
            }
        ),
        (path(), any::<bool>(), precondition(), change_id()).prop_map(
            |(path, make_parents, precondition, change_id)| {
                let make = MakeDirectory {
                    path,
                    make_parents,
                    precondition,
                    change_id,
                };
                make.into()
            }
        ),
        (path(), any::<u32>(), precondition(), details()).prop_map(
            |(path, mode, precondition, details)| {
                let chmod = Chmod {
                    path,
                    mode,
                    precondition,
                    details,
                };
                chmod.into()
            }
        ),
    ]
}

/// The target of a symbolic link, legal or not.
fn link_target() -> impl Strategy<Value = LinkTarget> {
    let bytes = vec(any::<u8>(), 0..=LINK_TARGET_BYTES_MAX);
    bytes.prop_filter_map("short", |bytes| LinkTarget::new(&bytes))
}

fn make_symlink() -> impl Strategy<Value = Request> {
    let fields = (
        path(),
        link_target(),
        any::<bool>(),
        precondition(),
        option::of(time()),
    );
    fields.prop_map(|(path, target, make_parents, precondition, modified)| {
        let link = MakeSymlink {
            path,
            target,
            make_parents,
            precondition,
            modified,
        };
        link.into()
    })
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        get(),
        put(),
        (put(), option::of(any::<u64>())).prop_map(|(put, in_extents)| match put {
            Request::Put(put) => ResumePut { put, in_extents }.into(),
            other => other,
        }),
        (path(), any::<bool>()).prop_map(|(path, remove)| Uploads { path, remove }.into()),
        super::delta::request(),
        two_paths(),
        one_path(),
        make_symlink(),
        super::many::get_tree(),
        super::many::get_many()
    ]
}

/// A reply of `T`s, or a failure of a code that this version may not know.
pub(super) fn reply<T: Debug + Clone>(
    values: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Reply<T>> {
    let failure = (any::<u16>(), option::of(path()));
    let failure =
        failure.prop_map(|(code, below)| Failure::new(ErrorCode::from_number(code)).about(below));
    prop_oneof![3 => values.prop_map(Reply::Ok), 1 => failure.prop_map(Reply::Failed)]
}

pub(super) fn attributes() -> impl Strategy<Value = Attributes> {
    use EntryKind::{Directory, File, Other, Symlink};
    let kinds = proptest::sample::select(vec![File, Directory, Symlink, Other]);
    let links = (option::of(link_target()), option::of(any::<u128>()));
    let numbers = (any::<u64>(), any::<u32>());
    let fields = (kinds, numbers, time(), version(), links, details());
    fields.prop_map(
        |(kind, (size, mode), modified, version, links, details)| Attributes {
            kind,
            size,
            modified,
            mode,
            version,
            target: links.0,
            hard_link: links.1.map(HardLinkId::of),
            details,
        },
    )
}

pub(super) fn page() -> impl Strategy<Value = Page> {
    let entries = vec(
        (name(), attributes()).prop_map(|(name, attributes)| Entry { name, attributes }),
        0..4,
    );
    (entries, any::<u64>(), any::<bool>(), raw_names()).prop_map(
        |(entries, unnameable, last, raw_names)| Page {
            entries,
            unnameable,
            last,
            raw_names,
        },
    )
}

pub(super) fn raw_names() -> impl Strategy<Value = Vec<RawName>> {
    let name = vec(any::<u8>(), 0..8).prop_filter_map("short", |bytes| RawName::new(&bytes));
    vec(name, 0..3)
}

pub(super) fn cache_page() -> impl Strategy<Value = CachePage> {
    let entry = (path(), any::<u64>(), any::<u64>(), any::<u64>());
    let entries = vec(
        entry.prop_map(|(path, bytes, hits, readers)| CacheEntry {
            path,
            bytes,
            hits,
            readers,
        }),
        0..4,
    );
    (entries, any::<u64>(), any::<bool>()).prop_map(|(entries, limit, last)| CachePage {
        entries,
        limit,
        last,
    })
}

pub(super) fn get_header() -> impl Strategy<Value = GetHeader> {
    let fields = (
        version(),
        any::<[u64; 2]>(),
        time(),
        any::<u32>(),
        any::<bool>(),
        details(),
    );
    fields.prop_map(
        |(version, [size, length], modified, mode, in_extents, details)| GetHeader {
            version,
            size,
            length,
            modified,
            mode,
            in_extents,
            details,
        },
    )
}

pub(super) fn hashed() -> impl Strategy<Value = Hashed> {
    let fields = (digest(), any::<u64>(), version(), any::<bool>());
    fields.prop_map(|(digest, size, version, grew)| Hashed {
        digest,
        size,
        version,
        grew,
    })
}
