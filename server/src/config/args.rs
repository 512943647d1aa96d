//! The command line: subcommands, and one flag for each setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, Parser, Subcommand, value_parser};

use crate::auth::rules::Rules;
use crate::config::settings::{ROOT, SECTIONS, Setting, Settings};
use crate::config::value::Form;

/// File server over QUIC; its client is `quire`.
///
/// The user who runs the server may connect at once, with the client key in the same state
/// directory. Every other client needs a line in the authorized-keys file: see --authorized-keys
/// and `quire-server pair`.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_help = PRECEDENCE_HELP
)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<ServerCommand>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Print the server's fingerprint, or create a new key and certificate.
    Certs(CertsArgs),
    /// Create a pairing code with which one client can authorize its key.
    Pair(OfferArgs),
}

/// How to show or make the server's identity.
#[derive(Debug, clap::Args)]
pub struct CertsArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: Option<CertsAction>,
    /// Directory for the server's keys and certificates
    /// [default: "quire" in the platform's state directory].
    #[arg(
        long,
        value_name = "DIR",
        global = true,
        env = "QUIRE_STATE_DIR",
        hide_env = true
    )]
    pub state_dir: Option<PathBuf>,
}

/// What a pairing code is good for.
#[derive(Debug, clap::Args)]
pub struct OfferArgs {
    /// Rights of the client: read, write, or rules by path such as read,/incoming=put.
    #[arg(long, value_name = "RIGHTS", default_value = "read")]
    pub rights: Rules,
    /// Comment for the client's line in authorized-keys, such as the name of its user.
    #[arg(long, value_name = "TEXT", default_value = "paired")]
    pub comment: String,
    /// Time in minutes until the code expires.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u32).range(1..=1440))]
    pub minutes: u32,
    /// State directory of the server
    /// [default: "quire" in the platform's state directory].
    #[arg(long, value_name = "DIR", env = "QUIRE_STATE_DIR", hide_env = true)]
    pub state_dir: Option<PathBuf>,
}

/// What to do with the server's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum CertsAction {
    /// Print the fingerprint; creates a key and certificate if there are none.
    Show,
    /// Replace the key and certificate. Clients that know the old key will refuse the server.
    New,
}

/// Settings on the command line, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServeArgs {
    /// The configuration file.
    pub(crate) config: Option<PathBuf>,
    /// Whether the settings are to be checked and printed.
    pub check_config: bool,
    /// The texts of each setting on the command line, by key.
    pub(crate) typed: BTreeMap<&'static str, Vec<OsString>>,
}

impl clap::Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .env("QUIRE_CONFIG")
            .hide_env(true)
            .help("Configuration file in TOML; see below");
        let check = Arg::new(CHECK)
            .long(CHECK)
            .action(ArgAction::SetTrue)
            .help("Check the configuration, print each setting and where it comes from, and exit");
        let mut settings = Settings::default();
        let flags: Vec<Arg> = settings.all().iter().map(argument).collect();
        command.arg(config).arg(check).args(flags)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self {
            config: matches.get_one(CONFIG).cloned(),
            check_config: matches.get_flag(CHECK),
            typed: BTreeMap::new(),
        };
        for setting in Settings::default().all() {
            let key = setting.key;
            if matches.value_source(key) != Some(ValueSource::CommandLine) {
                continue;
            }
            let texts = match setting.value.form() {
                Form::Switch => vec!["true".into()],
                Form::Text | Form::Path | Form::List => {
                    let texts = matches.get_many::<OsString>(key);
                    texts.unwrap_or_default().cloned().collect()
                }
            };
            args.typed.insert(key, texts);
        }
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a setting, or its argument.
fn argument(setting: &Setting<'_>) -> Arg {
    let key = setting.key;
    let mut argument = Arg::new(key).help(help(setting));
    if key != ROOT {
        let heading = SECTIONS
            .iter()
            .find(|(section, _)| *section == setting.section);
        argument = argument
            .long(key)
            .help_heading(heading.map(|(_, heading)| *heading));
    }
    if let Some(old_key) = setting.old_key {
        argument = argument.alias(old_key);
    }
    if key == VERBOSE {
        argument = argument.short('v');
    }
    let form = setting.value.form();
    if form == Form::Switch {
        return argument.action(ArgAction::SetTrue);
    }
    argument = argument.value_name(setting.value_name);
    if form == Form::List {
        argument = argument.action(ArgAction::Append);
    }
    if form == Form::Path {
        // Paths need not be UTF-8.
        return argument.value_parser(value_parser!(OsString));
    }
    argument.value_parser(move |text: &str| {
        let texts = vec![OsString::from(text)];
        Settings::default()
            .set(key, &texts)
            .map(|()| OsString::from(text))
    })
}

/// The help of a setting, with its default if that is a text or a number.
fn help(setting: &Setting<'_>) -> String {
    let default = match setting.value.show() {
        Some(toml::Value::String(text)) => text,
        Some(toml::Value::Integer(number)) => number.to_string(),
        Some(_) | None => return setting.help.to_owned(),
    };
    format!("{} [default: {default}]", setting.help)
}

/// The flag that names the configuration file.
const CONFIG: &str = "config";

/// The flag that has the configuration checked.
const CHECK: &str = "check-config";

/// The only flag with a short form.
const VERBOSE: &str = "verbose";

const PRECEDENCE_HELP: &str = "\
Each setting is taken from the command line, else from the environment, else
from the configuration file, else its default. --rate-per-key 20MiB is
QUIRE_RATE_PER_KEY=20MiB in the environment, and in the file, where sections
are optional and paths are relative to the file:

  root = \"/srv/files\"
  [limits]
  rate-per-key = \"20MiB\"

--check-config prints all settings with their sections. Byte counts take KiB,
MiB, GiB, TiB and kB, MB, GB; `none` disables a rate or daily limit.";

#[cfg(test)]
mod tests {
    use quire_transport::congestion::CongestionControl;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_congestion_control_is_ours_unless_another_is_chosen() {
        let parse = |arguments: &[&str]| {
            let line = Args::try_parse_from([&["quire-server"], arguments].concat())?;
            let mut settings = Settings::default();
            for (key, texts) in line.serve.typed {
                settings.set(key, &texts).unwrap();
            }
            Ok::<_, clap::Error>(settings.congestion)
        };
        assert_eq!(parse(&[]).unwrap(), CongestionControl::Quire);
        for choice in CongestionControl::ALL {
            let parsed = parse(&["root", "--congestion", choice.name()]);
            assert_eq!(parsed.unwrap(), choice);
        }
        parse(&["--congestion", "reno"]).unwrap_err();
    }

    #[test]
    fn old_names_of_flags_go_on_working() {
        let line = ["quire-server", "--prove-addresses", "always"];
        let args = Args::try_parse_from(line).unwrap().serve;
        let expected = BTreeMap::from([("validate-addresses", vec!["always".into()])]);
        assert_eq!(args.typed, expected);
    }
}
