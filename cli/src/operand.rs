//! Parsing of operands: `HOST[:PORT]/PATH`, local paths, and `-`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use quire_shared::path::PathError;
use quire_shared::protocol;
use quire_shared::{Escaped, EscapedPath, Name, RemotePath};

use quire_client::known_servers::{ServerId, ServerIdError};
use quire_transport::socket::address::parse_ip;

/// A path on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The server.
    pub server: ServerId,
    /// The path below the directory that it serves.
    pub path: RemotePath,
    /// Whether the path was written with a slash at its end, so that only a directory can be meant.
    pub(crate) is_directory: bool,
    /// Whether it was written with `/.` at its end, so that only the content of the directory is
    /// meant.
    pub(crate) contents: bool,
}

impl Remote {
    /// Parses `HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// The part that is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, OperandError> {
        let (server, path) = text.split_once('/').unwrap_or((text, ""));
        let error = |reason| OperandError::Remote {
            operand: Escaped(text).to_string(),
            reason,
        };
        Ok(Self {
            server: parse_server(server).map_err(error)?,
            path: RemotePath::parse(path).map_err(|rule| error(RemoteError::Path(rule)))?,
            is_directory: text.ends_with('/'),
            contents: false,
        })
    }

    /// Parses `HOST[:PORT]/PATH`, whose path must not be the root.
    ///
    /// # Errors
    /// As [`Remote::parse`]; also without a path.
    pub fn parse_below_root(text: &str) -> Result<Self, OperandError> {
        let remote = Self::parse(text)?;
        if remote.path.is_root() {
            return Err(OperandError::Remote {
                operand: Escaped(text).to_string(),
                reason: RemoteError::NoPath,
            });
        }
        Ok(remote)
    }

    /// Parses the target of a change: a path below the root, or `HOST[:PORT]/` for the root as the
    /// directory to go into.
    ///
    /// # Errors
    /// As [`Remote::parse_below_root`].
    pub(crate) fn parse_target(text: &str) -> Result<Self, OperandError> {
        let remote = Self::parse(text)?;
        match remote.is_directory {
            true => Ok(remote),
            false => Self::parse_below_root(text),
        }
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// If that path is over a limit.
    pub(crate) fn join(&self, name: &Name) -> Result<RemotePath, OperandError> {
        let path = self.path.join(name.clone());
        path.map_err(|rule| OperandError::Remote {
            operand: format!("{}{}", self.server, self.path),
            reason: RemoteError::Path(rule),
        })
    }

    /// As [`Remote::parse`]; the path may end in `/.`, which means the content of the directory.
    ///
    /// # Errors
    /// As [`Remote::parse`].
    pub(crate) fn parse_source(text: &str) -> Result<Self, OperandError> {
        let mut directory = text;
        while let Some(rest) = directory.trim_end_matches('/').strip_suffix("/.") {
            directory = rest;
        }
        let is_contents = directory.len() < text.len();
        let remote = Self::parse(directory)?;
        Ok(Self {
            is_directory: remote.is_directory || is_contents,
            contents: is_contents,
            ..remote
        })
    }

    /// As [`Remote::parse_source`], for text that may not be UTF-8.
    ///
    /// # Errors
    /// As [`Remote::parse`].
    pub(crate) fn parse_os(text: &OsStr) -> Result<Self, OperandError> {
        match text.to_str() {
            Some(text) => Self::parse_source(text),
            None => Err(OperandError::Remote {
                operand: EscapedPath(text.as_ref()).to_string(),
                reason: RemoteError::NotUtf8,
            }),
        }
    }
}

/// Parses `HOST[:PORT]`, with an IPv6 address in brackets.
fn parse_server(text: &str) -> Result<ServerId, RemoteError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or(RemoteError::Brackets)?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(RemoteError::Brackets),
            }
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(RemoteError::Brackets),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(RemoteError::NoHost);
    }
    let port = match port {
        None => protocol::PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(RemoteError::Port)?,
    };
    Ok(ServerId::new(host, port)?)
}

/// An operand that is invalid, or operands that don't fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperandError {
    /// Not a path on a server.
    #[error("`{operand}` is not HOST[:PORT]/PATH: {reason}")]
    Remote {
        /// The operand, safe to show.
        operand: String,
        /// What is wrong with it.
        reason: RemoteError,
    },
    /// The command works within one server.
    #[error("{0} and {1} are different servers, or two names of one: use one name for both")]
    DifferentServers(ServerId, ServerId),
    /// Standard input or output can be one file only.
    #[error("`-` can't stand for {0}")]
    Dash(&'static str),
    /// Only one of them would be left.
    #[error("{first} and {second} would both become {target}")]
    SameTarget {
        /// A source, safe to show.
        first: String,
        /// Another source, safe to show.
        second: String,
        /// Their target, safe to show.
        target: String,
    },
    /// Standard output is for either.
    #[error("--json and content can't both go to standard output")]
    JsonAndContent,
    /// A server resolves no links for a client.
    #[error("--links=follow is for local directories: the server never follows links")]
    FollowsOnServer,
}

