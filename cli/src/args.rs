//! What the user typed: names, flags and their help, and no meaning yet.
//!
//! [`config`](crate::config) and [`operand`](crate::operand) give it meaning. Each command's
//! operands are a struct of their own, so that whoever reads commands from elsewhere than the
//! command line, as the interactive client does, builds the same.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "these comments are the help texts as well, in which brackets mean what may be left out"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use quire_shared::Escaped;
use quire_shared::digest::DigestKind;
use quire_transport::congestion::CongestionControl;

/// The command line of `quire`.
#[derive(Debug, Parser)]
#[command(
    name = "quire",
    version,
    about = "Fetches files from a quire server and puts them there",
    after_help = EXAMPLES,
    arg_required_else_help = true
)]
pub struct CliArgs {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// Alone: the same as `menu HOST`
    #[arg(value_name = "HOST[:PORT][/DIR]")]
    host: Option<String>,
    #[command(subcommand)]
    action: Option<Action>,
}

impl CliArgs {
    /// What is to be done.
    ///
    /// # Errors
    /// If there is nothing to do, or two things are asked for.
    pub fn action(&self) -> Result<Action, clap::Error> {
        let error = |kind, text: String| Err(Self::command().error(kind, text));
        match (&self.host, &self.action) {
            (None, Some(action)) => Ok(action.clone()),
            (Some(host), None) => Ok(Action::Menu(MenuArgs {
                operand: host.clone(),
            })),
            (None, None) => error(ErrorKind::MissingSubcommand, "no command".to_owned()),
            (Some(host), Some(_)) => error(
                ErrorKind::ArgumentConflict,
                format!("`{}` can't stand before a command", Escaped(host)),
            ),
        }
    }
}

/// What one run of the program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Action {
    /// One command.
    #[command(flatten)]
    Command(ClientCommand),
    /// Work with a server interactively, or have commands read from a pipe
    #[command(after_help = MENU_HELP)]
    Menu(MenuArgs),
}

/// Operands of `menu`.
#[derive(Debug, Clone, Args)]
pub struct MenuArgs {
    /// The server, and the directory to start in
    #[arg(value_name = "HOST[:PORT][/DIR]")]
    pub operand: String,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArgs {
    /// How each command works and prints.
    #[command(flatten)]
    pub each: EachArgs,
    /// Trust the servers that the certificates in FILE vouch for, and no others
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Use the key and certificate in FILE instead of this user's own
    #[arg(long, global = true, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// Keep keys and known servers in DIR
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Accept the key of a server never seen before, and remember it
    #[arg(long, global = true)]
    pub trust_on_first_use: bool,
    /// How to find the rate to send at: quire (default), cubic or bbr
    #[arg(long, global = true, value_name = "CONTROL")]
    pub congestion: Option<CongestionControl>,
    /// Say more on standard error; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Those flags that may differ from one command of a session to the next.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct EachArgs {
    /// Print results as JSON, one object a line
    #[arg(long, global = true)]
    pub json: bool,
    /// What proves a content: xxh3 (default), blake3 (default of hash) or sha256
    #[arg(long, global = true, value_name = "KIND")]
    pub digest: Option<DigestKind>,
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Fetch files, or whole directories with -r
    Get(GetArgs),
    /// Store files, or whole directories with -r
    Put(PutArgs),
    /// List a directory
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show what is known of a file or directory
    Stat(StatArgs),
    /// Give a file or directory a new name
    #[command(visible_alias = "mv")]
    Rename(RenameArgs),
    /// Delete files, or whole directories with -r
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Copy a file on the server, or a whole directory with -r
    #[command(visible_alias = "cp")]
    Copy(CopyArgs),
    /// Make a directory, and its parents where they are missing
    Mkdir(MkdirArgs),
    /// Write files to standard output
    Cat(CatArgs),
    /// Show what the server holds in memory
    Cache(CacheArgs),
    /// Measure handshake and round trip, and show what the path gives
    Ping(PingArgs),
    /// Show this client's fingerprint
    Key,
    /// Be let in by a server, with a code that `quire-server pair` made there
    Pair(PairCodeArgs),
    /// Have the server compute digests of files
    Hash(HashArgs),
}

/// Operands of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// Fetch directories, with all that is below them; links and special files are skipped
    #[arg(short, long)]
    pub recursive: bool,
    /// Replace local files that exist
    #[arg(short, long)]
    pub force: bool,
    /// Force content and names to disk before a file counts as done
    #[arg(long)]
    pub fsync: bool,
    /// HOST[:PORT]/PATH..., then LOCAL: a file, a directory, or - for standard output. The last of
    /// several is LOCAL unless it begins with the same HOST[:PORT]/ as the first; without LOCAL,
    /// files go into the current directory
    #[arg(required = true, value_name = "OPERAND")]
    pub operands: Vec<OsString>,
}

