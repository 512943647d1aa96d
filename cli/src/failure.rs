//! A failure as users and programs hear of it: what it is about, why, and the flag that helps.
//!
//! The reply of a server is only a code. So [`CommandFailure::explain`] looks at the paths in question, to
//! name the one that is to blame, and to offer a flag only where it would help.

use std::fmt;
use std::path::{Path, PathBuf};

use quire_client::protocol::{EntryKind, Stat};
use quire_client::transfer::ItemName;
use quire_client::trust::Refusal;
use quire_client::{Client, ClientError, ErrorCode, ErrorKind, RemotePath};

use crate::event::{Event, EventKind};
use crate::exit::Exit;

/// The flags of a command that could have avoided an error, and what its operands are for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HintFlags {
    /// Whether it takes `--force`, and that was not given.
    pub(crate) force: bool,
    /// If it takes `-r`, the code with which the server refuses a directory without that.
    pub(crate) recursive: Option<ErrorCode>,
    /// Whether the path is one to be made, so that only what leads to it can be missing.
    pub(crate) is_target: bool,
    /// Whether it takes `--parents`, and that was not given.
    pub(crate) parents: bool,
}

impl HintFlags {
    /// Commands without such flags.
    pub(crate) const NONE: Self = Self {
        force: false,
        recursive: None,
        is_target: false,
        parents: false,
    };

    /// Commands that change what is on the server.
    pub(crate) const CHANGE: Self = Self {
        recursive: Some(ErrorCode::NOT_EMPTY),
        ..Self::NONE
    };

    /// Downloads.
    pub(crate) const GET: Self = Self {
        recursive: Some(ErrorCode::IS_DIRECTORY),
        ..Self::NONE
    };

    /// Uploads.
    pub(crate) const PUT: Self = Self {
        is_target: true,
        ..Self::CHANGE
    };

    /// These flags, with `--force` as one that was `given` or not.
    pub(crate) const fn force_given(self, given: bool) -> Self {
        Self {
            force: !given,
            ..self
        }
    }
}

/// What a failure is about.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// The command as a whole, or the connection.
    Command,
    /// A file or directory.
    Item(ItemName),
    /// The two paths of a rename or copy.
    Two(RemotePath, RemotePath),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => Ok(()),
            Self::Item(name) => name.fmt(f),
            Self::Two(from, to) => write!(f, "{from} -> {to}"),
        }
    }
}

/// A failure, ready to be printed.
#[derive(Debug, Clone)]
pub struct CommandFailure {
    pub(crate) exit: Exit,
    subject: Subject,
    flags: HintFlags,
    /// Whether `text` names what it is about.
    names_itself: bool,
    /// Whether `text` says all that [`explain`](Self::explain) could find out.
    is_explained: bool,
    text: String,
    hint: Option<&'static str>,
    kind: &'static str,
    code: Option<ErrorCode>,
    local: Option<PathBuf>,
    /// How many files and directories below it failed with it.
    below: u64,
}

impl CommandFailure {
    /// A failure for which there is no [`ClientError`].
    pub fn of_command(exit: Exit, text: String) -> Self {
        Self {
            exit,
            subject: Subject::Command,
            flags: HintFlags::NONE,
            names_itself: true,
            is_explained: true,
            text,
            hint: None,
            kind: match exit {
                Exit::Usage => "usage",
                Exit::Interrupted | Exit::Terminated | Exit::HungUp | Exit::Quit => "interrupted",
                _ => "other",
            },
            code: None,
            local: None,
            below: 0,
        }
    }

    /// What went wrong with `subject`, in a command with these flags.
    pub(crate) fn new(subject: Subject, error: &ClientError, flags: HintFlags) -> Self {
        let (error, below) = match error {
            ClientError::WithBelow { error, below } => (&**error, *below),
            error => (error, 0),
        };
        let (text, hint) = text_and_hint(error, flags);
        Self {
            exit: Exit::from(error),
            subject,
            flags,
            // Their text has the name already, or they are about the connection.
            names_itself: error.is_connection_lost() || error.local_path().is_some(),
            is_explained: matches!(error, ClientError::InTheWay),
            text,
            hint,
            kind: kind_name(error.kind()),
            code: error.code(),
            local: error.local_path().map(Path::to_owned),
            below,
        }
    }

    /// Whether the command would have succeeded with `--force`.
    pub(crate) fn would_force_help(&self) -> bool {
        self.hint == Some(FORCE)
    }

    /// Whether [`explain`](Self::explain) may find out more.
    pub(crate) fn may_be_explained(&self) -> bool {
        let codes = [
            ErrorCode::EXISTS,
            ErrorCode::NOT_FOUND,
            ErrorCode::NOT_DIRECTORY,
            ErrorCode::IS_DIRECTORY,
            ErrorCode::SPECIAL_FILE,
        ];
        !self.is_explained && self.code.is_some_and(|code| codes.contains(&code))
    }

