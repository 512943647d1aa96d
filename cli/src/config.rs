//! Options of every command, interpreted.

use std::path::PathBuf;
use std::time::Duration;

use quire_shared::digest::DigestKind;
use quire_transport::congestion::CongestionControl;

use crate::args::{EachArgs, GlobalArgs};

/// Options that hold for a whole run of the program.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Directory of keys and known servers; the platform's default if absent.
    pub state_dir: Option<PathBuf>,
    /// A file with the key and certificate to connect with, instead of those in the state
    /// directory.
    pub identity: Option<PathBuf>,
    /// A file with the only authorities whose certificates are trusted.
    pub ca: Option<PathBuf>,
    /// Whether the key of an unknown server is accepted and remembered. An attacker that intercepts
    /// this first connection is trusted from then on.
    pub trust_on_first_use: bool,
    /// Congestion control for data that is sent.
    pub congestion: CongestionControl,
    /// The kind of digest that the user asked for.
    pub digest: Option<DigestKind>,
    /// Whether results are printed as JSON.
    pub json: bool,
    /// Whether the bottleneck of a transfer is printed.
    pub verdicts: bool,
    /// Whether only results and errors are printed.
    pub quiet: bool,
    /// How long a transfer whose connection was lost tries to make another.
    pub timeout: Duration,
}

impl Config {
    /// The kind of digest that verifies a transfer.
    pub(crate) fn transfer_digest(&self) -> DigestKind {
        self.digest.unwrap_or_default()
    }

    /// The kind of digest for `hash`: a cryptographic one, for which other tools exist.
    pub(crate) fn hash_digest(&self) -> DigestKind {
        self.digest.unwrap_or(DigestKind::Blake3)
    }

    /// These options with those of one command.
    pub(crate) fn with_each(&self, args: &EachArgs) -> Self {
        Self {
            digest: args.digest.or(self.digest),
            json: args.json || self.json,
            quiet: args.quiet || self.quiet,
            ..self.clone()
        }
    }
}

impl From<GlobalArgs> for Config {
    fn from(args: GlobalArgs) -> Self {
        Self {
            state_dir: args.state_dir,
            identity: args.identity,
            ca: args.ca,
            trust_on_first_use: args.trust_on_first_use,
            congestion: args.congestion.unwrap_or_default(),
            digest: args.each.digest,
            json: args.each.json,
            verdicts: args.verbose > 0,
            quiet: args.each.quiet,
            timeout: Duration::from_secs(args.timeout),
        }
    }
}