/// Operands of `put`.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// Store directories, with all that is below them, and make missing parents; links and special
    /// files are skipped
    #[arg(short, long)]
    pub recursive: bool,
    /// Replace files on the server that exist
    #[arg(short, long)]
    pub force: bool,
    /// LOCAL... (- for standard input), then HOST[:PORT]/PATH: a file, or a directory for them
    #[arg(required = true, num_args = 2.., value_name = "OPERAND")]
    pub operands: Vec<OsString>,
}

/// Operands of `pair`.
#[derive(Debug, Clone, Args)]
pub struct PairCodeArgs {
    /// The server
    #[arg(value_name = "HOST[:PORT]")]
    pub operand: String,
    /// The code, as in 7K3M-9QWX-2HRT-B4NP; asked for if it isn't given
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

/// Operands of `list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Show mode, size and modification time (UTC) beside each name even where the output isn't a
    /// terminal; without it, a pipe gets names alone, one a line
    #[arg(short, long)]
    pub long: bool,
    /// The directory
    #[arg(value_name = "HOST[:PORT][/DIR]")]
    pub operand: String,
}

/// Operands of `stat`.
#[derive(Debug, Clone, Args)]
pub struct StatArgs {
    /// The file or directory
    #[arg(value_name = "HOST[:PORT]/PATH")]
    pub operand: String,
}

/// Operands of `rename`.
#[derive(Debug, Clone, Args)]
pub struct RenameArgs {
    /// Replace what has the new name
    #[arg(short, long)]
    pub force: bool,
    /// The name it has
    #[arg(value_name = "HOST[:PORT]/FROM")]
    pub from: String,
    /// The name it shall have
    #[arg(value_name = "HOST[:PORT]/TO")]
    pub to: String,
}

/// Operands of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// Delete directories, with all that is below them
    #[arg(short, long)]
    pub recursive: bool,
    /// The files and directories
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub operands: Vec<String>,
}

/// Operands of `copy`.
#[derive(Debug, Clone, Args)]
pub struct CopyArgs {
    /// Copy a directory, with all that is below it
    #[arg(short, long)]
    pub recursive: bool,
    /// Replace the file that has the copy's name
    #[arg(short, long)]
    pub force: bool,
    /// What is copied
    #[arg(value_name = "HOST[:PORT]/FROM")]
    pub from: String,
    /// The name of the copy
    #[arg(value_name = "HOST[:PORT]/TO")]
    pub to: String,
}

/// Operands of `mkdir`.
#[derive(Debug, Clone, Args)]
pub struct MkdirArgs {
    /// The directories
    #[arg(required = true, value_name = "HOST[:PORT]/DIR")]
    pub operands: Vec<String>,
}

/// Operands of `cat`.
#[derive(Debug, Clone, Args)]
pub struct CatArgs {
    /// The files
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub operands: Vec<String>,
}

/// Operands of `cache`.
#[derive(Debug, Clone, Args)]
pub struct CacheArgs {
    /// The server
    #[arg(value_name = "HOST[:PORT]")]
    pub operand: String,
}

/// Operands of `ping`.
#[derive(Debug, Clone, Args)]
pub struct PingArgs {
    /// The server
    #[arg(value_name = "HOST[:PORT]")]
    pub operand: String,
}

/// Operands of `hash`.
#[derive(Debug, Clone, Args)]
pub struct HashArgs {
    /// The files
    #[arg(required = true, value_name = "HOST[:PORT]/PATH")]
    pub operands: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  quire put report.pdf files.example/inbox/        store a file
  quire get files.example/inbox/report.pdf         fetch it into the current directory
  quire get -r files.example/photos ~/pictures     fetch a directory with all below it
  quire list files.example:4433/inbox              list a directory; IPv6 as [::1]:4433/inbox
  quire cat files.example/log | grep error         write to standard output
  tar c . | quire put - files.example/backup.tar   store from standard input
  quire files.example                              work interactively

Exit status:
  0 done                   4 exists, changed meanwhile, or busy
  1 failed                 5 refused: the rights don't suffice
  2 wrong usage            6 cannot connect, not trusted, or connection lost
  3 not found              7 content damaged, or changed on the way
  130 interrupted (143 ended by SIGTERM); no unfinished file is left

Of several files the first failure decides, and the others are still tried.
";

const MENU_HELP: &str = "\
On a terminal, `help` lists the commands and `menu` a numbered choice of operations.
The commands are those of the command line with the host left out; paths are relative to the
current directory on the server, which `cd` changes, local ones to that of `lcd`.
Words may be quoted with '...', \"...\" or a backslash.

From a pipe, each line is a command, and # begins a comment. The first command that fails ends the
session with its exit status; a failure of a command after a single - (as in `- delete old`) doesn't.
";

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
