//! Flags that several commands share: what becomes of files that exist, and what a copy gets of its
//! original.

use clap::{Args, ValueEnum};
use quire_client::transfer::{Leave, LinkPolicy};
use quire_client::{Delta, Keep};
use quire_shared::protocol::{DetailKinds, Preserve};

use crate::operand::OperandError;

/// What becomes of files that exist already, besides --force.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ExistingArgs {
    /// Leave existing files as they are, whatever is in them
    #[arg(long, conflicts_with_all = ["force", "update"])]
    skip_existing: bool,
    /// Replace existing files that differ, unless they were modified later than the source
    #[arg(short, long, conflicts_with = "force")]
    update: bool,
}

impl ExistingArgs {
    /// Which files are left; `is_resumed` says that an earlier transfer goes on.
    pub(crate) fn leave(self, is_resumed: bool) -> Leave {
        match self {
            _ if self.skip_existing => Leave::Existing,
            _ if self.update => Leave::Newer,
            _ if is_resumed => Leave::Same,
            _ => Leave::Nothing,
        }
    }

    /// Whether the others are replaced, as with `force`.
    pub(crate) fn overwrites(self, force: bool) -> bool {
        self.update || force
    }
}

/// Which attributes of an original its copy gets. By default a new file gets the permissions that the
/// umask leaves of them and the modification time, and a replaced one keeps its permissions.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct PreserveArgs {
    /// Set exactly the permissions of the original, whatever the umask or the replaced file says
    #[arg(short = 'p', long)]
    preserve: bool,
    /// Set neither permissions nor modification time of the original
    #[arg(long, conflicts_with = "preserve")]
    no_preserve: bool,
}

impl PreserveArgs {
    /// What the flags say.
    pub(crate) fn choice(self) -> Preserve {
        match (self.preserve, self.no_preserve) {
            (true, _) => Preserve::Exact,
            (false, true) => Preserve::Nothing,
            (false, false) => Preserve::Usual,
        }
    }
}

/// Which details of an original its copy gets as well. None by default.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct KeepArgs {
    /// Keep extended attributes of the namespace `user`, and remove those that the original lacks
    #[arg(long)]
    xattrs: bool,
    /// Keep the owner, by name where the other side has that name. Only root can set it, and on a server
    /// only for who has the right `owner`
    #[arg(long)]
    owner: bool,
    /// Keep the group, as --owner keeps the owner
    #[arg(long)]
    group: bool,
    /// Keep owner and group by number, whatever their names
    #[arg(long)]
    numeric_ids: bool,
}

impl KeepArgs {
    /// What the flags say.
    pub(crate) fn choice(self) -> Keep {
        Keep {
            kinds: DetailKinds {
                xattrs: self.xattrs,
                owner: self.owner,
                group: self.group,
            },
            numeric_ids: self.numeric_ids,
        }
    }
}

/// Whether only what changed of a large file is moved. By default that is done where both versions
/// have 8 MiB or more, and the server is not on the local network.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct DeltaArgs {
    /// Move only what changed of a file that is replaced, also on a local network
    #[arg(long)]
    delta: bool,
    /// Always move whole files
    #[arg(long, conflicts_with = "delta")]
    whole_file: bool,
}

impl DeltaArgs {
    /// What the flags say.
    pub(crate) fn choice(self) -> Delta {
        match (self.delta, self.whole_file) {
            (true, _) => Delta::Always,
            (false, true) => Delta::Never,
            (false, false) => Delta::Auto,
        }
    }
}

/// What becomes of symbolic links in directories.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LinksArgs {
    /// Symbolic links in directories: leave them out, make the same links unless they would lead out of
    /// the target, or, from a local directory, send what they lead to
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    links: LinksChoice,
}

/// A value of `--links`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum LinksChoice {
    #[default]
    Skip,
    Keep,
    Follow,
}

impl LinksArgs {
    /// What the flag says.
    pub(crate) fn policy(self) -> LinkPolicy {
        match self.links {
            LinksChoice::Skip => LinkPolicy::Skip,
            LinksChoice::Keep => LinkPolicy::Keep,
            LinksChoice::Follow => LinkPolicy::Follow,
        }
    }

    /// What the flag says of a source on a server.
    ///
    /// # Errors
    /// If that is to follow links.
    pub(crate) fn policy_of_server(self) -> Result<LinkPolicy, OperandError> {
        match self.policy() {
            LinkPolicy::Follow => Err(OperandError::FollowsOnServer),
            policy => Ok(policy),
        }
    }
}
