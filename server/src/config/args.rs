//! What the operator typed.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use quire_transport::congestion::CongestionControl;

use crate::auth::rules::Rules;
use crate::config::limits::Limits;

/// Serves a directory over QUIC.
///
/// The client is `quire`. Whoever runs both programs on one account may read and write at once;
/// everybody else needs a line in the authorized-keys file.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the program does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the server's fingerprint, or make a new identity.
    Certs(CertsArgs),
    /// Make a code that lets one client in, to be typed there after `quire pair`.
    Pair(PairArgs),
}

/// How to serve.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// The directory to serve.
    #[arg(default_value = ".")]
    pub root: PathBuf,
    /// A file of settings in TOML, whose keys are these flags; what is typed wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say whether the settings, the certificate and the authorized-keys file are right, and end.
    #[arg(long)]
    pub check_config: bool,
    /// An address to listen on, as IP, IP:PORT or :PORT; can be given more than once
    /// [default: 127.0.0.1 and ::1, port 4433].
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<ListenAddress>,
    /// Change nothing in the directory.
    #[arg(long)]
    pub read_only: bool,
    /// Memory for file contents, in bytes or as 512KiB, 64MiB, 1GiB; 0 turns the cache off.
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    pub cache_size: ByteCount,
    /// The largest file that the cache takes [default: as large as the cache].
    #[arg(long, value_name = "BYTES")]
    pub cache_file_max: Option<ByteCount>,
    /// Where keys and certificates are kept [default: the platform's state directory + "quire"].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Your own certificate chain (PEM) instead of a generated one.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The private key (PEM) of --cert.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Who may connect: lines of a fingerprint, rights as in `read,/incoming=put`, and a comment;
    /// read again when it changes [default: authorized-keys in the state directory].
    #[arg(long, value_name = "FILE")]
    pub authorized_keys: Option<PathBuf>,
    /// Certificates (PEM) of an authority for clients: lines of `cert:NAME` instead of a
    /// fingerprint in authorized-keys are for those whom it has given that name.
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Don't let in the client identity of the same state directory.
    #[arg(long)]
    pub no_owner: bool,
    /// What those without an authorized key may do: none, read, write, or rules by path as in
    /// read,/incoming=put,/private=none.
    #[arg(long, value_name = "RIGHTS", default_value = "none")]
    pub anonymous: Rules,
    /// How to find the rate to send at: quire, cubic or bbr.
    #[arg(long, value_name = "CONTROL", default_value_t)]
    pub congestion: CongestionControl,
    /// Don't have the kernel keep the server to its directories.
    #[arg(long)]
    pub no_landlock: bool,
    /// How many seconds running requests have to finish after SIGINT or SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub drain: u64,
    /// What clients may take of the server.
    #[command(flatten)]
    pub limits: Limits,
    /// Log every request, not only connections; RUST_LOG overrides this.
    #[arg(short, long)]
    pub verbose: bool,
}

/// How to show or make the server's identity.
#[derive(Debug, clap::Args)]
pub struct CertsArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub action: Option<CertsAction>,
    /// Where keys and certificates are kept [default: the platform's state directory + "quire"].
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// What a pairing code is good for.
#[derive(Debug, clap::Args)]
pub struct PairArgs {
    /// What the client may do: read, write, or rules by path as in authorized-keys.
    #[arg(long, value_name = "RIGHTS", default_value = "read")]
    pub rights: Rules,
    /// Whose key it will be, for the authorized-keys file.
    #[arg(long, value_name = "TEXT", default_value = "paired")]
    pub comment: String,
    /// How many minutes the code is good for.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1440))]
    pub minutes: u32,
    /// The state directory of the server that is to let the client in
    /// [default: the platform's state directory + "quire"].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// What to do with the server's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum CertsAction {
    /// Print the fingerprint; makes an identity if there is none yet.
    Show,
    /// Make a new identity in place of the old one. Clients that know the old one will refuse it.
    New,
}

/// The value of `--listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenAddress {
    /// One address, on the default port unless it names one.
    Address(IpAddr, Option<u16>),
    /// A port on every address of the machine.
    Port(u16),
}

impl std::str::FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
            return port
                .parse()
                .map(Self::Port)
                .map_err(|_| "a port is a number up to 65535");
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(address.ip(), Some(address.port())));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let address = bare
            .parse()
            .map_err(|_| "an address is IP, IP:PORT, [IPv6]:PORT or :PORT")?;
        Ok(Self::Address(address, None))
    }
}

/// A number of bytes, with an optional unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteCount(pub u64);

impl std::str::FromStr for ByteCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| "expected a number of bytes")?;
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err("the units are KiB, MiB, GiB, TiB and kB, MB, GB"),
        };
        number.checked_mul(factor).map(Self).ok_or("too large")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_congestion_control_is_ours_unless_another_is_chosen() {
        let parse = |arguments: &[&str]| {
            let line = Args::try_parse_from([&["quire-server"], arguments].concat());
            line.map(|args| args.serve.congestion)
        };
        assert_eq!(parse(&[]).unwrap(), CongestionControl::Quire);
        for choice in CongestionControl::ALL {
            let parsed = parse(&["root", "--congestion", choice.name()]);
            assert_eq!(parsed.unwrap(), choice);
        }
        parse(&["--congestion", "reno"]).unwrap_err();
    }

    #[test]
    fn byte_counts_take_units() {
        let parse = |text: &str| text.parse::<ByteCount>().map(|count| count.0);
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("64 mib"), Ok(64 << 20));
        assert_eq!(parse("2GB"), Ok(2_000_000_000));
        assert!(parse("").is_err());
        assert!(parse("MiB").is_err());
        assert!(parse("-1").is_err());
        assert!(parse("20000000TiB").is_err());
        assert!(parse("5 parsecs").is_err());
    }

    #[test]
    fn listen_addresses_take_the_usual_forms() {
        let parse = |text: &str| text.parse::<ListenAddress>();
        let v6: IpAddr = "::1".parse().unwrap();
        assert_eq!(parse(":0"), Ok(ListenAddress::Port(0)));
        assert_eq!(parse("::1"), Ok(ListenAddress::Address(v6, None)));
        assert_eq!(parse("[::1]"), Ok(ListenAddress::Address(v6, None)));
        assert_eq!(parse("[::1]:9"), Ok(ListenAddress::Address(v6, Some(9))));
        assert_eq!(
            parse("127.0.0.1"),
            Ok(ListenAddress::Address("127.0.0.1".parse().unwrap(), None))
        );
        assert!(parse("localhost").is_err());
        assert!(parse(":65536").is_err());
    }
}
