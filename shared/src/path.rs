//! Names and paths of files on the server.
//!
//! A [`RemotePath`] is a list of [`Name`]s below the served root. Every constructor checks the
//! rules, and so does the decoder, so no code ever handles an unchecked path. A path has exactly
//! one spelling. Rights, locks, cache and the file system can therefore all use the same value. See
//! PROTOCOL.md, "Paths".

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder};

use crate::Escaped;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX, PATH_COMPONENTS_MAX, RAW_NAMES_MAX};
use crate::octets::octets;

/// Prefix of names that quire uses itself: staged uploads, the lock file of a root, unfinished
/// downloads. A peer can't name them.
pub const RESERVED_PREFIX: &str = ".quire-";

/// One component of a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

impl Name {
    /// Checks `name` against the rules for a component.
    ///
    /// # Errors
    /// The rule that `name` breaks.
    pub fn new(name: impl Into<Box<str>>) -> Result<Self, PathError> {
        let name = name.into();
        match &*name {
            "" => return Err(PathError::Empty),
            "." | ".." => return Err(PathError::Relative),
            _ => {}
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(PathError::NameTooLong { bytes: name.len() });
        }
        if name.contains('/') {
            return Err(PathError::Separator);
        }
        if name.contains('\0') {
            return Err(PathError::Nul);
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(PathError::Reserved);
        }
        Ok(Self(name))
    }

    /// Returns the name as it is in the file system.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Shows the name with control characters escaped, so that it can't command a terminal.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.0))
    }
}

impl<C> Encode<C> for Name {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.str(&self.0)?;
        Ok(())
    }
}

impl<'b, C> Decode<'b, C> for Name {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        Self::new(d.str()?).map_err(|error| minicbor::decode::Error::custom(error).at(position))
    }
}

/// A path below the served root. Without components it is the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RemotePath(Vec<Name>);

impl RemotePath {
    /// The served root.
    pub const ROOT: Self = Self(Vec::new());

    /// Parses a path that a person typed: components between slashes. Leading, trailing and doubled
    /// slashes are ignored. `.` and `..` are refused, not resolved.
    ///
    /// # Errors
    /// The rule that a component or the whole path breaks.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let names = text
            .split('/')
            .filter(|part| !part.is_empty())
            .map(Name::new);
        Self::from_names(names.collect::<Result<_, _>>()?)
    }

    /// Makes a path of names, and checks the limits of the path as a whole.
    ///
    /// # Errors
    /// If there are too many components or too many bytes in all.
    pub fn from_names(names: Vec<Name>) -> Result<Self, PathError> {
        if names.len() > PATH_COMPONENTS_MAX {
            return Err(PathError::TooDeep);
        }
        let bytes = names
            .iter()
            .map(|name| name.0.len() + 1)
            .sum::<usize>()
            .saturating_sub(1);
        if bytes > PATH_BYTES_MAX {
            return Err(PathError::TooLong { bytes });
        }
        Ok(Self(names))
    }

    /// Returns the components, outermost first.
    pub fn names(&self) -> &[Name] {
        &self.0
    }

    /// Whether this is the served root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the last component; `None` for the root.
    pub fn name(&self) -> Option<&Name> {
        self.0.last()
    }

    /// Returns the directory that contains this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, parent) = self.0.split_last()?;
        Some(Self(parent.to_vec()))
    }

    /// Appends a component.
    ///
    /// # Errors
    /// If the longer path is over a limit.
    pub fn join(&self, name: Name) -> Result<Self, PathError> {
        let mut names = self.0.clone();
        names.push(name);
        Self::from_names(names)
    }

    /// Appends all components of another path.
    ///
    /// # Errors
    /// If the longer path is over a limit.
    pub fn join_path(&self, below: &Self) -> Result<Self, PathError> {
        Self::from_names([&*self.0, &*below.0].concat())
    }

    /// Returns what follows `top`; `None` if this path is neither `top` nor below it.
    pub fn strip_prefix(&self, top: &Self) -> Option<Self> {
        let below = self.0.strip_prefix(&*top.0)?;
        Some(Self(below.to_vec()))
    }

    /// Whether `self` is `other` or an ancestor of it.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// Joins the components with slashes, for system calls relative to the root. The root is `.`.
    pub fn to_relative(&self) -> String {
        if self.is_root() {
            return ".".to_owned();
        }
        self.0
            .iter()
            .map(Name::as_str)
            .collect::<Vec<_>>()
            .join("/")
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_relative(), f)
    }
}

