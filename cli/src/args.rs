//! Command line of `quire`: commands, flags and their help, without interpretation.
//!
//! [`config`](crate::config) and [`operand`](crate::operand) interpret it. Each command has a struct
//! for its operands, which the interactive client fills in too.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the help texts as well, in which brackets mark optional parts"
)]

mod choices;
mod sync;
mod texts;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use quire_shared::Escaped;
use quire_shared::digest::DigestKind;
use quire_transport::congestion::CongestionControl;

use crate::similar::similar_command;
pub use choices::{DeltaArgs, ExistingArgs, KeepArgs, LinksArgs, PreserveArgs};
pub use sync::{FilterArgs, SyncArgs};
pub(crate) use texts::one_line;
pub use texts::print_usage_event;
use texts::{EXAMPLES, MENU_HELP};

/// The command line of `quire`.
#[derive(Debug, Parser)]
#[command(
    name = "quire",
    version,
    about = "Client for the quire file server: download, upload and manage files over QUIC",
    after_help = EXAMPLES,
    arg_required_else_help = true
)]
pub struct CliArgs {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// Start the interactive client, as `quire menu HOST` does
    #[arg(help_heading = "Arguments", value_name = "HOST[:PORT][/DIR]")]
    host: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

impl CliArgs {
    /// Parses the arguments of the program.
    ///
    /// # Errors
    /// If they can't be parsed, or ask for no action or more than one.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<(Action, Self), clap::Error> {
        let arguments: Vec<_> = arguments.collect();
        let line = Self::try_parse_from(&arguments)
            .map_err(|error| mistyped_command(&arguments, &error).unwrap_or(error))?;
        Ok((line.action()?, line))
    }

    fn action(&self) -> Result<Action, clap::Error> {
        let error = |kind, text: String| Err(Self::command().error(kind, text));
        match (&self.host, &self.action) {
            (None, Some(action)) => Ok(action.clone()),
            (Some(host), None) if let Some(error) = unknown_command(host, false) => Err(error),
            (Some(host), None) => Ok(Action::Menu(MenuArgs {
                operand: host.clone(),
            })),
            (None, None) => error(ErrorKind::MissingSubcommand, "no command".to_owned()),
            (Some(host), Some(_)) => error(
                ErrorKind::ArgumentConflict,
                format!("`{}` can't come before a command", Escaped(host)),
            ),
        }
    }
}

/// The error that blames the first word, if arguments can't be parsed because that is no command.
/// clap takes it for the host, and blames the word or flag after it.
fn mistyped_command(arguments: &[OsString], error: &clap::Error) -> Option<clap::Error> {
    if !error.use_stderr() {
        return None;
    }
    let tolerant = CliArgs::command().ignore_errors(true);
    let matches = tolerant.try_get_matches_from(arguments).ok()?;
    let word = matches.try_get_one::<String>("host").ok()??;
    unknown_command(word, error.kind() == ErrorKind::InvalidSubcommand)
}

/// The error about a first word that is no command: if it is like one, or if it `must_be` one.
fn unknown_command(word: &str, must_be: bool) -> Option<clap::Error> {
    let mut program = CliArgs::command();
    let text = match similar_command(&program, word) {
        Some(command) => format!(
            "`{word}` is no command; did you mean `{command}`? A host of that name is reached with \
             `quire menu {word}`"
        ),
        None if must_be => format!("`{}` is no command", Escaped(word)),
        None => return None,
    };
    Some(program.error(ErrorKind::InvalidSubcommand, text))
}

/// The action of one run of the program.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// One command.
    #[command(flatten)]
    Command(ClientCommand),
    /// Run commands interactively, or from a pipe, over one connection
    #[command(after_help = MENU_HELP)]
    Menu(MenuArgs),
}

