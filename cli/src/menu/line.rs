//! Command lines of the interactive client.
//!
//! Their definitions are those of the program's command line without the host, so that both have the
//! same flags and the same help.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::args::{ClientCommand, EachArgs, one_line};

/// A line after parsing.
#[derive(Debug)]
pub(super) enum ParsedLine {
    /// A command, with its own flags.
    Run(EachArgs, LineCommand),
    /// A help text.
    Help(String),
}

impl ParsedLine {
    /// Parses the words of a line, at least one.
    ///
    /// # Errors
    /// What is wrong, in one line that is safe to show.
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        let parsed = definition()
            .try_get_matches_from(words)
            .and_then(|matches| LineArgs::from_arg_matches(&matches));
        match parsed {
            Ok(args) => Ok(Self::Run(args.each, args.command)),
            Err(error) => match error.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::DisplayVersion => {
                    Ok(Self::Help(error.render().to_string().trim_end().to_owned()))
                }
                _ => {
                    let error = one_line(&error);
                    Err(error.replace("unrecognized subcommand", "unknown command"))
                }
            },
        }
    }
}

/// The commands of the interactive client.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum LineCommand {
    #[command(flatten)]
    Same(ClientCommand),
    /// Change the current directory on the server; without DIR, to the root
    Cd {
        /// The directory
        #[arg(value_name = "DIR", default_value = "/", hide_default_value = true)]
        directory: String,
    },
    /// Show the current directory on the server
    Pwd,
    /// Change the local directory; without DIR, to the home directory
    Lcd {
        /// The directory
        #[arg(value_name = "DIR", default_value = "~", hide_default_value = true)]
        directory: String,
    },
    /// Show the local directory
    Lpwd,
    /// Show the most common operations by number
    Menu,
    /// End the session, as Ctrl-D does
    #[command(visible_alias = "exit")]
    Quit,
}

#[derive(Debug, Parser)]
#[command(name = "", no_binary_name = true, disable_version_flag = true)]
struct LineArgs {
    #[command(flatten)]
    each: EachArgs,
    #[command(subcommand)]
    command: LineCommand,
}

/// The definition of all commands, also for completion.
pub(super) fn definition() -> clap::Command {
    LineArgs::command()
        .subcommand_help_heading("Commands")
        .mut_subcommands(without_host)
}

/// Removes the host from the operands of a command, and makes those optional for which the current
/// directory is an obvious default.
fn without_host(command: clap::Command) -> clap::Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|arg| {
        let shown = arg.get_value_names().and_then(<[_]>::first);
        let path = shown.and_then(|shown| {
            let shown = shown.trim_end_matches(']');
            PATHS.into_iter().find(|path| shown.ends_with(path))
        });
        match path {
            Some(path) => arg.value_name(path.trim_start_matches('/')),
            None => arg,
        }
    });
    match name.as_str() {
        "get" => command.mut_arg(OPERANDS, |arg| {
            arg.help(
                "PATH... [LOCAL]. LOCAL is a file, a directory, or - for standard output; the \
                 default is the local directory. The last of several operands is LOCAL",
            )
        }),
        "put" => command.mut_arg(OPERANDS, |arg| {
            arg.num_args(1..).help(
                "LOCAL... [PATH]. PATH is a file, or a directory to upload into; the default is \
                 the current directory. The last of several operands is PATH",
            )
        }),
        "list" | "stat" | "uploads" => command.mut_arg(OPERAND, |arg| {
            arg.required(false)
                .default_value(".")
                .hide_default_value(true)
        }),
        // Their operand was only the host. The one allowed value is empty, so nothing can be typed.
        "cache" | "ping" => command.mut_arg(OPERAND, |arg| {
            arg.required(false)
                .default_value("")
                .value_parser([""])
                .hide(true)
        }),
        _ => command,
    }
}

/// Names of paths in help texts, after the host.
const PATHS: [&str; 4] = ["/PATH", "/DIR", "/FROM", "/TO"];

/// Names of the fields in the structs of the operands.
const OPERAND: &str = "operand";
const OPERANDS: &str = "operands";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::menu::shell_split;

    fn parse(line: &str) -> Result<ParsedLine, String> {
        ParsedLine::parse(&shell_split::split(line).unwrap())
    }

    fn command(line: &str) -> LineCommand {
        match parse(line).unwrap() {
            ParsedLine::Run(_, command) => command,
            ParsedLine::Help(text) => panic!("{text}"),
        }
    }

    fn help(line: &str) -> String {
        match parse(line).unwrap() {
            ParsedLine::Help(text) => text,
            ParsedLine::Run(_, command) => panic!("{command:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[test]
    fn every_command_of_the_command_line_is_there_with_its_flags_and_aliases() {
        let own = definition();
        for theirs in crate::args::CliArgs::command().get_subcommands() {
            let own = own.find_subcommand(theirs.get_name()).unwrap();
            for alias in theirs.get_visible_aliases() {
                assert!(own.get_visible_aliases().any(|own| own == alias), "{alias}");
            }
            for flag in theirs.get_arguments().filter_map(clap::Arg::get_long) {
                let mut flags = own.get_arguments().filter_map(clap::Arg::get_long);
                assert!(flags.any(|own| own == flag), "{flag}");
            }
        }
    }

    #[test]
    fn lines_are_read_as_the_command_line_is() {
        match command("get -r --force a 'b c'") {
            LineCommand::Same(ClientCommand::Get(args)) => {
                assert!(args.recursive && args.force && !args.fsync);
                assert_eq!(args.operands, ["a", "b c"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            command("ls"),
            LineCommand::Same(ClientCommand::List(args)) if args.operand == "."
        ));
        assert!(matches!(
            command("rm -- -r"),
            LineCommand::Same(ClientCommand::Delete(args)) if args.operands == ["-r"]
        ));
        assert!(matches!(command("put a"), LineCommand::Same(_)));
        assert!(matches!(command("cache"), LineCommand::Same(_)));
        assert!(matches!(command("exit"), LineCommand::Quit));
        assert!(matches!(command("cd"), LineCommand::Cd { directory } if directory == "/"));
        match parse("hash --digest sha256 --json x").unwrap() {
            ParsedLine::Run(each, _) => assert!(each.json && each.digest.is_some()),
            ParsedLine::Help(text) => panic!("{text}"),
        }
    }

    #[test]
    fn nonsense_is_told_in_one_line() {
        for line in [
            "frobnicate",
            "get",
            "mv a",
            "get --frob x",
            "cd a b",
            "cache other",
            "pwd x",
            "help frobnicate",
            "hash --digest md5 x",
            "'a\u{1b}[2J\nb'",
            "''",
        ] {
            let error = parse(line).unwrap_err();
            assert!(!error.is_empty() && !error.contains(char::is_control));
            assert!(!error.starts_with("error"), "{error}");
        }
        let error = parse("frobnicate").unwrap_err();
        assert_eq!(error, "unknown command 'frobnicate'");
    }

    #[test]
    fn help_names_no_host() {
        let text = help("help");
        for command in ["get", "put", "lcd", "quit", "alias: mv"] {
            assert!(text.contains(command), "{command}: {text}");
        }
        for line in ["help", "get --help", "help put", "help ls", "help cache"] {
            let text = help(line);
            assert!(!text.contains("HOST"), "{text}");
        }
        assert!(help("help rename").contains("<FROM> <TO>"));
    }
}
