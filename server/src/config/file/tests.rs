//! Configuration files, environment and command line together, as settings and as errors.

use std::fs;

use quire_shared::ErrorChain;

use super::*;
use crate::config::args::ServeArgs;
use crate::config::resolve::Resolved;

/// The settings of a file with `text`, of variables, and of what was typed.
fn resolve(
    text: &str,
    variables: &[(&str, &str)],
    typed: &[(&'static str, &str)],
) -> Result<Resolved, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quire.toml");
    fs::write(&path, text).unwrap();
    let typed = typed.iter().map(|(key, text)| (*key, vec![text.into()]));
    let args = ServeArgs {
        config: Some(path),
        typed: typed.collect(),
        ..ServeArgs::default()
    };
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, text)| text.into())
    };
    Resolved::new(&args, variable).map_err(|error| {
        let line = ErrorChain(&error).to_string();
        assert!(!line.contains('\n'), "{line}");
        line
    })
}

fn settings(text: &str) -> Settings {
    resolve(text, &[], &[]).unwrap().settings
}

#[test]
fn what_is_typed_wins_over_the_environment_and_that_over_the_file() {
    let text = "listen = [\":4434\", \"::1\"]\nread-only = true\nrate = \"10MiB\"\ndrain = 5\n";
    let from_file = settings(text);
    assert_eq!(from_file.listen.len(), 2);
    assert!(from_file.read_only);
    assert_eq!(from_file.limits.rate.0, Some(10 << 20));
    assert_eq!(from_file.drain, 5);
    let variables = [
        ("QUIRE_RATE", "20MiB"),
        ("QUIRE_DRAIN", "6"),
        ("QUIRE_READ_ONLY", "false"),
        ("QUIRE_LISTEN", ":1, :2,:3"),
    ];
    let from_variables = resolve(text, &variables, &[]).unwrap().settings;
    assert_eq!(from_variables.limits.rate.0, Some(20 << 20));
    assert_eq!(from_variables.drain, 6);
    assert!(!from_variables.read_only);
    assert_eq!(from_variables.listen.len(), 3);
    let typed = [("listen", "127.0.0.1"), ("rate", "none")];
    let typed = resolve(text, &variables, &typed).unwrap().settings;
    assert_eq!(typed.listen.len(), 1);
    assert_eq!(typed.limits.rate.0, None);
    assert_eq!(typed.drain, 6);
    let typed = [("listen", "127.0.0.1"), ("rate", "none")];
    assert!(resolve(text, &[], &typed).unwrap().settings.read_only);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "root = \"files\"\nstate-dir = \"/var/lib/quire\"";
    let from_file = settings(text);
    let root = from_file.root;
    assert!(root.is_absolute() && root.ends_with("files"), "{root:?}");
    assert_eq!(from_file.state_dir.unwrap(), Path::new("/var/lib/quire"));
    let typed = resolve(text, &[], &[("root", "other")]).unwrap();
    assert_eq!(typed.settings.root, Path::new("other"));
}

#[test]
fn every_setting_can_stand_in_a_file_with_and_without_its_section() {
    let mut defaults = Settings::default();
    let mut seen = 0;
    for setting in defaults.all() {
        seen += 1;
        let key = setting.key;
        let value = match (setting.value.form(), setting.value.show()) {
            (Form::Switch, _) => "true".to_owned(),
            (Form::List, _) => "[\"127.0.0.1:0\"]".to_owned(),
            (_, Some(default)) => default.to_string(),
            (_, None) if key == "umask" => "\"027\"".to_owned(),
            (_, None) => "\"1\"".to_owned(),
        };
        // The two that need each other stand together.
        let text = match key {
            "cert" | "key" => "cert = \"a\"\nkey = \"b\"\n".to_owned(),
            _ => format!("{key} = {value}\n"),
        };
        resolve(&text, &[], &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        if !setting.section.is_empty() {
            let text = format!("[{}]\n{text}", setting.section);
            resolve(&text, &[], &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
    assert!(seen > 20, "only {seen} settings");
}

#[test]
fn old_keys_go_on_working() {
    use crate::config::limits::ValidateAddresses;

    for text in [
        "prove-addresses = \"always\"",
        "[limits]\nprove-addresses = \"always\"",
    ] {
        let validate = settings(text).limits.validate_addresses;
        assert_eq!(validate, ValidateAddresses::Always);
    }
}

#[test]
fn what_is_printed_says_the_sources_and_sets_the_same_again() {
    let text = "[limits]\nrate = \"10MiB\"\n[auth]\nanonymous = 'read,\"/a b\"=none'\n";
    let variables = [("QUIRE_DRAIN", "6")];
    let resolved = resolve(text, &variables, &[("root", "/srv")]).unwrap();
    let printed = resolved.to_string();
    for line in [
        "root = \"/srv\" # command line",
        "drain = 6 # environment QUIRE_DRAIN",
        "rate = 10485760 # file",
        "connections = 1024 # default",
        "# client-ca is not set",
    ] {
        let found = printed.lines().any(|printed| printed == line);
        assert!(found, "{line} in\n{printed}");
    }
    assert_eq!(settings(&printed), resolved.settings);
}

#[test]
fn mistakes_are_told_by_line_and_key() {
    for (text, expected) in [
        (
            "colour = 1",
            "line 1: there is no setting \"colour\"; the nearest is ",
        ),
        (
            "\n[limits]\nrates = 1",
            "line 3: there is no setting \"rates\"; the nearest is limits.rate",
        ),
        (
            "config = \"other\"",
            "line 1: there is no setting \"config\"",
        ),
        ("read-only = 1", "line 1: read-only: expected true or false"),
        (
            "cache-size = true",
            "line 1: cache-size: expected a text or a number",
        ),
        (
            "cache-size = \"5 parsecs\"",
            "line 1: cache-size: the units are",
        ),
        ("# rates\nrate = 0", "line 2: limits.rate: expected"),
        ("connections = 0", "line 1: limits.connections: expected"),
        (
            "anonymous = \"all\"",
            "line 1: auth.anonymous: unknown right",
        ),
        ("listen = [\"nowhere\"]", "line 1: listen: an address is"),
        ("root = \"\"", "line 1: root: expected a path"),
        ("drain = ", "line 1"),
        ("[limit]\nrate = 1", "line 1: there is no setting \"limit\""),
        ("[quic]\nrate = 1", "line 2: rate belongs in [limits]"),
        ("rate = 1\n[limits]\nrate = 1", "line 3: rate is set twice"),
        ("cert = \"a\"", "cert and key have to be set together"),
    ] {
        let error = resolve(text, &[], &[]).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let error = resolve("", &[("QUIRE_RATE", "0")], &[]).unwrap_err();
    assert_eq!(error, "QUIRE_RATE: expected a number above 0, or none");
}