/// Operands of `menu`.
#[derive(Debug, Clone, Args)]
pub struct MenuArgs {
    /// Server, and the directory to start in
    #[arg(value_name = "HOST[:PORT][/DIR]")]
    pub(crate) operand: String,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// Options that may differ per command.
    #[command(flatten)]
    pub(crate) each: EachArgs,
    /// Trust only servers whose certificate an authority in FILE (PEM) issued
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Connect with the key and certificate in FILE (PEM) instead of this user's own
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
    /// Directory for this user's key and the known servers
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Accept and remember the key of a server that is not known yet
    #[arg(long, global = true)]
    pub(crate) trust_on_first_use: bool,
    /// Congestion control: quire (default), cubic or bbr
    #[arg(long, global = true, value_name = "CONTROL")]
    pub(crate) congestion: Option<CongestionControl>,
    /// How long transfers and changes try to reach a server again whose connection was lost; 0: not at all
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 900)]
    pub(crate) timeout: u64,
    /// Say what limited a transfer and what it left out; -vv logs to standard error, -vvv in full
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Options that may differ from one command of an interactive session to the next.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct EachArgs {
    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Digest that verifies content: xxh3 (default), blake3 (default for hash) or sha256
    #[arg(long, global = true, value_name = "KIND")]
    pub(crate) digest: Option<DigestKind>,
    /// Print only results and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Download files, or whole directories with -r
    Get(GetArgs),
    /// Upload files, or whole directories with -r
    Put(PutArgs),
    /// Make a directory what another is, of which at least one is on a server; -v prints each step
    Sync(SyncArgs),
    /// List a directory, or show one file
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show kind, size, time, mode and version of a file or directory
    Stat(StatArgs),
    /// Rename or move a file or directory
    #[command(visible_alias = "mv")]
    Rename(RenameArgs),
    /// Delete files, or whole directories with -r
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Copy a file on the server or to another server, or a whole directory with -r
    #[command(visible_alias = "cp")]
    Copy(CopyArgs),
    /// Create directories, and missing parents
    Mkdir(MkdirArgs),
    /// Change the permissions of files and directories
    Chmod(ChmodArgs),
    /// Print files to standard output
    Cat(CatArgs),
    /// List the files in the server's memory cache
    Cache(CacheArgs),
    /// List the uploads of yours that were interrupted and can go on, or remove what they left
    Uploads(UploadsArgs),
    /// Measure handshake and round-trip time, and show your rights
    Ping(PingArgs),
    /// Print this client's key fingerprint
    Key,
    /// Register with a server, using a code from `quire-server pair`
    Pair(PairCodeArgs),
    /// Compute digests of files on the server
    Hash(HashArgs),
}

/// Operands of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Include directories with everything below them; special files are skipped, and symbolic links
    /// without --links
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace existing local files
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Sync each file and its name to disk before it counts as done
    #[arg(long)]
    pub(crate) fsync: bool,
    #[command(flatten)]
    pub(crate) existing: ExistingArgs,
    #[command(flatten)]
    pub(crate) preserve: PreserveArgs,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) delta: DeltaArgs,
    #[command(flatten)]
    pub(crate) links: LinksArgs,
    /// Keep hard links: a file with several names in a directory is sent once, and the others become
    /// names of the same file
    #[arg(long, requires = "recursive")]
    pub(crate) hard_links: bool,
    /// HOST[:PORT]/PATH... [LOCAL]. LOCAL is a file, a directory, or - for standard output; the
    /// default is the current directory. The last of several operands is LOCAL, unless it names a
    /// server of the others, or begins with an address or HOST:PORT that is no local directory
    #[arg(required = true, value_name = "OPERAND")]
    pub(crate) operands: Vec<OsString>,
}

/// Operands of `put`.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// Include directories with everything below them, and create missing parents; special files are
    /// skipped, and symbolic links without --links
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace existing files on the server
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) existing: ExistingArgs,
    #[command(flatten)]
    pub(crate) preserve: PreserveArgs,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) delta: DeltaArgs,
    #[command(flatten)]
    pub(crate) links: LinksArgs,
    /// Keep hard links: a file with several names in a directory is sent once, and the others become
    /// names of the same file
    #[arg(long, requires = "recursive")]
    pub(crate) hard_links: bool,
    /// LOCAL... HOST[:PORT]/PATH. LOCAL is a file, a directory, or - for standard input; PATH is a
    /// file, or a directory to upload into
    #[arg(required = true, num_args = 2.., value_name = "OPERAND")]
    pub(crate) operands: Vec<OsString>,
}

/// Operands of `chmod`.
#[derive(Debug, Clone, Args)]
pub struct ChmodArgs {
    /// Permissions in octal, such as 644 or 755
    #[arg(value_name = "MODE", value_parser = octal_mode)]
    pub(crate) mode: u32,
    /// Files and directories
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub(crate) operands: Vec<String>,
}

/// Parses permission bits in octal.
fn octal_mode(text: &str) -> Result<u32, String> {
    let is_octal = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "expected permissions in octal, from 0 to 777".to_owned())
}

/// Operands of `pair`.
#[derive(Debug, Clone, Args)]
pub struct PairCodeArgs {
    /// Server
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) operand: String,
    /// Pairing code, such as 7K3M-9QWX-2HRT-B4NP; without it, quire asks for one
    #[arg(value_name = "CODE")]
    pub(crate) code: Option<String>,
}

/// Operands of `list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print mode, size and modification time (UTC) as well, which is the default on a terminal.
    /// Otherwise only names are printed, one per line
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Directory to list, or a file
    #[arg(value_name = "HOST[:PORT][/PATH]")]
    pub(crate) operand: String,
}

