//! The configuration file: TOML whose keys are the flags of the command line.
//!
//! It is turned into arguments that stand before those that were typed, so every flag can stand in
//! it, with the same meaning and the same checks, and what was typed wins. A path in it is
//! relative to the file, because it is read far from where it was written.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser};
use thiserror::Error;
use toml::{Table, Value};

use crate::config::args::Args;

/// What was typed, and what stands in the file that it names, if it names one.
///
/// # Errors
/// What is wrong with the file.
pub fn arguments(typed: Vec<OsString>) -> Result<Vec<OsString>, ConfigFileError> {
    // What is wrong with the command line is for its own parser to say.
    let Ok(matches) = Args::command().try_get_matches_from(&typed) else {
        return Ok(typed);
    };
    let Some(path) = matches.get_one::<PathBuf>(CONFIG) else {
        return Ok(typed);
    };
    let fail = |problem| ConfigFileError {
        path: path.clone(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fail(Problem::Io(error)))?;
    let table: Table = text
        .parse()
        .map_err(|error| fail(Problem::Toml(Box::new(error))))?;
    let mut arguments = typed.clone();
    let (program, rest) = arguments.split_at_mut(1.min(typed.len()));
    let mut all = program.to_vec();
    all.extend(settings(path, &table, &matches).map_err(fail)?);
    all.extend_from_slice(rest);
    Ok(all)
}

/// The settings of a file as arguments, without those that were typed.
fn settings(file: &Path, table: &Table, typed: &ArgMatches) -> Result<Vec<OsString>, Problem> {
    let command = Args::command();
    let mut arguments = Vec::new();
    for (key, value) in table {
        let argument = find(&command, key).ok_or_else(|| Problem::Unknown(key.clone()))?;
        let setting = setting(file, key, argument, value)?;
        check(key, &setting)?;
        if typed.value_source(argument.get_id().as_str()) != Some(ValueSource::CommandLine) {
            arguments.extend(setting);
        }
    }
    Ok(arguments)
}

/// The flag that `key` names, or the directory to serve.
fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let is_named = |argument: &&Arg| match argument.get_long() {
        Some(long) => long == key && !NOT_IN_FILES.contains(&long),
        None => argument.is_positional() && argument.get_id() == key,
    };
    command.get_arguments().find(is_named)
}

fn setting(
    file: &Path,
    key: &str,
    argument: &Arg,
    value: &Value,
) -> Result<Vec<OsString>, Problem> {
    let wrong = |expected| Problem::Kind {
        key: key.to_owned(),
        expected,
    };
    let is_path = argument.get_value_parser().type_id() == ValueParser::path_buf().type_id();
    let text = |value: &Value| match value {
        Value::String(text) if is_path => Ok(beside(file, text)),
        Value::String(text) => Ok(text.into()),
        Value::Integer(number) => Ok(number.to_string().into()),
        _ => Err(wrong("a text or a number")),
    };
    match (argument.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(Vec::new()),
        (ArgAction::SetTrue, _) => Err(wrong("true or false")),
        (ArgAction::Append, Value::Array(values)) => values
            .iter()
            .map(|value| Ok(flag(argument, text(value)?)))
            .collect(),
        (_, value) => Ok(vec![flag(argument, text(value)?)]),
    }
}

/// One argument that sets `argument` to `value`.
fn flag(argument: &Arg, value: OsString) -> OsString {
    match argument.get_long() {
        Some(long) => {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            flag
        }
        None => value,
    }
}

fn beside(file: &Path, text: &str) -> OsString {
    match file.parent() {
        Some(directory) => directory.join(text).into(),
        None => text.into(),
    }
}

