//! The upload that a part is of, as its journal and its name say.

use quire_shared::RemotePath;
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Precondition, Time, Version};

use super::PREFIX;

/// The upload that a part is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::files) struct UploadSource {
    /// Whose upload it is.
    pub owner: String,
    /// Path that the file will have.
    pub path: RemotePath,
    /// Size of the whole file, in bytes.
    pub size: u64,
    /// Modification time of the client's file.
    pub modified: Time,
    /// Condition on what has the path.
    pub precondition: Precondition,
}

impl UploadSource {
    /// Name of the part in the staging directory.
    pub(super) fn name(&self) -> String {
        let digest = DigestKind::Blake3.of(self.to_string().as_bytes());
        format!("{}{}", self.prefix(), first_chars(&digest.to_string(), 32))
    }

    /// What the names of all parts of its owner begin with.
    pub(super) fn prefix(&self) -> String {
        let owner = DigestKind::Blake3.of(self.owner.as_bytes());
        format!("{PREFIX}{}-", first_chars(&owner.to_string(), 16))
    }

    pub(super) fn parse(lines: &str) -> Option<Self> {
        let mut lines = lines.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name);
        let owner = field(OWNER)?.to_owned();
        let size = field(SIZE)?.parse().ok()?;
        let (seconds, nanoseconds) = field(MODIFIED)?.split_once(' ')?;
        let modified = Time {
            seconds: seconds.parse().ok()?,
            nanoseconds: nanoseconds.parse().ok()?,
        };
        let precondition = match field(PRECONDITION)? {
            ANY => Precondition::Any,
            ABSENT => Precondition::Absent,
            version => Precondition::Match(Version::new(&unhex(version)?)?),
        };
        let path = String::from_utf8(unhex(field(PATH)?)?).ok()?;
        Some(Self {
            owner,
            path: RemotePath::parse(&path).ok()?,
            size,
            modified,
            precondition,
        })
    }
}

/// The lines of a journal.
impl std::fmt::Display for UploadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            owner,
            path,
            size,
            modified,
            precondition,
        } = self;
        let Time {
            seconds,
            nanoseconds,
        } = modified;
        writeln!(
            f,
            "{OWNER}{owner}\n{SIZE}{size}\n{MODIFIED}{seconds} {nanoseconds}"
        )?;
        match precondition {
            Precondition::Any => writeln!(f, "{PRECONDITION}{ANY}")?,
            Precondition::Absent => writeln!(f, "{PRECONDITION}{ABSENT}")?,
            Precondition::Match(version) => writeln!(f, "{PRECONDITION}{version}")?,
        }
        f.write_str(PATH)?;
        // In hexadecimal, since a name may contain the end of a line.
        for byte in path.to_relative().bytes() {
            write!(f, "{byte:02x}")?;
        }
        writeln!(f)
    }
}

fn first_chars(text: &str, count: usize) -> &str {
    text.get(..count).unwrap_or(text)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(digits).collect()
}

/// The beginnings of the lines of a journal, and the words for conditions.
const OWNER: &str = "owner ";
const SIZE: &str = "size ";
const MODIFIED: &str = "modified ";
const PRECONDITION: &str = "precondition ";
const PATH: &str = "path ";
const ANY: &str = "any";
const ABSENT: &str = "absent";
