//! Symbolic and hard links: the request that makes the one, and what tells names of one file.

use minicbor::{Decode, Encode};

use super::{Precondition, Time};
use crate::limits::{HARD_LINK_BYTES_MAX, LINK_TARGET_BYTES_MAX};
use crate::octets::octets;
use crate::path::RemotePath;

/// Makes a symbolic link. Reply: [`Changed`](super::Changed). A file or link that has the path is
/// replaced if the condition allows it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct MakeSymlink {
    /// The link.
    #[n(0)]
    pub path: RemotePath,
    /// Its target, which must not lead out of the root.
    #[n(1)]
    pub target: LinkTarget,
    /// Whether to create missing parent directories.
    #[n(2)]
    #[cbor(default)]
    pub make_parents: bool,
    /// Condition on what has this path now.
    #[n(3)]
    #[cbor(default)]
    pub precondition: Precondition,
    /// The modification time of the link itself; the time of the request if absent.
    #[n(4)]
    pub modified: Option<Time>,
}

octets! {
    /// The target of a symbolic link, as it is stored: text that other programs may follow, and quire
    /// never does.
    pub struct LinkTarget, max: LINK_TARGET_BYTES_MAX, too_long: "target of a link over its limit"
}

impl LinkTarget {
    /// Makes a target of these bytes; `None` if there are more than [`LINK_TARGET_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= LINK_TARGET_BYTES_MAX).then(|| Self(bytes.into()))
    }

    /// Whether a link with this target can't lead out of a directory, if it lies in one that is
    /// `depth` levels below it.
    ///
    /// The target has to be relative, and `..` may only come first, at most `depth` times. Up to
    /// there the way leads through the directories that the link lies in, which are no links, as
    /// nobody who makes links by this rule follows any. From there it leads down; where it passes
    /// another link made by the same rule, that one ends within the directory as well, by induction.
    /// A `..` behind a name would undo this: it may leave a directory that the name leads to by a
    /// link.
    pub fn stays_within(&self, depth: usize) -> bool {
        if self.0.is_empty() || self.0.starts_with(b"/") || self.0.contains(&0) {
            return false;
        }
        let mut levels_up = 0;
        let mut goes_down = false;
        for part in self.0.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if goes_down => return false,
                b".." => levels_up += 1,
                _ => goes_down = true,
            }
        }
        levels_up <= depth
    }
}

const _: () = assert!(size_of::<u128>() <= HARD_LINK_BYTES_MAX);

octets! {
    /// What all names of one file have in common, and no other file has. It is for comparison only, and
    /// may be another after a restart of the server.
    pub struct HardLinkId, max: HARD_LINK_BYTES_MAX, too_long: "identity of a file over its limit"
}

impl HardLinkId {
    /// Makes an identity of this number.
    pub fn of(number: u128) -> Self {
        Self(number.to_be_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use crate::limits::{PATH_BYTES_MAX, VERSION_BYTES_MAX};
    use crate::protocol::{Request, Version};

    #[test]
    fn the_largest_request_fits_its_limit() {
        let name = "n".repeat(PATH_BYTES_MAX / 20 - 1);
        let path = vec![name; 20].join("/");
        let link = MakeSymlink {
            path: RemotePath::parse(&path).unwrap(),
            target: LinkTarget::new(&[0xff; LINK_TARGET_BYTES_MAX]).unwrap(),
            make_parents: true,
            precondition: Precondition::Match(Version::new(&[0xff; VERSION_BYTES_MAX]).unwrap()),
            modified: Some(Time {
                seconds: i64::MIN,
                nanoseconds: u32::MAX,
            }),
        };
        encode(&Request::from(link)).unwrap();
    }

    fn stays(target: &[u8], depth: usize) -> bool {
        LinkTarget::new(target).unwrap().stays_within(depth)
    }

    // P71
    #[test]
    fn a_target_climbs_only_at_its_beginning_and_no_further_than_the_link_is_deep() {
        for (target, depth) in [
            (&b"a"[..], 0),
            (b"a/b.c/..d", 0),
            (b".", 0),
            (b"./a//b/.", 0),
            (b"..", 1),
            (b"../a", 1),
            (b"./../../a/...", 2),
            (b"\xff", 0),
        ] {
            assert!(stays(target, depth), "{target:?}");
        }
        for (target, depth) in [
            (&b""[..], 9),
            (b"/", 9),
            (b"/etc/passwd", 9),
            (b"//a", 9),
            (b"..", 0),
            (b"../../x", 1),
            (b"./../..", 1),
            (b"a/..", 9),
            (b"a/../../..", 9),
            (b"../a/../b", 9),
            (b"a\0b", 9),
        ] {
            assert!(!stays(target, depth), "{target:?}");
        }
    }
}
