//! Precedence of settings: command line, then environment, then configuration file, then default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::args::ServeArgs;
use crate::config::file;
use crate::config::settings::{SECTIONS, Settings};
use crate::config::value::Form;

/// Settings with the source of each.
#[derive(Debug)]
pub struct Resolved {
    /// The settings.
    pub settings: Settings,
    sources: BTreeMap<&'static str, Origin>,
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    CommandLine,
    Environment,
    File,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: cannot read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A line of the file is wrong.
    #[error("{}: line {line}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key and what was expected.
        reason: String,
    },
    /// An environment variable or a flag is wrong.
    #[error("{name}: {reason}")]
    Value {
        /// The variable or flag.
        name: String,
        /// What was expected.
        reason: String,
    },
    /// One of two settings that need each other is missing.
    #[error("cert and key have to be set together")]
    CertWithoutKey {
        /// Whether the one that is set was typed.
        is_typed: bool,
    },
}

impl Resolved {
    /// Settings of a command line, with those of the environment and of the file that it names.
    ///
    /// # Errors
    /// The first setting that is wrong and where it is.
    pub fn new(
        args: &ServeArgs,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let mut settings = Settings::default();
        let mut sources = BTreeMap::new();
        if let Some(path) = &args.config {
            let keys = file::read(path, &mut settings)?;
            sources.extend(keys.into_iter().map(|key| (key, Origin::File)));
        }
        for setting in settings.all() {
            let name = setting.variable();
            let Some(text) = variable(&name) else {
                continue;
            };
            let texts = match setting.value.form() {
                Form::List => split(&text),
                Form::Text | Form::Path | Form::Switch => vec![text],
            };
            let read = setting.value.read(&texts);
            read.map_err(|reason| ConfigError::Value { name, reason })?;
            sources.insert(setting.key, Origin::Environment);
        }
        for (key, texts) in &args.typed {
            let set = settings.set(key, texts);
            set.map_err(|reason| ConfigError::Value {
                name: format!("--{key}"),
                reason,
            })?;
            sources.insert(key, Origin::CommandLine);
        }
        if settings.cert.is_some() != settings.key.is_some() {
            let lone = if settings.cert.is_some() {
                "cert"
            } else {
                "key"
            };
            return Err(ConfigError::CertWithoutKey {
                is_typed: sources.get(lone) == Some(&Origin::CommandLine),
            });
        }
        Ok(Self { settings, sources })
    }
}

/// Splits a list in an environment variable, which has commas between its values.
fn split(text: &OsString) -> Vec<OsString> {
    let text = text.to_string_lossy();
    text.split(',').map(|part| part.trim().into()).collect()
}

/// Shows the settings as a configuration file, with the source of each in a comment.
impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut settings = self.settings.clone();
        let mut section = SECTIONS.first().map_or("", |(section, _)| section);
        for setting in settings.all() {
            if setting.section != section {
                section = setting.section;
                writeln!(f, "\n[{section}]")?;
            }
            let key = setting.key;
            let value = setting.value.show();
            // An empty list means the default addresses, which an empty list in the file would not.
            let is_empty = |value: &toml::Value| value.as_array().is_some_and(Vec::is_empty);
            let Some(value) = value.filter(|value| !is_empty(value)) else {
                writeln!(f, "# {key} is not set")?;
                continue;
            };
            let source = match self.sources.get(key) {
                Some(Origin::CommandLine) => "command line".to_owned(),
                Some(Origin::Environment) => format!("environment {}", setting.variable()),
                Some(Origin::File) => "file".to_owned(),
                None => "default".to_owned(),
            };
            writeln!(f, "{key} = {value} # {source}")?;
        }
        Ok(())
    }
}
