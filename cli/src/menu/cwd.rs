//! Current directories of a session, on the server and local, and resolution of relative paths.
//!
//! `..` is never sent: it is resolved here, by removal of a component. Local paths are joined to a
//! directory of the session. The one of the process stays, because paths such as `--state-dir` are
//! relative to it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use quire_shared::path::PathError;
use quire_shared::protocol;
use quire_shared::{Escaped, Name, RemotePath};

use crate::args::{ClientCommand, SyncArgs};
use crate::operand::DASH;
use quire_client::ServerId;

/// Current directory on the server, and the local one.
#[derive(Debug, Clone)]
pub(super) struct WorkingDir {
    server: ServerId,
    remote: RemotePath,
    /// Empty until `lcd`, which means the directory of the process.
    local: PathBuf,
}

impl WorkingDir {
    pub(super) fn new(server: ServerId, remote: RemotePath) -> Self {
        Self {
            server,
            remote,
            local: PathBuf::new(),
        }
    }

    pub(super) fn server(&self) -> &ServerId {
        &self.server
    }

    /// The current directory on the server.
    pub(super) fn remote(&self) -> &RemotePath {
        &self.remote
    }

    pub(super) fn set_remote(&mut self, path: RemotePath) {
        self.remote = path;
    }

    pub(super) fn set_local(&mut self, path: PathBuf) {
        self.local = path;
    }

    /// Resolves a path on the server.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(super) fn remote_path(&self, typed: &str) -> Result<RemotePath, WorkingDirError> {
        let mut names = match typed.starts_with('/') {
            true => Vec::new(),
            false => self.remote.names().to_vec(),
        };
        let error = |source| WorkingDirError::Path {
            typed: Escaped(typed).to_string(),
            source,
        };
        for part in typed.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    names.pop();
                }
                name => names.push(Name::new(name).map_err(error)?),
            }
        }
        RemotePath::from_names(names).map_err(error)
    }

    /// Resolves a path on the server into an operand of the command line.
    fn operand(&self, typed: &str) -> Result<String, WorkingDirError> {
        let path = self.remote_path(typed)?;
        let names: Vec<_> = path.names().iter().map(Name::as_str).collect();
        let mut operand = format!("{}/{}", self.server, names.join("/"));
        // A slash at the end says that the path must be a directory.
        if matches!(typed.rsplit('/').next(), Some("" | "." | "..")) && !path.is_root() {
            operand.push('/');
        }
        Ok(operand)
    }

    /// As [`operand`](Self::operand), for a source of which only the content may be meant.
    fn source_operand(&self, typed: &str) -> Result<String, WorkingDirError> {
        let operand = self.operand(typed)?;
        match typed.trim_end_matches('/').ends_with("/.") {
            true => Ok(format!("{}/.", operand.trim_end_matches('/'))),
            false => Ok(operand),
        }
    }

    /// Resolves a local path; `~` is the home directory.
    pub(super) fn local_path(&self, typed: &OsStr) -> PathBuf {
        let typed = Path::new(typed);
        match (typed.strip_prefix("~"), env::home_dir()) {
            (Ok(rest), Some(home)) if rest.as_os_str().is_empty() => home,
            (Ok(rest), Some(home)) => home.join(rest),
            _ => self.local.join(typed),
        }
    }

    /// The local directory as an operand.
    fn local_operand(&self) -> OsString {
        match self.local.as_os_str().is_empty() {
            true => ".".into(),
            false => self.local.clone().into(),
        }
    }

    /// Adds server and directory to the paths of `command`, so that it means the same as on the
    /// command line.
    ///
    /// # Errors
    /// The path that is invalid.
    pub(super) fn qualify(&self, command: &mut ClientCommand) -> Result<(), WorkingDirError> {
        match command {
            ClientCommand::Get(args) => self.qualify_get(&mut args.operands)?,
            ClientCommand::Put(args) => self.qualify_put(&mut args.operands)?,
            ClientCommand::Sync(args) => self.qualify_sync(args)?,
            ClientCommand::List(args) => args.operand = self.operand(&args.operand)?,
            ClientCommand::Stat(args) => args.operand = self.operand(&args.operand)?,
            ClientCommand::Rename(args) => {
                args.from = self.operand(&args.from)?;
                args.to = self.operand(&args.to)?;
            }
            ClientCommand::Copy(args) => {
                args.from = self.source_operand(&args.from)?;
                args.to = self.operand(&args.to)?;
            }
            ClientCommand::Delete(args) => self.qualify_all(&mut args.operands)?,
            ClientCommand::Mkdir(args) => self.qualify_all(&mut args.operands)?,
            ClientCommand::Chmod(args) => self.qualify_all(&mut args.operands)?,
            ClientCommand::Cat(args) => self.qualify_all(&mut args.operands)?,
            ClientCommand::Hash(args) => self.qualify_all(&mut args.operands)?,
            ClientCommand::Uploads(args) => args.operand = self.operand(&args.operand)?,
            ClientCommand::Cache(args) => args.operand = self.server.to_string(),
            ClientCommand::Ping(args) => args.operand = self.server.to_string(),
            ClientCommand::Pair(args) => args.operand = self.server.to_string(),
            ClientCommand::Key => {}
        }
        Ok(())
    }

    fn qualify_all(&self, operands: &mut [String]) -> Result<(), WorkingDirError> {
        for operand in operands {
            *operand = self.operand(operand)?;
        }
        Ok(())
    }

    /// Resolves operands of `get`. Without a host all look alike, so the last of several is local.
    fn qualify_get(&self, operands: &mut Vec<OsString>) -> Result<(), WorkingDirError> {
        let target = match operands.len() {
            0 | 1 => self.local_operand(),
            _ => match operands.pop() {
                Some(dash) if dash == DASH => dash,
                Some(typed) => self.unlike_remote(self.local_path(&typed)),
                None => self.local_operand(),
            },
        };
        for operand in operands.iter_mut() {
            *operand = self.source_operand(utf8(operand)?)?.into();
        }
        operands.push(target);
        Ok(())
    }

    /// Resolves operands of `put`. The last of several is on the server; the default is the current
    /// directory.
    fn qualify_put(&self, operands: &mut Vec<OsString>) -> Result<(), WorkingDirError> {
        let target = match operands.len() {
            0 | 1 => self.operand(".")?,
            _ => match operands.pop() {
                Some(typed) => self.operand(utf8(&typed)?)?,
                None => self.operand(".")?,
            },
        };
        for operand in operands.iter_mut() {
            if operand == DASH {
                return Err(WorkingDirError::StandardInput);
            }
            *operand = self.local_path(operand).into();
        }
        operands.push(target.into());
        Ok(())
    }

    /// Resolves operands of `sync`: the source is local if it exists here.
    fn qualify_sync(&self, args: &mut SyncArgs) -> Result<(), WorkingDirError> {
        let local_source = self.local_path(&args.source);
        if local_source.symlink_metadata().is_ok() {
            args.source = Path::new(".").join(local_source).into();
            args.target = self.operand(utf8(&args.target)?)?.into();
        } else {
            args.source = self.operand(utf8(&args.source)?)?.into();
            args.target = self.unlike_remote(self.local_path(&args.target));
        }
        Ok(())
    }

    /// Adds `./` to a local path that looks like one on the server.
    fn unlike_remote(&self, path: PathBuf) -> OsString {
        match path.starts_with(self.server.to_string()) {
            true => Path::new(".").join(path).into(),
            false => path.into(),
        }
    }
}

