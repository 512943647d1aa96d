//! Access rules: verbs for the whole root, and other verbs for what lies below a path.
//!
//! The narrowest rule wins: what is granted for a path says nothing of a path below it that has a
//! rule of its own. A path without a rule above it, nor of its own, is granted nothing. The text
//! is one word of an authorized-keys line: `read,/incoming=list+put,/private=none`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::str::FromStr;

use bitflags::bitflags;
use quire_shared::path::PathError;
use quire_shared::{Name, RemotePath};
use thiserror::Error;

use crate::files::scope::EntryFilter;

bitflags! {
    /// A set of verbs.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Verbs: u8 {
        /// See names and attributes.
        const LIST = 1;
        /// Fetch contents and their digests.
        const GET = 1 << 1;
        /// Create what doesn't exist yet.
        const CREATE = 1 << 2;
        /// Replace a file that exists.
        const REPLACE = 1 << 3;
        /// Remove names: delete, and the old name of a rename.
        const DELETE = 1 << 4;
        /// Make symbolic links, together with what a file needs in their place. Not part of
        /// [`WRITE`](Self::WRITE): other programs follow links, so a client that makes them decides
        /// where those read and write.
        const LINK = 1 << 5;
        /// Set the owner and group of what is stored. Not part of any other word, because it gives files
        /// to users who never asked for them.
        const OWNER = 1 << 6;
        /// Create and replace.
        const PUT = Self::CREATE.bits() | Self::REPLACE.bits();
        /// Everything that leaves the root as it is.
        const READ = Self::LIST.bits() | Self::GET.bits();
        /// Everything but links and owners.
        const WRITE = Self::READ.bits() | Self::PUT.bits() | Self::DELETE.bits();
    }
}

impl Verbs {
    /// Nothing.
    pub const NONE: Self = Self::empty();

    fn from_word(word: &str) -> Option<Self> {
        let known = WORDS.iter().find(|(known, _)| *known == word);
        known.map(|(_, verbs)| *verbs)
    }
}

