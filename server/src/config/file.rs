//! The configuration file: TOML, with a key for each setting.
//!
//! Keys are the names of the flags. Those of a section stand in the section or, as in files of
//! earlier versions, at the top level. A path is relative to the file, because the file is read far
//! from where it was written.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::config::resolve::ConfigError;
use crate::config::settings::{SECTIONS, Setting, Settings};
use crate::config::value::Form;

/// Reads the file `path` into `settings` and returns the keys that it has.
///
/// # Errors
/// Names the file, the line and the key that is wrong.
pub(crate) fn read(path: &Path, settings: &mut Settings) -> Result<Vec<&'static str>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let fail = |mistake: Mistake| ConfigError::File {
        path: path.to_owned(),
        line: line_of(&text, mistake.at),
        reason: mistake.reason,
    };
    let table = DeTable::parse(&text).map_err(|error| {
        let at = error.span().unwrap_or_default();
        fail(Mistake::new(at, error.message()))
    })?;
    let mut keys = Vec::new();
    read_table(path, "", table.get_ref(), settings, &mut keys).map_err(fail)?;
    Ok(keys)
}

/// What is wrong with a file, and where.
struct Mistake {
    at: Range<usize>,
    reason: String,
}

impl Mistake {
    fn new(at: Range<usize>, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { at, reason }
    }
}

/// Reads a table: the top level, or the one of `section`.
fn read_table(
    file: &Path,
    section: &str,
    table: &DeTable<'_>,
    settings: &mut Settings,
    keys: &mut Vec<&'static str>,
) -> Result<(), Mistake> {
    let mut entries: Vec<_> = table.iter().collect();
    // The library sorts them by name; of two for one setting the second is the mistake.
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let is_section = SECTIONS.iter().any(|(known, _)| known == name.get_ref());
        if let DeValue::Table(inner) = value.get_ref()
            && section.is_empty()
            && is_section
        {
            read_table(file, name.get_ref(), inner, settings, keys)?;
            continue;
        }
        let fail = |reason: String| Mistake::new(name.span(), reason);
        let Some(setting) = settings.find(name.get_ref()) else {
            return Err(fail(unknown(name.get_ref(), &settings.all())));
        };
        if !section.is_empty() && section != setting.section {
            let place = match setting.section {
                "" => "at the top level".to_owned(),
                own => format!("in [{own}]"),
            };
            return Err(fail(format!("{} belongs {place}", setting.key)));
        }
        if keys.contains(&setting.key) {
            return Err(fail(format!("{} is set twice", setting.key)));
        }
        keys.push(setting.key);
        let path = setting.path();
        let read = texts(file, &setting, value.get_ref());
        let read = read.and_then(|texts| setting.value.read(&texts));
        read.map_err(|reason| Mistake::new(value.span(), format!("{path}: {reason}")))?;
    }
    Ok(())
}

/// The texts of a value, which the setting then reads like those of a flag.
fn texts(file: &Path, setting: &Setting<'_>, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    match (setting.value.form(), value) {
        (Form::Switch, DeValue::Boolean(value)) => Ok(vec![value.to_string().into()]),
        (Form::Switch, _) => Err("expected true or false".to_owned()),
        (Form::Path, DeValue::String(text)) if !text.is_empty() => {
            let directory = file.parent().unwrap_or_else(|| Path::new(""));
            Ok(vec![directory.join(text.as_ref()).into()])
        }
        (Form::List, DeValue::Array(values)) => {
            values.iter().map(|value| scalar(value.get_ref())).collect()
        }
        (Form::Text | Form::Path | Form::List, value) => Ok(vec![scalar(value)?]),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<OsString, String> {
    match value {
        DeValue::String(text) => Ok(text.as_ref().into()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string().into())
            .map_err(|error| error.to_string()),
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err("expected a text or a number".to_owned()),
    }
}

/// The error for an unknown key, with the known key that is most like it.
fn unknown(name: &str, all: &[Setting<'_>]) -> String {
    let likeness = |setting: &Setting<'_>| strsim::jaro_winkler(name, setting.key);
    let nearest = all
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let nearest = nearest.map(Setting::path).unwrap_or_default();
    format!("there is no setting {name:?}; the nearest is {nearest}")
}

/// The line, counted from 1, in which `at` begins.
fn line_of(text: &str, at: Range<usize>) -> usize {
    let before = text.as_bytes().iter().take(at.start);
    before.filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests;