/// Shows the path with a leading slash and with control characters escaped.
impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl<C> Encode<C> for RemotePath {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.0.encode(e, context)
    }
}

impl<'b, C> Decode<'b, C> for RemotePath {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, minicbor::decode::Error> {
        let position = d.position();
        let mut names = Vec::new();
        for name in d.array_iter_with(context)? {
            // Checked here and not after the loop: the array may be endless.
            if names.len() == PATH_COMPONENTS_MAX {
                return Err(minicbor::decode::Error::custom(PathError::TooDeep).at(position));
            }
            names.push(name?);
        }
        Self::from_names(names).map_err(|error| minicbor::decode::Error::custom(error).at(position))
    }
}

octets! {
    /// A name that isn't UTF-8, which no request can name: for display only.
    pub struct RawName, max: NAME_BYTES_MAX, too_long: "name over its limit"
}

impl RawName {
    /// Makes a name of these bytes; `None` if there are more than [`NAME_BYTES_MAX`].
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= NAME_BYTES_MAX).then(|| Self(bytes.into()))
    }
}

/// The names in a directory that can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unnameable {
    /// How many there are.
    pub count: u64,
    /// Some of them, at most [`RAW_NAMES_MAX`].
    pub names: Vec<RawName>,
}

impl Unnameable {
    /// Counts a name.
    pub fn add(&mut self, name: &[u8]) {
        self.count += 1;
        if self.names.len() < RAW_NAMES_MAX {
            self.names.extend(RawName::new(name));
        }
    }
}

