//! What holds for every command, as meant.

use std::path::PathBuf;

use quire_shared::digest::DigestKind;
use quire_transport::congestion::CongestionControl;

use crate::args::{EachArgs, GlobalArgs};

/// What the user may choose for all that one run of the program does.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where keys and known servers are kept; the platform's place if absent.
    pub state_dir: Option<PathBuf>,
    /// A file with the key and certificate to connect with, instead of those in the state
    /// directory.
    pub identity: Option<PathBuf>,
    /// A file with the certificates that alone decide which servers are trusted.
    pub ca: Option<PathBuf>,
    /// Whether the key of a server that is not known yet is accepted and remembered. An attacker
    /// who answers in its place at that moment is trusted from then on.
    pub trust_on_first_use: bool,
    /// How connections find the rate they send at.
    pub congestion: CongestionControl,
    /// The kind of digest that the user asked for.
    pub digest: Option<DigestKind>,
    /// Whether results are printed as JSON.
    pub json: bool,
    /// Whether it is said what limited a transfer.
    pub verdicts: bool,
    /// Whether nothing but results and errors is printed.
    pub quiet: bool,
}

impl Config {
    /// The kind of digest that proves a transfer.
    pub(crate) fn transfer_digest(&self) -> DigestKind {
        self.digest.unwrap_or_default()
    }

    /// The kind of digest that the server is asked to compute: one that people can compare.
    pub(crate) fn hash_digest(&self) -> DigestKind {
        self.digest.unwrap_or(DigestKind::Blake3)
    }

    /// These choices with those made for one command.
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
        }
    }
}