/// What is wrong with a remote operand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// Nothing before the slash.
    #[error("no host")]
    NoHost,
    /// Nothing after the slash.
    #[error("no path")]
    NoPath,
    /// The text after the colon is not a port.
    #[error("not a port")]
    Port,
    /// Colons without brackets, or brackets without their partner.
    #[error("an IPv6 address stands in brackets, as [::1]:4433")]
    Brackets,
    /// Paths on a server are UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// No name and no address.
    #[error(transparent)]
    Host(#[from] ServerIdError),
    /// The rule that the path breaks.
    #[error(transparent)]
    Path(PathError),
}

/// Operands of `get`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GetOperands {
    pub(crate) sources: Vec<Remote>,
    pub(crate) target: Target,
}

/// Target of a download.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Stdout,
    Local(PathBuf),
}

/// Separates sources and target of `get`.
pub(crate) fn get_operands(operands: &[OsString]) -> Result<GetOperands, OperandError> {
    let (sources, target) = match operands {
        [sources @ .., last] if !sources.is_empty() && !is_remote(last, sources) => {
            let is_stdout = STDOUT_NAMES.iter().any(|name| last == name);
            let target = match is_stdout {
                true => Target::Stdout,
                false => Target::Local(last.into()),
            };
            (sources, target)
        }
        operands => (operands, Target::Local(".".into())),
    };
    let sources = sources
        .iter()
        .map(|operand| Remote::parse_os(operand))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(GetOperands { sources, target })
}

/// One side of `sync`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SyncOperand {
    Local(PathBuf),
    Server(Remote),
}

impl SyncOperand {
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Local(_) => None,
            Self::Server(remote) => Some(remote),
        }
    }
}

/// The operands of `sync`. The source is local if it exists here; then the target is on a server.
pub(crate) fn sync_operands(
    source: &OsStr,
    target: &OsStr,
) -> Result<(SyncOperand, SyncOperand), OperandError> {
    let server = |operand: &OsStr| Remote::parse_os(operand).map(SyncOperand::Server);
    if is_local_source(source) {
        let source = SyncOperand::Local(source.into());
        return Ok((source, server(target)?));
    }
    let source_text = source.to_owned();
    let source = server(source)?;
    let target = match is_remote(target, &[source_text]) {
        true => server(target)?,
        false => SyncOperand::Local(target.into()),
    };
    Ok((source, target))
}

/// Whether an operand that is either local or on a server is a local directory.
pub(crate) fn is_local_source(operand: &OsStr) -> bool {
    let bytes = operand.as_encoded_bytes();
    let is_written_as_local = bytes.starts_with(b"/") || bytes.starts_with(b".");
    let exists = || std::fs::symlink_metadata(operand).is_ok();
    is_written_as_local || (!is_written_as_server(operand) && exists())
}

/// Whether a local operand means the content of a directory, as `.`, `..` and what ends in `/.`.
pub(crate) fn is_contents(operand: &OsStr) -> bool {
    let bytes = operand.as_encoded_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/');
    let trimmed = end.and_then(|end| bytes.get(..=end)).unwrap_or_default();
    let last = trimmed.rsplit(|byte| *byte == b'/').next();
    matches!(last, Some(b"." | b".."))
}

/// Whether the last operand of `get` is on a server: on that of a source, or on one that is written
/// as no local directory is.
fn is_remote(last: &OsStr, sources: &[OsString]) -> bool {
    let server = |text: &OsStr| {
        let (server, _) = text.to_str()?.split_once('/')?;
        parse_server(server).ok()
    };
    let Some(named) = server(last) else {
        return false;
    };
    let is_named_before = |source: &OsString| server(source).as_ref() == Some(&named);
    sources.iter().any(is_named_before) || is_written_as_server(last)
}

/// Whether an operand begins with an address or with `HOST:PORT`, and not with the name of something
/// local.
fn is_written_as_server(operand: &OsStr) -> bool {
    let Some((server, _)) = operand.to_str().and_then(|text| text.split_once('/')) else {
        return false;
    };
    let is_server = server.contains(':') || server == "localhost" || parse_ip(server).is_some();
    is_server && std::fs::symlink_metadata(server).is_err()
}

/// Parses operands that have to be on one server.
pub(crate) fn on_one_server<'a>(
    operands: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<Remote>, OperandError> {
    let remotes = operands
        .into_iter()
        .map(|operand| Remote::parse_below_root(operand))
        .collect::<Result<Vec<_>, _>>()?;
    if let [first, rest @ ..] = remotes.as_slice()
        && let Some(other) = rest.iter().find(|other| other.server != first.server)
    {
        return Err(OperandError::DifferentServers(
            first.server.clone(),
            other.server.clone(),
        ));
    }
    Ok(remotes)
}