/// The words as people write them, the longest first.
impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(NONE);
        }
        let mut left = *self;
        let mut separator = "";
        for (word, verbs) in WORDS {
            if !verbs.is_empty() && left.contains(*verbs) {
                write!(f, "{separator}{word}")?;
                left = left.difference(*verbs);
                separator = "+";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Verbs {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Self, RulesError> {
        let mut verbs = Self::NONE;
        for word in text.split('+') {
            let more = Self::from_word(word);
            verbs = verbs.union(more.ok_or_else(|| RulesError::UnknownVerb(word.to_owned()))?);
        }
        Ok(verbs)
    }
}

/// Verbs by path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// In the order of the paths, so that what lies below one follows it.
    rules: BTreeMap<Vec<Name>, Verbs>,
}

impl Rules {
    /// The same for every path.
    pub fn everywhere(verbs: Verbs) -> Self {
        Self {
            rules: BTreeMap::from([(Vec::new(), verbs)]),
        }
    }

    /// Adds a rule for `path` and what is below it.
    ///
    /// # Errors
    /// If there is one for the same path.
    pub fn add(&mut self, path: &RemotePath, verbs: Verbs) -> Result<(), RulesError> {
        let before = self.rules.insert(path.names().to_vec(), verbs);
        match before {
            None => Ok(()),
            Some(_) => Err(RulesError::Repeated(path.clone())),
        }
    }

    /// What these or `other` grant.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let places = self.rules.keys().chain(other.rules.keys());
        let both = |place: &Vec<Name>| self.verbs_at(place).union(other.verbs_at(place));
        Self {
            rules: places.map(|place| (place.clone(), both(place))).collect(),
        }
    }

    /// What may be done with `path` itself.
    pub fn verbs(&self, path: &RemotePath) -> Verbs {
        self.verbs_at(path.names())
    }

    fn verbs_at(&self, mut names: &[Name]) -> Verbs {
        loop {
            if let Some(verbs) = self.rules.get(names) {
                return *verbs;
            }
            match names.split_last() {
                Some((_, parent)) => names = parent,
                None => return Verbs::NONE,
            }
        }
    }

    /// Whether nothing is granted anywhere.
    pub fn is_empty(&self) -> bool {
        self.rules.values().all(|verbs| verbs.is_empty())
    }

    /// Whether any of `verbs` is granted anywhere.
    pub fn grants_anywhere(&self, verbs: Verbs) -> bool {
        self.rules.values().any(|granted| granted.intersects(verbs))
    }

    /// Whether `verbs` are granted for `path` and for everything that could be below it.
    pub fn allows_below(&self, path: &RemotePath, verbs: Verbs) -> bool {
        self.verbs(path).contains(verbs)
            && self.below(path).all(|(_, granted)| granted.contains(verbs))
    }

    /// Whether any of `verbs` is granted for `path` or for anything that could be below it.
    pub fn grants_below(&self, path: &RemotePath, verbs: Verbs) -> bool {
        self.verbs(path).intersects(verbs)
            || self
                .below(path)
                .any(|(_, granted)| granted.intersects(verbs))
    }

    /// Whether `path` has a rule that grants something, or lies on the way to one.
    pub fn leads_somewhere(&self, path: &RemotePath) -> bool {
        let own = self.rules.get(path.names());
        own.is_some_and(|verbs| !verbs.is_empty())
            || self.below(path).any(|(_, verbs)| !verbs.is_empty())
    }

    /// Which entries of the directory at `path` may be shown; `None` if all may.
    pub(crate) fn entry_filter(&self, path: &RemotePath) -> Option<EntryFilter> {
        let others = self.verbs(path).contains(Verbs::LIST);
        let mut exceptions = BTreeMap::new();
        for (place, verbs) in self.below(path) {
            let Some((name, rest)) = place
                .get(path.names().len()..)
                .and_then(<[Name]>::split_first)
            else {
                continue;
            };
            let is_listed = verbs.contains(Verbs::LIST);
            // What leads to something that is shown is shown, whatever its own rule says.
            let before = exceptions.get(name).copied();
            let is_shown = match before {
                None if rest.is_empty() => is_listed,
                None => others || is_listed,
                Some(before) => before || is_listed,
            };
            exceptions.insert(name.clone(), is_shown);
        }
        let is_limited = !others || exceptions.values().any(|is_shown| !is_shown);
        is_limited.then(|| EntryFilter::new(others, exceptions))
    }

    /// The rules for places below `path`, without its own.
    fn below(&self, path: &RemotePath) -> impl Iterator<Item = (&Vec<Name>, Verbs)> {
        let names = path.names().to_vec();
        let after = (Bound::Excluded(names.clone()), Bound::Unbounded);
        self.rules
            .range(after)
            .take_while(move |(place, _)| place.starts_with(&names))
            .map(|(place, verbs)| (place, *verbs))
    }
}

/// The word as people write it, with the rule for the whole root first.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rules.is_empty() {
            return f.write_str(NONE);
        }
        let mut separator = "";
        for (place, verbs) in &self.rules {
            f.write_str(separator)?;
            if !place.is_empty() {
                write_path(f, place)?;
                f.write_str("=")?;
            }
            write!(f, "{verbs}")?;
            separator = ",";
        }
        Ok(())
    }
}

fn write_path(f: &mut fmt::Formatter<'_>, names: &[Name]) -> fmt::Result {
    let path: String = names.iter().flat_map(|name| ["/", name.as_str()]).collect();
    if path.contains(|c: char| c.is_whitespace() || SPECIAL.contains(&c)) {
        let escaped = path.replace('\\', "\\\\").replace('"', "\\\"");
        return write!(f, "\"{escaped}\"");
    }
    f.write_str(&path)
}

impl FromStr for Rules {
    type Err = RulesError;