/// A rule that a name or a path breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A component is empty.
    #[error("a name can't be empty")]
    Empty,
    /// A component is `.` or `..`.
    #[error("`.` and `..` can't be part of a path")]
    Relative,
    /// A component contains a slash.
    #[error("a name can't contain `/`")]
    Separator,
    /// A component contains a NUL.
    #[error("a name can't contain a NUL character")]
    Nul,
    /// A component begins with [`RESERVED_PREFIX`].
    #[error("names that begin with `{RESERVED_PREFIX}` are reserved")]
    Reserved,
    /// A component is longer than [`NAME_BYTES_MAX`].
    #[error("a name has {bytes} bytes, more than {NAME_BYTES_MAX}")]
    NameTooLong {
        /// The length, in bytes.
        bytes: usize,
    },
    /// The path is longer than [`PATH_BYTES_MAX`].
    #[error("the path has {bytes} bytes, more than {PATH_BYTES_MAX}")]
    TooLong {
        /// The length, in bytes.
        bytes: usize,
    },
    /// The path has more than [`PATH_COMPONENTS_MAX`] components.
    #[error("the path has more than {PATH_COMPONENTS_MAX} components")]
    TooDeep,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_joined_and_taken_apart() {
        let path = |text: &str| RemotePath::parse(text).unwrap();
        assert_eq!(path("a").join_path(&path("b/c")), Ok(path("a/b/c")));
        assert_eq!(path("a").join_path(&RemotePath::ROOT), Ok(path("a")));
        let deep = path(&"d/".repeat(PATH_COMPONENTS_MAX));
        assert_eq!(path("a").join_path(&deep), Err(PathError::TooDeep));
        assert_eq!(path("a/b/c").strip_prefix(&path("a")), Some(path("b/c")));
        assert_eq!(path("a").strip_prefix(&path("a")), Some(RemotePath::ROOT));
        assert_eq!(path("ab/c").strip_prefix(&path("a")), None);
        assert_eq!(path("a").strip_prefix(&path("a/b")), None);
    }

    #[test]
    fn typed_paths_may_have_any_number_of_slashes() {
        let shown = |text: &str| RemotePath::parse(text).unwrap().to_string();
        assert_eq!(shown(""), "/");
        assert_eq!(shown("///"), "/");
        assert_eq!(shown("a/b"), "/a/b");
        assert_eq!(shown("//a///b//"), "/a/b");
        assert_eq!(shown("a\nb/\u{1b}[2J"), "/a\\nb/\\u001b[2J");
        assert_eq!(RemotePath::ROOT.to_relative(), ".");
    }

    #[test]
    fn traversal_is_refused_in_every_spelling() {
        for text in [
            "..", "../a", "a/..", "a/../b", "/..", "./a", "a/.", "a//../b", ".",
        ] {
            assert_eq!(RemotePath::parse(text), Err(PathError::Relative), "{text}");
        }
        // P34
        // No layer decodes these: they are ordinary names, and stay below the root.
        for text in [
            "..%2f", "%2e%2e", "...", "..\\..", "C:\\a", "~", "a:b", "aux.rs",
        ] {
            assert_eq!(RemotePath::parse(text).unwrap().names().len(), 1);
        }
    }

    #[test]
    fn relations_between_paths() {
        let path = |text: &str| RemotePath::parse(text).unwrap();
        let a = path("a");
        let ab = path("a/b");
        assert_eq!(ab.parent(), Some(a.clone()));
        assert_eq!(a.parent(), Some(RemotePath::ROOT));
        assert_eq!(RemotePath::ROOT.parent(), None);
        assert_eq!(ab.name(), Some(&Name::new("b").unwrap()));
        assert_eq!(a.join(Name::new("b").unwrap()), Ok(ab.clone()));
        assert!(a.contains(&ab) && a.contains(&a) && RemotePath::ROOT.contains(&a));
        assert!(!ab.contains(&a) && !a.contains(&path("ab")));
    }

    #[test]
    fn limits_hold_to_the_byte() {
        let name = |bytes| Name::new("n".repeat(bytes));
        assert!(name(NAME_BYTES_MAX).is_ok());
        let bytes = NAME_BYTES_MAX + 1;
        assert_eq!(name(bytes), Err(PathError::NameTooLong { bytes }));
        let deep = |count| RemotePath::from_names(vec![Name::new("a").unwrap(); count]);
        let deepest = deep(PATH_COMPONENTS_MAX).unwrap();
        assert_eq!(deep(PATH_COMPONENTS_MAX + 1), Err(PathError::TooDeep));
        assert_eq!(
            deepest.join(Name::new("a").unwrap()),
            Err(PathError::TooDeep)
        );
        let long = vec![name(NAME_BYTES_MAX).unwrap(); 16];
        let longest = RemotePath::from_names(long).unwrap();
        assert_eq!(longest.to_relative().len(), PATH_BYTES_MAX);
        let bytes = PATH_BYTES_MAX + 2;
        assert_eq!(
            longest.join(Name::new("a").unwrap()),
            Err(PathError::TooLong { bytes })
        );
    }

    proptest! {
        #[test]
        fn no_parsed_path_leaves_the_root(text in "([./\\\\a\0~]|\\.\\./|.){0,40}") {
            use std::path::Component;
            let Ok(path) = RemotePath::parse(&text) else { return Ok(()) };
            let relative = path.to_relative();
            prop_assert!(!relative.contains('\0'));
            if !path.is_root() {
                let local = std::path::Path::new(&relative);
                prop_assert!(local.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(local.components().count(), path.names().len());
            }
            if !path.is_root() {
                prop_assert_eq!(RemotePath::parse(&relative), Ok(path), "one spelling");
            }
        }
    }
}