    /// Looks at the paths on the server to say which is to blame. Without an answer, the failure
    /// stays as it is.
    pub(crate) async fn explain(self, client: &Client) -> Self {
        if !self.may_be_explained() {
            return self;
        }
        match &self.subject {
            Subject::Item(ItemName::Remote(path)) => {
                let path = path.clone();
                let is_target = self.flags.is_target;
                self.explain_one(client, &path, is_target, false).await
            }
            Subject::Two(from, to) => {
                let (from, to) = (from.clone(), to.clone());
                let source = kind_of(client, &from).await;
                let is_of_source = match (self.code, source) {
                    (Some(ErrorCode::EXISTS | ErrorCode::IS_DIRECTORY), Some(_)) => false,
                    (_, Some(EntryKind::Symlink | EntryKind::Other) | None) => true,
                    (_, Some(_)) => false,
                };
                let is_directory = source == Some(EntryKind::Directory);
                match is_of_source {
                    true => self.explain_one(client, &from, false, true).await,
                    false => {
                        let force = self.flags.force && !is_directory;
                        let flags = HintFlags {
                            force,
                            ..self.flags
                        };
                        let failure = Self { flags, ..self };
                        failure.explain_one(client, &to, true, true).await
                    }
                }
            }
            Subject::Command | Subject::Item(_) => self,
        }
    }

    /// Explains the code as one about `path`, which is named if it is `one_of_two`.
    async fn explain_one(
        mut self,
        client: &Client,
        path: &RemotePath,
        is_target: bool,
        one_of_two: bool,
    ) -> Self {
        let named = |text: &str| match one_of_two {
            true => format!("{path} {text}"),
            false => without_verb(text),
        };
        match self.code {
            Some(ErrorCode::EXISTS) => match kind_of(client, path).await {
                Some(EntryKind::File) => {
                    self.text = named("already exists");
                    self.hint = self.flags.force.then_some(FORCE);
                }
                Some(EntryKind::Directory) => self.text = named("already exists, as a directory"),
                Some(kind) => {
                    self.hint = None;
                    self.text = named(match kind {
                        EntryKind::Symlink => "already exists, as a symbolic link",
                        _ => "already exists, as a special file",
                    });
                }
                None => {}
            },
            Some(ErrorCode::IS_DIRECTORY) if one_of_two => self.text = named("is a directory"),
            Some(ErrorCode::SPECIAL_FILE)
                if kind_of(client, path).await == Some(EntryKind::Symlink) =>
            {
                self.text = named(LINK);
            }
            Some(ErrorCode::NOT_FOUND) if one_of_two && !is_target => {
                self.text = format!("{path}: not found");
            }
            Some(code) if is_target || code == ErrorCode::NOT_DIRECTORY => {
                let codes = [ErrorCode::NOT_FOUND, ErrorCode::NOT_DIRECTORY];
                if codes.contains(&code) {
                    self.explain_way(client, path, one_of_two).await;
                }
            }
            _ => {}
        }
        self
    }

    /// Names the part of the way to `path` that is no directory.
    async fn explain_way(&mut self, client: &Client, path: &RemotePath, one_of_two: bool) {
        let named = |at: &RemotePath, text: &str| match at == path && !one_of_two {
            true => without_verb(text),
            false => format!("{at} {text}"),
        };
        let mut missing = None;
        let mut part = Some(path.clone());
        while let Some(at) = part.filter(|at| !at.is_root()) {
            let found = client.stat(Stat::of(at.clone())).await;
            match found.map(|found| found.kind).map_err(|error| error.code()) {
                Ok(EntryKind::Directory) => break,
                Ok(EntryKind::Symlink) => {
                    self.text = named(&at, LINK);
                    return;
                }
                Ok(EntryKind::File | EntryKind::Other) => {
                    self.text = named(&at, "is not a directory");
                    return;
                }
                Err(Some(ErrorCode::NOT_FOUND)) if at != *path => missing = Some(at.clone()),
                Err(Some(ErrorCode::NOT_FOUND | ErrorCode::NOT_DIRECTORY)) => {}
                // What may not be seen may be there.
                Err(_) => break,
            }
            part = at.parent();
        }
        if let Some(missing) = missing {
            self.text = format!("there is no directory {missing}");
            self.hint = Some(MKDIR);
        } else if self.code == Some(ErrorCode::NOT_FOUND) {
            self.text = "there is no directory for it".to_owned();
        }
    }