/// Names of standard output. As a file, what it leads to would be opened anew, from its start.
const STDOUT_NAMES: [&str; 4] = [DASH, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Stands for standard input or output.
pub(crate) const DASH: &str = "-";

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> String {
        Remote::parse(text).unwrap().server.to_string()
    }

    fn reason(text: &str) -> RemoteError {
        match Remote::parse_below_root(text).unwrap_err() {
            OperandError::Remote { reason, .. } => reason,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn hosts_have_a_port_of_their_own_or_the_usual_one() {
        assert_eq!(server("h/x"), "h:4433");
        assert_eq!(server("h:1/x"), "h:1");
        assert_eq!(server("h"), "h:4433");
        assert_eq!(server("[::1]:9/x"), "[::1]:9");
        assert_eq!(server("[::1]/x"), "[::1]:4433");
        assert_eq!(server("127.0.0.1:65535"), "127.0.0.1:65535");
    }

    #[test]
    fn paths_are_what_follows_the_first_slash() {
        let remote = Remote::parse("h:1//a//b c/").unwrap();
        assert_eq!(remote.path.to_string(), "/a/b c");
        assert!(remote.is_directory);
        let remote = Remote::parse("h").unwrap();
        assert!(remote.path.is_root() && !remote.is_directory);
    }

    #[test]
    fn a_dot_at_the_end_means_the_content() {
        let source = |text: &str| {
            let remote = Remote::parse_source(text).unwrap();
            (remote.path.to_string(), remote.contents)
        };
        for text in ["h/m/.", "h/m/./", "h/m/././/", "h//m//."] {
            assert_eq!(source(text), ("/m".to_owned(), true), "{text}");
        }
        assert_eq!(source("h/."), ("/".to_owned(), true));
        assert_eq!(source("h/m."), ("/m.".to_owned(), false));
        assert_eq!(source("h/m./"), ("/m.".to_owned(), false));
        Remote::parse("h/m/.").unwrap_err();
        Remote::parse_source("h/m/..").unwrap_err();
        Remote::parse_source("h/./m").unwrap_err();
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        assert_eq!(reason("/x"), RemoteError::NoHost);
        assert_eq!(reason(":1/x"), RemoteError::NoHost);
        assert_eq!(reason(""), RemoteError::NoHost);
        assert_eq!(reason("h"), RemoteError::NoPath);
        assert_eq!(reason("h/"), RemoteError::NoPath);
        for text in ["h:/x", "h:0/x", "h:65536/x", "h:p/x", "h:-1/x"] {
            assert_eq!(reason(text), RemoteError::Port, "{text}");
        }
        for text in ["::1/x", "[::1/x", "[::1]x/x", "h:1:2/x"] {
            assert_eq!(reason(text), RemoteError::Brackets, "{text}");
        }
        assert_eq!(reason("h/../x"), RemoteError::Path(PathError::Relative));
        assert_eq!(reason("h/.quire-x"), RemoteError::Path(PathError::Reserved));
        assert!(matches!(reason("a b/x"), RemoteError::Host(_)));
    }

    #[test]
    fn the_last_operand_of_get_is_local_unless_it_is_on_the_same_server() {
        let parse = |operands: &[&str]| {
            let operands: Vec<OsString> = operands.iter().map(OsString::from).collect();
            let found = get_operands(&operands).unwrap();
            (found.sources.len(), found.target)
        };
        let local = |path: &str| Target::Local(path.into());
        assert_eq!(parse(&["h/a"]), (1, local(".")));
        assert_eq!(parse(&["h/a", "b"]), (1, local("b")));
        assert_eq!(parse(&["h/a", "d/b"]), (1, local("d/b")));
        assert_eq!(parse(&["h/a", "h/b"]), (2, local(".")));
        assert_eq!(parse(&["h/a", "h/b", "./h/c"]), (2, local("./h/c")));
        assert_eq!(parse(&["h/a", "g/b", "d"]), (2, local("d")));
        // Other spellings of the same server, of any source, and what can't be meant locally.
        assert_eq!(parse(&["h:4433/a", "H/b"]), (2, local(".")));
        assert_eq!(parse(&["h/a", "g/b", "g/c"]), (3, local(".")));
        assert_eq!(parse(&["h:1/a", "127.0.0.1:1/b"]), (2, local(".")));
        assert_eq!(parse(&["h/a", "127.1/b"]), (2, local(".")));
        assert_eq!(parse(&["h/a", "[::1]/b"]), (2, local(".")));
        assert_eq!(parse(&["127.0.0.1/a", "localhost/b"]), (2, local(".")));
        assert_eq!(
            parse(&["h:1/a", "./127.0.0.1:1/b"]),
            (1, local("./127.0.0.1:1/b"))
        );
        assert_eq!(parse(&["h/a", "-"]), (1, Target::Stdout));
        assert_eq!(parse(&["h", "h"]), (1, local("h")));
    }

    #[test]
    fn commands_within_one_server_refuse_two() {
        let operands = ["h/a".to_owned(), "h:4433/b".to_owned()];
        assert_eq!(on_one_server(&operands).unwrap().len(), 2);
        let operands = ["h/a".to_owned(), "h:1/b".to_owned()];
        assert!(matches!(
            on_one_server(&operands),
            Err(OperandError::DifferentServers(_, _))
        ));
    }
}