    fn from_str(text: &str) -> Result<Self, RulesError> {
        match split_word(text) {
            Ok((_, rest)) if rest.trim().is_empty() => {}
            Ok((_, rest)) => return Err(RulesError::UnknownVerb(rest.trim().to_owned())),
            Err(error) => return Err(error),
        }
        let mut rules = Self::default();
        let mut rest = text.trim();
        loop {
            let (path, after) = take_path(rest)?;
            let (verbs, more) = match after.split_once(',') {
                Some((verbs, more)) => (verbs, Some(more)),
                None => (after, None),
            };
            rules.add(&path, verbs.parse()?)?;
            match more {
                Some(more) => rest = more,
                None => return Ok(rules),
            }
        }
    }
}

/// Takes `PATH=` off the front of a rule; a rule without it is for the whole root.
fn take_path(text: &str) -> Result<(RemotePath, &str), RulesError> {
    let (path, rest) = if let Some(quoted) = text.strip_prefix('"') {
        let (path, rest) = unquote(quoted)?;
        let rest = rest.strip_prefix('=').ok_or(RulesError::NoEquals)?;
        (path, rest)
    } else if text.starts_with('/') {
        let (path, rest) = text.split_once('=').ok_or(RulesError::NoEquals)?;
        if let Some(special) = path.chars().find(|c| SPECIAL.contains(c)) {
            return Err(RulesError::Unquoted(special));
        }
        (path.to_owned(), rest)
    } else {
        return Ok((RemotePath::ROOT, text));
    };
    if !path.starts_with('/') {
        return Err(RulesError::Relative(path));
    }
    Ok((RemotePath::parse(&path).map_err(RulesError::Path)?, rest))
}

/// The text up to the closing quotation mark, and what follows.
fn unquote(text: &str) -> Result<(String, &str), RulesError> {
    let mut inside = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((inside, text.get(at + 1..).unwrap_or_default())),
            '\\' => {
                let (_, escaped) = characters.next().ok_or(RulesError::Unclosed)?;
                inside.push(escaped);
            }
            other => inside.push(other),
        }
    }
    Err(RulesError::Unclosed)
}

/// Splits `text` behind its first word, in which quotation marks hold white space together.
///
/// # Errors
/// If a quotation mark isn't closed.
pub fn split_word(text: &str) -> Result<(&str, &str), RulesError> {
    let text = text.trim_start();
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            space if space.is_whitespace() && !is_quoted => return Ok(text.split_at(at)),
            _ => {}
        }
    }
    if is_quoted {
        return Err(RulesError::Unclosed);
    }
    Ok((text, ""))
}

/// What is wrong with the text of rules.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RulesError {
    /// A word is no verb.
    #[error(
        "unknown right {0:?}: expected read, write, list, get, create, put, delete, link, owner or none, joined by +"
    )]
    UnknownVerb(String),
    /// A path stands twice.
    #[error("two rules for {0}: join their rights by +")]
    Repeated(RemotePath),
    /// A path without a verb.
    #[error("no = after a path: expected /PATH=RIGHTS")]
    NoEquals,
    /// A path that doesn't begin at the root.
    #[error("{0:?} doesn't begin with /")]
    Relative(String),
    /// A path that no request can have.
    #[error("a path is invalid")]
    Path(#[source] PathError),
    /// A quotation mark without its partner.
    #[error("a quotation mark isn't closed")]
    Unclosed,
    /// A character in a path that has a meaning here.
    #[error("a path with {0:?} in it has to stand in quotation marks")]
    Unquoted(char),
}

/// Characters with a meaning in the text of rules.
const SPECIAL: [char; 4] = [',', '=', '"', '\\'];

/// How nothing is written.
const NONE: &str = "none";

/// The words for verbs, those for many before those for few.
const WORDS: &[(&str, Verbs)] = &[
    ("write", Verbs::WRITE),
    ("read", Verbs::READ),
    ("put", Verbs::PUT),
    ("list", Verbs::LIST),
    ("get", Verbs::GET),
    ("create", Verbs::CREATE),
    ("delete", Verbs::DELETE),
    ("link", Verbs::LINK),
    ("owner", Verbs::OWNER),
    (NONE, Verbs::NONE),
];

#[cfg(test)]
mod tests;