/// Has the parser of the command line look at one setting, so that its mistakes are told by key.
fn check(key: &str, setting: &[OsString]) -> Result<(), Problem> {
    let mut arguments = vec![OsString::from("quire-server")];
    arguments.extend_from_slice(setting);
    match Args::try_parse_from(arguments) {
        // One of two flags that need each other; together they are looked at later.
        Err(error) if error.kind() != clap::error::ErrorKind::MissingRequiredArgument => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(Problem::Value {
                key: key.to_owned(),
                reason: line.trim_start_matches("error: ").to_owned(),
            })
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Why a configuration file can't be used.
#[derive(Debug, Error)]
#[error("{}", path.display())]
pub struct ConfigFileError {
    path: PathBuf,
    #[source]
    problem: Problem,
}

/// What is wrong with a configuration file.
#[derive(Debug, Error)]
enum Problem {
    #[error("cannot read it")]
    Io(#[source] std::io::Error),
    #[error("{}", one_line(.0))]
    Toml(Box<toml::de::Error>),
    #[error("there is no setting {0:?}: the settings are the flags that --help lists")]
    Unknown(String),
    #[error("{key} has to be {expected}")]
    Kind { key: String, expected: &'static str },
    #[error("{key}: {reason}")]
    Value { key: String, reason: String },
}

/// What is wrong with the text, which the library tells in several lines with a picture.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().filter(|line| !line.contains('|'));
    lines.map(str::trim).collect::<Vec<_>>().join(": ")
}

/// The flag that names the file.
const CONFIG: &str = "config";

/// Flags that make no sense in a file.
const NOT_IN_FILES: [&str; 4] = [CONFIG, "check-config", "help", "version"];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The command line with which the program would start.
    fn parse(text: &str, typed: &[&str]) -> Result<Args, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("quire.toml");
        fs::write(&path, text).unwrap();
        let file = path.to_str().unwrap();
        let typed = ["quire-server", "--config", file]
            .into_iter()
            .chain(typed.iter().copied());
        let arguments = arguments(typed.map(OsString::from).collect());
        let arguments = arguments.map_err(|error| {
            let problem = error.problem.to_string();
            assert!(!problem.contains('\n'), "{problem}");
            problem
        })?;
        Ok(Args::try_parse_from(arguments).unwrap())
    }

    #[test]
    fn what_is_typed_wins_over_the_file() {
        let text = "listen = [\":4434\", \"::1\"]\nread-only = true\nrate = \"10MiB\"\ndrain = 5\n";
        let args = parse(text, &[]).unwrap().serve;
        assert_eq!(args.listen.len(), 2);
        assert!(args.read_only);
        assert_eq!(args.limits.rate.0, Some(10 << 20));
        assert_eq!(args.drain, 5);
        let args = parse(text, &["--listen", "127.0.0.1", "--rate", "none"]).unwrap();
        assert_eq!(args.serve.listen.len(), 1);
        assert_eq!(args.serve.limits.rate.0, None);
        assert!(args.serve.read_only);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let args = parse("root = \"files\"\nstate-dir = \"/var/lib/quire\"", &[]).unwrap();
        let root = args.serve.root;
        assert!(root.is_absolute() && root.ends_with("files"), "{root:?}");
        assert_eq!(args.serve.state_dir.unwrap(), Path::new("/var/lib/quire"));
        let args = parse("root = \"files\"", &["other"]).unwrap();
        assert_eq!(args.serve.root, Path::new("other"));
    }

    #[test]
    fn every_flag_can_stand_in_a_file() {
        let command = Args::command();
        let mut seen = 0;
        for argument in command.get_arguments() {
            let key = argument
                .get_long()
                .unwrap_or_else(|| argument.get_id().as_str());
            if NOT_IN_FILES.contains(&key) {
                continue;
            }
            seen += 1;
            let default = argument.get_default_values().first();
            let value = match (argument.get_action(), default) {
                (ArgAction::SetTrue, _) => "true".to_owned(),
                (ArgAction::Append, _) => "[\"127.0.0.1:0\"]".to_owned(),
                (_, Some(default)) => format!("{:?}", default.to_str().unwrap()),
                (_, None) => "\"1\"".to_owned(),
            };
            let text = format!("{key} = {value}\n");
            // The two that need each other stand together.
            let text = match key {
                "cert" | "key" => "cert = \"a\"\nkey = \"b\"\n".to_owned(),
                _ => text,
            };
            parse(&text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
        assert!(seen > 20, "only {seen} flags");
    }

    #[test]
    fn mistakes_are_told_by_key() {
        for (text, expected) in [
            ("colour = 1", "there is no setting \"colour\""),
            ("config = \"other\"", "there is no setting \"config\""),
            ("read-only = 1", "read-only has to be true or false"),
            (
                "cache-size = true",
                "cache-size has to be a text or a number",
            ),
            ("cache-size = \"5 parsecs\"", "cache-size: invalid value"),
            ("rate = 0", "rate: invalid value"),
            ("anonymous = \"all\"", "anonymous: invalid value"),
            ("listen = [\"nowhere\"]", "listen: invalid value"),
            ("drain = ", "line 1"),
        ] {
            let error = parse(text, &[]).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
