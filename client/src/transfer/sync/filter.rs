//! Which files and directories a sync leaves alone, by patterns in the syntax of `.gitignore`.

use std::fs;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use quire_shared::RemotePath;

use crate::error::ClientError;

/// Rules that say what is left alone on both sides: it is neither transferred nor deleted.
///
/// The last rule that matches a path decides. A rule with `!` in front of it takes a path back in,
/// but not from an excluded directory, into which no sync looks.
#[derive(Debug, Clone)]
pub struct Filter(Gitignore);

/// Collects the rules of a [`Filter`].
#[derive(Debug)]
pub struct FilterBuilder(GitignoreBuilder);

/// A pattern that breaks the rules of `.gitignore`.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no pattern: {reason}")]
pub struct PatternError {
    /// The pattern, safe to show.
    pub pattern: String,
    /// What is wrong with it, safe to show.
    pub reason: String,
}

impl Default for Filter {
    fn default() -> Self {
        Self(Gitignore::empty())
    }
}

impl Default for FilterBuilder {
    fn default() -> Self {
        Self(GitignoreBuilder::new(""))
    }
}

impl FilterBuilder {
    /// Adds a rule, as a line of `.gitignore`.
    ///
    /// # Errors
    /// If it is no pattern.
    pub fn add(&mut self, line: &str) -> Result<(), PatternError> {
        match self.0.add_line(None, line) {
            Ok(_) => Ok(()),
            Err(error) => Err(PatternError {
                pattern: quire_shared::Escaped(line).to_string(),
                reason: quire_shared::Escaped(&reason(&error)).to_string(),
            }),
        }
    }

    /// Adds the rules of a file.
    ///
    /// # Errors
    /// If it can't be read, or has a line that is no pattern.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ClientError> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| ClientError::disk(path, "read", error))?;
        self.add_text(&text)?;
        Ok(())
    }

    /// Adds the rules in the text of a file.
    ///
    /// # Errors
    /// If a line is no pattern.
    pub fn add_text(&mut self, text: &str) -> Result<(), PatternError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        text.lines().try_for_each(|line| self.add(line))
    }

    /// The rules that were added.
    ///
    /// # Errors
    /// If they are too many to be compiled.
    pub fn build(&self) -> Result<Filter, PatternError> {
        self.0.build().map(Filter).map_err(|error| PatternError {
            pattern: "…".to_owned(),
            reason: quire_shared::Escaped(&reason(&error)).to_string(),
        })
    }
}

/// The reason without the pattern, which stands before it.
fn reason(error: &ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err.clone(),
        other => other.to_string(),
    }
}

impl Filter {
    /// Whether `path`, below the directory that is synced, is left alone.
    pub(super) fn excludes(&self, path: &RemotePath, is_directory: bool) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.0.matched(path.to_relative(), is_directory).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(lines: &[&str]) -> Filter {
        let mut builder = FilterBuilder::default();
        for line in lines {
            builder.add(line).unwrap();
        }
        builder.build().unwrap()
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let filter = filter(&[
            "# a comment",
            "",
            "*.o",
            "!keep.o",
            "/top",
            "build/",
            "a/**/z",
        ]);
        for (path, is_directory, expected) in [
            ("x.o", false, true),
            ("deep/down/x.o", false, true),
            ("deep/keep.o", false, false),
            ("top", false, true),
            ("deep/top", false, false),
            ("build", true, true),
            ("deep/build", true, true),
            ("build", false, false),
            ("a/b/c/z", false, true),
            ("#", false, false),
            (" a comment", false, false),
        ] {
            let path = RemotePath::parse(path).unwrap();
            assert_eq!(filter.excludes(&path, is_directory), expected, "{path}");
        }
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let mut builder = FilterBuilder::default();
        let error = builder.add_text("*.o\na{b\n").unwrap_err();
        assert_eq!(error.pattern, "a{b");
        assert!(!error.reason.is_empty() && !error.reason.contains("a{b"));
    }
}
