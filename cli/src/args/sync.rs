//! Operands and flags of `sync`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{DeltaArgs, KeepArgs, LinksArgs, PreserveArgs};

/// Operands of `sync`.
#[derive(Debug, Clone, Args)]
pub struct SyncArgs {
    /// Only print what would be done
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Compare files of the same size by digest, not by modification time
    #[arg(short, long)]
    pub(crate) checksum: bool,
    /// Delete what is not at SOURCE, after everything else; what only has another name is renamed
    #[arg(long)]
    pub(crate) delete: bool,
    /// Change nothing if more than N files and directories would be deleted
    #[arg(long, value_name = "N", requires = "delete")]
    pub(crate) max_delete: Option<u64>,
    /// Delete everything if SOURCE is empty, which is refused otherwise
    #[arg(short, long, requires = "delete")]
    pub(crate) force: bool,
    /// Move what is replaced or deleted to DIR, on the side of TARGET: below TARGET, or from the root if
    /// it begins with a slash
    #[arg(long, value_name = "DIR")]
    pub(crate) backup_dir: Option<String>,
    /// Sync each local file and its name to disk before it counts as done
    #[arg(long)]
    pub(crate) fsync: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    #[command(flatten)]
    pub(crate) preserve: PreserveArgs,
    #[command(flatten)]
    pub(crate) keep: KeepArgs,
    #[command(flatten)]
    pub(crate) delta: DeltaArgs,
    #[command(flatten)]
    pub(crate) links: LinksArgs,
    /// Keep hard links: a file with several names is sent once, and the others become names of the same
    /// file
    #[arg(long)]
    pub(crate) hard_links: bool,
    /// Directory to read: HOST[:PORT]/PATH, or a local directory, which it is if it exists here
    #[arg(value_name = "SOURCE")]
    pub(crate) source: OsString,
    /// Directory that becomes the same, and is made if it doesn't exist: on a server if SOURCE is local,
    /// else local, unless it begins with an address or HOST:PORT that is no local directory
    #[arg(value_name = "TARGET")]
    pub(crate) target: OsString,
}

/// Which files and directories are left alone on both sides. The last pattern that matches decides, in
/// the order of the flags below.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArgs {
    /// Leave alone what the file .quireignore at the top of SOURCE says
    #[arg(long)]
    pub(crate) quireignore: bool,
    /// Leave alone what the patterns in FILE match
    #[arg(long, value_name = "FILE")]
    pub(crate) exclude_from: Vec<PathBuf>,
    /// Leave alone what matches, on both sides; PATTERN is a line of a .gitignore
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// Don't leave alone what matches, whatever --exclude says
    #[arg(long, value_name = "PATTERN")]
    pub(crate) include: Vec<String>,
}