    /// The form for programs.
    pub fn event(&self) -> Event {
        let event = Event::new(EventKind::Failed)
            .with("error", self.text.as_str())
            .with("kind", self.kind)
            .with("exit", self.exit as u8);
        let mut event = match &self.subject {
            Subject::Command => event,
            Subject::Item(name) => event.item(name),
            Subject::Two(from, to) => event.remote("from", from).remote("to", to),
        };
        if let Some(local) = &self.local {
            event = event.local("local", local);
        }
        if let Some(code) = self.code.and_then(ErrorCode::name) {
            event = event.with("code", code);
        }
        if self.below > 0 {
            event = event.with("below", self.below);
        }
        match self.hint {
            Some(hint) => event.with("hint", hint),
            None => event,
        }
    }
}

/// One line for people.
impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Command => {}
            _ if self.names_itself => {}
            subject => write!(f, "{subject}: ")?,
        }
        f.write_str(&self.text)?;
        if self.below > 0 {
            write!(f, ", and with it {} below it", self.below)?;
        }
        match self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// The text as it follows a name and a colon.
fn without_verb(text: &str) -> String {
    text.strip_prefix("is ").unwrap_or(text).to_owned()
}

/// The kind of what has this path on the server.
async fn kind_of(client: &Client, path: &RemotePath) -> Option<EntryKind> {
    let stat = Stat::of(path.clone());
    client.stat(stat).await.ok().map(|found| found.kind)
}

fn text_and_hint(error: &ClientError, flags: HintFlags) -> (String, Option<&'static str>) {
    let hint = match error {
        ClientError::LocalExists(path) => is_replaceable(path).then_some(FORCE),
        ClientError::LocalDirectory(_) => Some(RECURSIVE),
        ClientError::LocalSpecial(_) if flags.is_target => Some(PIPE),
        ClientError::NotPaired => Some("get a new one with `quire-server pair` on the server"),
        ClientError::NotTrusted(refusal) if matches!(**refusal, Refusal::Unknown { .. }) => Some(
            "if the server printed that fingerprint at its start, connect once from a terminal \
             and confirm it, or use --trust-on-first-use",
        ),
        _ => None,
    };
    let hint = hint.filter(|hint| *hint != FORCE || flags.force);
    match error.code() {
        // The server's phrase is about the protocol's recursive flag, not about `-r`.
        code if code.is_some() && code == flags.recursive => {
            ("is a directory".to_owned(), Some(RECURSIVE))
        }
        Some(ErrorCode::EXISTS) if flags.parents => (error.to_string(), Some(PARENTS)),
        _ => (error.to_string(), hint),
    }
}

/// Whether `--force` replaces what has this local path.
fn is_replaceable(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir())
}

fn kind_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not-found",
        ErrorKind::Conflict => "conflict",
        ErrorKind::Refused => "refused",
        ErrorKind::Unreachable => "unreachable",
        ErrorKind::Damaged => "damaged",
        _ => "other",
    }
}

const FORCE: &str = "--force replaces it";

const RECURSIVE: &str = "-r includes it with everything below it";

const PARENTS: &str = "-p accepts a directory that exists";

const MKDIR: &str = "`quire mkdir` creates it";

const PIPE: &str = "to store what a program writes, use `PROGRAM | quire put - HOST/PATH`";

const LINK: &str = "is a symbolic link, which the server doesn't follow";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_named_only_where_the_command_takes_it() {
        let text = |code, flags| {
            let error = ClientError::of_code(code);
            CommandFailure::new(Subject::Command, &error, flags).to_string()
        };
        assert_eq!(text(ErrorCode::EXISTS, HintFlags::NONE), "already exists");
        assert!(text(ErrorCode::NOT_EMPTY, HintFlags::CHANGE).contains("-r"));
        assert!(text(ErrorCode::IS_DIRECTORY, HintFlags::GET).contains("-r"));
        assert!(!text(ErrorCode::IS_DIRECTORY, HintFlags::CHANGE).contains("-r"));
        assert_eq!(text(ErrorCode::BUSY, HintFlags::NONE), {
            ClientError::of_code(ErrorCode::BUSY).to_string()
        });
    }

    #[test]
    fn force_is_offered_for_a_local_file_that_it_would_replace() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("f");
        std::fs::write(&file, "").unwrap();
        let text = |path: &Path, given| {
            let error = ClientError::LocalExists(path.to_owned());
            let flags = HintFlags::GET.force_given(given);
            CommandFailure::new(Subject::Command, &error, flags).to_string()
        };
        assert!(text(&file, false).contains("--force"));
        assert!(!text(&file, true).contains("--force"));
        assert!(!text(base.path(), false).contains("--force"));
    }
}