/// Operands of `stat`.
#[derive(Debug, Clone, Args)]
pub struct StatArgs {
    /// File or directory
    #[arg(value_name = "HOST[:PORT]/PATH")]
    pub(crate) operand: String,
}

/// Operands of `rename`.
#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// Replace an existing file of the new name
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Current path
    #[arg(value_name = "HOST[:PORT]/FROM")]
    pub(crate) from: String,
    /// New path; with a slash at its end, the directory to move into
    #[arg(value_name = "HOST[:PORT]/TO")]
    pub(crate) to: String,
}

/// Operands of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// Accept what doesn't exist
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Delete directories with everything below them
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Files and directories to delete
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub(crate) operands: Vec<String>,
}

/// Operands of `copy`.
#[derive(Debug, Clone, Args)]
pub struct CopyArgs {
    /// Copy a directory with everything below it
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Replace an existing file of the copy's name
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) preserve: PreserveArgs,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    /// File or directory to copy; DIR/. is the content of DIR
    #[arg(value_name = "HOST[:PORT]/FROM")]
    pub(crate) from: String,
    /// Path of the copy; with a slash at its end, the directory to copy into
    #[arg(value_name = "HOST[:PORT]/TO")]
    pub(crate) to: String,
}

/// Operands of `mkdir`.
#[derive(Debug, Clone, Args)]
pub struct MkdirArgs {
    /// Accept a directory that exists already. Missing parents are created in any case
    #[arg(short, long)]
    pub(crate) parents: bool,
    /// Directories to create
    #[arg(required = true, value_name = "HOST[:PORT]/DIR")]
    pub(crate) operands: Vec<String>,
}

/// Operands of `cat`.
#[derive(Debug, Clone, Args)]
pub struct CatArgs {
    /// Files
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub(crate) operands: Vec<String>,
}

/// Operands of `cache`.
#[derive(Debug, Clone, Args)]
pub struct CacheArgs {
    /// Server
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) operand: String,
}

/// Operands of `uploads`.
#[derive(Debug, Clone, Args)]
pub struct UploadsArgs {
    /// Remove what is listed, unless it is being uploaded
    #[arg(long)]
    pub(crate) remove: bool,
    /// Server, and the file or directory to which the uploads go
    #[arg(value_name = "HOST[:PORT][/PATH]")]
    pub(crate) operand: String,
}

/// Operands of `ping`.
#[derive(Debug, Clone, Args)]
pub struct PingArgs {
    /// Server
    #[arg(value_name = "HOST[:PORT]")]
    pub(crate) operand: String,
}

/// Operands of `hash`.
#[derive(Debug, Clone, Args)]
pub struct HashArgs {
    /// Files
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub(crate) operands: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_command_line_is_consistent() {
        CliArgs::command().debug_assert();
    }

    #[test]
    fn flags_of_every_command_stand_before_or_after_it() {
        for line in [
            ["quire", "--json", "list", "h"],
            ["quire", "list", "h", "--json"],
            ["quire", "ls", "--json", "h"],
        ] {
            assert!(CliArgs::parse_from(line).global.each.json);
        }
    }

    #[test]
    fn the_congestion_control_is_ours_unless_another_is_chosen() {
        let parse = |arguments: &[&str]| {
            let line = CliArgs::try_parse_from([&["quire"], arguments].concat());
            line.map(|line| Config::from(line.global).congestion)
        };
        assert_eq!(parse(&["key"]).unwrap(), CongestionControl::Quire);
        for choice in CongestionControl::ALL {
            for line in [
                ["--congestion", choice.name(), "ping", "h"],
                ["ping", "h", "--congestion", choice.name()],
            ] {
                assert_eq!(parse(&line).unwrap(), choice);
            }
        }
        parse(&["ping", "h", "--congestion", "reno"]).unwrap_err();
    }

    #[test]
    fn a_host_alone_means_the_interactive_client() {
        let action = |line: &[&str]| {
            let line = CliArgs::try_parse_from([&["quire"], line].concat());
            line.and_then(|line| line.action())
        };
        for line in [&["menu", "h:1"] as &[&str], &["h:1"], &["h:1", "--json"]] {
            match action(line).unwrap() {
                Action::Menu(args) => assert_eq!(args.operand, "h:1"),
                other @ Action::Command(_) => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            action(&["key"]).unwrap(),
            Action::Command(ClientCommand::Key)
        ));
        for line in [
            &["h", "key"] as &[&str],
            &["--json"],
            &["h", "g"],
            &["menu"],
        ] {
            action(line).unwrap_err();
        }
    }
}