/// Shows the working directory as a prompt does.
impl fmt::Display for WorkingDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.port() {
            protocol::PORT => write!(f, "{}:{}", self.server.host(), self.remote),
            _ => write!(f, "{}:{}", self.server, self.remote),
        }
    }
}

fn utf8(operand: &OsStr) -> Result<&str, WorkingDirError> {
    operand.to_str().ok_or(WorkingDirError::NotUtf8)
}

/// Why a path is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WorkingDirError {
    /// The path breaks a rule.
    #[error("`{typed}`: {source}")]
    Path {
        /// The path, safe to show.
        typed: String,
        #[source]
        source: PathError,
    },
    /// Paths on a server are UTF-8.
    #[error("a path on the server must be UTF-8")]
    NotUtf8,
    /// Standard input carries the commands.
    #[error("standard input carries the commands here, so it can't be stored")]
    StandardInput,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{GetArgs, PreserveArgs, PutArgs};

    fn cwd(remote: &str) -> WorkingDir {
        WorkingDir::new(
            ServerId::new("h", 1).unwrap(),
            RemotePath::parse(remote).unwrap(),
        )
    }

    #[test]
    fn paths_are_relative_to_the_current_directory_and_dots_stay_here() {
        let path = |typed: &str| cwd("a/b").remote_path(typed).unwrap().to_string();
        assert_eq!(path("c"), "/a/b/c");
        assert_eq!(path("/c"), "/c");
        assert_eq!(path(""), "/a/b");
        assert_eq!(path("."), "/a/b");
        assert_eq!(path(".."), "/a");
        assert_eq!(path("../c/./d//"), "/a/c/d");
        assert_eq!(path("../../../../c"), "/c");
        assert_eq!(path("/.."), "/");
        assert_eq!(path("c d/.../..x"), "/a/b/c d/.../..x");
        let error = cwd("").remote_path("x/.quire-y").unwrap_err();
        assert!(error.to_string().starts_with("`x/.quire-y`: "), "{error}");
        let error = cwd("").remote_path("a\u{1b}\0").unwrap_err();
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }

    #[test]
    fn operands_are_those_of_the_command_line() {
        let operand = |typed: &str| cwd("a").operand(typed).unwrap();
        assert_eq!(operand("b"), "h:1/a/b");
        assert_eq!(operand("b/"), "h:1/a/b/");
        assert_eq!(operand("."), "h:1/a/");
        assert_eq!(operand(".."), "h:1/");
        assert_eq!(operand("b/.."), "h:1/a/");
        assert_eq!(operand("/"), "h:1/");
    }

    fn get(cwd: &WorkingDir, typed: &[&str]) -> Vec<OsString> {
        let mut command = ClientCommand::Get(GetArgs {
            recursive: false,
            force: false,
            fsync: false,
            preserve: PreserveArgs::default(),
            keep: Default::default(),
            existing: Default::default(),
            delta: Default::default(),
            links: Default::default(),
            hard_links: false,
            operands: typed.iter().map(OsString::from).collect(),
        });
        cwd.qualify(&mut command).unwrap();
        match command {
            ClientCommand::Get(args) => args.operands,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_operand_of_get_is_local() {
        let mut cwd = cwd("a");
        assert_eq!(get(&cwd, &["b"]), ["h:1/a/b", "."]);
        assert_eq!(get(&cwd, &["b", "c"]), ["h:1/a/b", "c"]);
        assert_eq!(get(&cwd, &["b", "c", "d/"]), ["h:1/a/b", "h:1/a/c", "d/"]);
        assert_eq!(get(&cwd, &["b", "-"]), ["h:1/a/b", "-"]);
        assert_eq!(get(&cwd, &["b", "h:1/c"]), ["h:1/a/b", "./h:1/c"]);
        cwd.set_local("/tmp".into());
        assert_eq!(get(&cwd, &["b"]), ["h:1/a/b", "/tmp"]);
        assert_eq!(get(&cwd, &["b", "c"]), ["h:1/a/b", "/tmp/c"]);
        assert_eq!(get(&cwd, &["b", "/c"]), ["h:1/a/b", "/c"]);
    }

    #[test]
    fn the_last_operand_of_put_is_remote() {
        let put = |cwd: &WorkingDir, typed: &[&str]| {
            let mut command = ClientCommand::Put(PutArgs {
                recursive: false,
                force: false,
                preserve: PreserveArgs::default(),
                keep: Default::default(),
                existing: Default::default(),
                delta: Default::default(),
                links: Default::default(),
                hard_links: false,
                operands: typed.iter().map(OsString::from).collect(),
            });
            cwd.qualify(&mut command).map(|()| match command {
                ClientCommand::Put(args) => args.operands,
                other => panic!("{other:?}"),
            })
        };
        let mut cwd = cwd("a");
        assert_eq!(put(&cwd, &["b"]).unwrap(), ["b", "h:1/a/"]);
        assert_eq!(put(&cwd, &["b", "c"]).unwrap(), ["b", "h:1/a/c"]);
        assert_eq!(put(&cwd, &["b", "c", "/"]).unwrap(), ["b", "c", "h:1/"]);
        assert_eq!(put(&cwd, &["-", "c"]), Err(WorkingDirError::StandardInput));
        cwd.set_local("/tmp".into());
        assert_eq!(put(&cwd, &["b", "c"]).unwrap(), ["/tmp/b", "h:1/a/c"]);
    }

    #[test]
    fn the_prompt_shows_the_port_where_it_is_unusual() {
        assert_eq!(cwd("a/b").to_string(), "h:1:/a/b");
        let usual = WorkingDir::new(
            ServerId::new("h", protocol::PORT).unwrap(),
            RemotePath::ROOT,
        );
        assert_eq!(usual.to_string(), "h:/");
    }

    #[test]
    fn the_home_directory_has_its_short_name() {
        let home = env::home_dir().unwrap();
        assert_eq!(cwd("").local_path(OsStr::new("~")), home);
        assert_eq!(cwd("").local_path(OsStr::new("~/x")), home.join("x"));
        assert_eq!(cwd("").local_path(OsStr::new("~x")), Path::new("~x"));
    }
}
