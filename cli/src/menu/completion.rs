//! Tab completion of commands, flags, names on the server and local names.
//!
//! Names on the server are requested through a channel, because this runs in the thread that edits
//! the line. They are cached until the next line, so that only the first Tab in a directory asks.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::sync::mpsc as blocking;

use quire_shared::{Escaped, RemotePath};
use rustyline::Context;
use rustyline::completion::{Completer, Pair};
use tokio::sync::mpsc;

use super::cwd::WorkingDir;
use super::line;
use super::reader::{NAMES_TIMEOUT, PromptKind};
use super::shell_split::{self, Word};

/// Names, and whether each is that of a directory.
pub(super) type EntryNames = Vec<(String, bool)>;

/// Asks for the names in a directory on the server.
#[derive(Debug)]
pub(super) struct EntryNamesRequest {
    pub(super) directory: RemotePath,
    pub(super) answer: blocking::Sender<EntryNames>,
}

/// What the line editor asks while a line is typed.
#[derive(Debug)]
pub(super) struct LineHelper {
    commands: clap::Command,
    names: mpsc::Sender<EntryNamesRequest>,
    kind: PromptKind,
    cwd: Option<WorkingDir>,
    /// The directory that was asked for last, and what is in it.
    known: RefCell<Option<(RemotePath, EntryNames)>>,
}

impl LineHelper {
    pub(super) fn new(names: mpsc::Sender<EntryNamesRequest>) -> Self {
        let mut commands = line::definition();
        // Adds `help`, and to each command the flags of all.
        commands.build();
        Self {
            commands,
            names,
            kind: PromptKind::Answer,
            cwd: None,
            known: RefCell::default(),
        }
    }

    /// Prepares for a new line. Drops the cached names, which commands may have changed.
    pub(super) fn prepare(&mut self, cwd: WorkingDir, kind: PromptKind) {
        self.cwd = Some(cwd);
        self.kind = kind;
        self.known.take();
    }

    /// Finds the candidates for `typed`, the text before the cursor, and the byte where the
    /// completed part begins.
    fn candidates(&self, typed: &str) -> (usize, Vec<Completion>) {
        let unquoted = |kind| {
            let candidates = self.of_kind(kind, &shell_split::unescape(typed));
            (0, candidates.into_iter().map(Completion::escaped).collect())
        };
        match self.kind {
            PromptKind::Command => match shell_split::split_typed(typed) {
                Some((finished, word)) => {
                    let candidates = self.in_command(&finished, &word);
                    let quoted = candidates.into_iter().map(Completion::quoted);
                    (word.start, quoted.collect())
                }
                None => (typed.len(), Vec::new()),
            },
            PromptKind::Remote => unquoted(OperandKind::Remote),
            PromptKind::Local => unquoted(OperandKind::Local),
            PromptKind::Answer => unquoted(OperandKind::Nothing),
        }
    }

    fn in_command(&self, finished: &[String], word: &Word) -> Vec<Completion> {
        let text = word.text.as_str();
        let Some((command, operands)) = finished.split_first() else {
            return self.of_kind(OperandKind::Command, text);
        };
        let Some(command) = self.commands.find_subcommand(command) else {
            return Vec::new();
        };
        if text.starts_with('-') {
            return flags(command, text);
        }
        let before = operands
            .iter()
            .filter(|operand| !operand.starts_with('-'))
            .count();
        self.of_kind(OperandKind::of_operand(command.get_name(), before), text)
    }

    fn of_kind(&self, kind: OperandKind, text: &str) -> Vec<Completion> {
        match kind {
            OperandKind::Nothing => Vec::new(),
            OperandKind::Command => self.command_names(text),
            OperandKind::Local => self.local_names(text),
            OperandKind::LocalDirectory => only_directories(self.local_names(text)),
            OperandKind::Remote => self.remote_names(text),
            OperandKind::RemoteDirectory => only_directories(self.remote_names(text)),
            OperandKind::Either => {
                let mut candidates = self.remote_names(text);
                candidates.extend(self.local_names(text));
                candidates.sort_unstable();
                candidates.dedup();
                candidates
            }
        }
    }

    fn command_names(&self, text: &str) -> Vec<Completion> {
        let names = self.commands.get_subcommands().flat_map(|command| {
            std::iter::once(command.get_name()).chain(command.get_visible_aliases())
        });
        names
            .filter(|name| name.starts_with(text))
            .map(Completion::word)
            .collect()
    }

    fn local_names(&self, text: &str) -> Vec<Completion> {
        let Some(cwd) = &self.cwd else {
            return Vec::new();
        };
        let (directory, _) = divide(text);
        let mut path = cwd.local_path(OsStr::new(directory));
        if path.as_os_str().is_empty() {
            path = ".".into();
        }
        // A directory that can't be read has no candidates.
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let names: EntryNames = entries
            .filter_map(|entry| {
                // Unlike the kind of the entry, this follows symbolic links.
                let is_directory = entry.path().is_dir();
                Some((entry.file_name().into_string().ok()?, is_directory))
            })
            .collect();
        matching(text, &names)
    }

    fn remote_names(&self, text: &str) -> Vec<Completion> {
        let (directory, _) = divide(text);
        let path = self.cwd.as_ref().map(|cwd| cwd.remote_path(directory));
        let Some(Ok(path)) = path else {
            return Vec::new();
        };
        let mut known = self.known.borrow_mut();
        match &*known {
            Some((of, names)) if *of == path => matching(text, names),
            _ => {
                let names = self.ask(path.clone()).unwrap_or_default();
                let (_, names) = known.insert((path, names));
                matching(text, names)
            }
        }
    }

    fn ask(&self, directory: RemotePath) -> Option<EntryNames> {
        let (answer, answered) = blocking::channel();
        let request = EntryNamesRequest { directory, answer };
        self.names.try_send(request).ok()?;
        answered.recv_timeout(NAMES_TIMEOUT).ok()
    }
}

impl Completer for LineHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = line.get(..position).unwrap_or(line);
        let (start, mut candidates) = self.candidates(typed);
        candidates.sort_unstable();
        let pairs = candidates.into_iter().map(|candidate| Pair {
            display: candidate.shown,
            replacement: candidate.text,
        });
        Ok((start, pairs.collect()))
    }
}

impl rustyline::hint::Hinter for LineHelper {
    type Hint = String;
}

impl rustyline::highlight::Highlighter for LineHelper {}

impl rustyline::validate::Validator for LineHelper {}

impl rustyline::Helper for LineHelper {}

/// A candidate at the cursor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Completion {
    /// The text in a list of candidates.
    shown: String,
    text: String,
    /// The end that is added: a slash, a space, or nothing.
    end: &'static str,
}

impl Completion {
    /// A command or flag, with a space for the next word.
    fn word(text: &str) -> Self {
        Self {
            shown: text.to_owned(),
            text: text.to_owned(),
            end: " ",
        }
    }

    /// Escapes the candidate for an answer, which has no quotes.
    fn escaped(self) -> Self {
        let text = Escaped(&self.text).to_string();
        Self { text, ..self }
    }

    /// Quotes the candidate for a command line.
    fn quoted(self) -> Self {
        let mut text = shell_split::quote(&self.text);
        if self.end == " " {
            text.push_str(self.end);
        }
        Self { text, ..self }
    }
}

/// Kind of an operand, which decides how it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OperandKind {
    Nothing,
    Command,
    Local,
    LocalDirectory,
    Remote,
    RemoteDirectory,
    /// A path on the server or a local one: only the next operand would decide.
    Either,
}

impl OperandKind {
    /// The kind of the operand of `command` that has `before` others before it.
    fn of_operand(command: &str, before: usize) -> Self {
        match (command, before) {
            ("get", 0) => Self::Remote,
            ("put", 0) => Self::Local,
            ("get" | "put", _) => Self::Either,
            ("cd", 0) => Self::RemoteDirectory,
            ("lcd", 0) => Self::LocalDirectory,
            ("list" | "stat", 0) | ("rename" | "copy", 0 | 1) => Self::Remote,
            ("chmod", 0) => Self::Nothing,
            ("delete" | "mkdir" | "chmod" | "cat" | "hash", _) => Self::Remote,
            (HELP, 0) => Self::Command,
            _ => Self::Nothing,
        }
    }
}

fn flags(command: &clap::Command, text: &str) -> Vec<Completion> {
    command
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .map(|long| format!("--{long}"))
        .filter(|flag| flag.starts_with(text))
        .map(|flag| Completion::word(&flag))
        .collect()
}

/// The names that begin with `text`.
fn matching(text: &str, names: &EntryNames) -> Vec<Completion> {
    let (directory, prefix) = divide(text);
    names
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        // Hidden names are offered only after a dot, as in shells.
        .filter(|(name, _)| !prefix.is_empty() || !name.starts_with('.'))
        .map(|(name, is_directory)| {
            let end = if *is_directory { "/" } else { "" };
            Completion {
                shown: format!("{}{end}", Escaped(name)),
                text: format!("{directory}{name}{end}"),
                end,
            }
        })
        .collect()
}

fn only_directories(mut candidates: Vec<Completion>) -> Vec<Completion> {
    candidates.retain(|candidate| candidate.end == "/");
    candidates
}

/// Splits a path into the directory, with its slash, and the beginning of a name.
fn divide(text: &str) -> (&str, &str) {
    text.split_at(text.rfind('/').map_or(0, |slash| slash + 1))
}

/// The command that clap adds.
const HELP: &str = "help";

#[cfg(test)]
mod tests {
    use super::*;
    use quire_client::ServerId;

    /// A helper whose server knows one directory, and a thread that answers `asks` requests.
    fn helper(kind: PromptKind, asks: usize) -> (LineHelper, std::thread::JoinHandle<()>) {
        let (names, mut asked) = mpsc::channel::<EntryNamesRequest>(1);
        let server = std::thread::spawn(move || {
            for _ in 0..asks {
                let request = asked.blocking_recv().unwrap();
                let names = match request.directory.to_string().as_str() {
                    "/dir" => [("a b", false), ("ab", false), ("sub", true), (".x", false)]
                        .map(|(name, is_directory)| (name.to_owned(), is_directory))
                        .into(),
                    "/dir/sub" => vec![("x\u{1b}".to_owned(), false), ("y".to_owned(), false)],
                    _ => EntryNames::new(),
                };
                request.answer.send(names).unwrap();
            }
            asked.close();
        });
        let mut helper = LineHelper::new(names);
        let cwd = WorkingDir::new(
            ServerId::new("h", 1).unwrap(),
            RemotePath::parse("dir").unwrap(),
        );
        helper.prepare(cwd, kind);
        (helper, server)
    }

    fn texts(helper: &LineHelper, typed: &str) -> Vec<String> {
        let (_, candidates) = helper.candidates(typed);
        candidates
            .into_iter()
            .map(|candidate| candidate.text)
            .collect()
    }

    #[test]
    fn commands_and_flags_are_completed() {
        let (helper, server) = helper(PromptKind::Command, 0);
        server.join().unwrap();
        assert_eq!(texts(&helper, "ren"), ["rename "]);
        assert_eq!(texts(&helper, "  ren"), ["rename "]);
        assert_eq!(texts(&helper, "help ren"), ["rename "]);
        assert_eq!(texts(&helper, "get --rec"), ["--recursive "]);
        assert_eq!(texts(&helper, "nonsense x"), [""; 0]);
        assert_eq!(texts(&helper, "# ren"), [""; 0]);
        for command in ["get", "ls", "mv", "cd", "lcd", "quit", "exit", "help"] {
            let all = texts(&helper, "");
            assert!(all.contains(&format!("{command} ")), "{command}: {all:?}");
        }
    }

    #[test]
    fn names_on_the_server_are_asked_for_once_and_quoted() {
        let (helper, server) = helper(PromptKind::Command, 2);
        assert_eq!(texts(&helper, "stat a"), ["a\\ b", "ab"]);
        assert_eq!(texts(&helper, "stat 'a "), ["a\\ b"]);
        assert_eq!(texts(&helper, "cd "), ["sub/"]);
        assert_eq!(texts(&helper, "cat -- .x"), [".x"]);
        assert_eq!(texts(&helper, "cat sub/"), [r"sub/x\u001b", "sub/y"]);
        assert_eq!(helper.candidates("rm ab 'su").0, 6);
        server.join().unwrap();
        // Without a receiver, the request fails at once.
        assert_eq!(texts(&helper, "stat /"), [""; 0]);
    }

    #[test]
    fn answers_are_completed_without_quoting() {
        let (helper, server) = helper(PromptKind::Remote, 1);
        assert_eq!(texts(&helper, "a "), ["a b"]);
        server.join().unwrap();
        let (helper, server) = helper_of_local();
        server.join().unwrap();
        assert_eq!(texts(&helper, "one f"), [""; 0]);
    }

    fn helper_of_local() -> (LineHelper, std::thread::JoinHandle<()>) {
        helper(PromptKind::Local, 0)
    }

    #[test]
    fn local_names_are_those_of_the_local_directory() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("one dir")).unwrap();
        fs::write(base.path().join("one file"), "").unwrap();
        let (mut helper, server) = helper_of_local();
        server.join().unwrap();
        let mut cwd = helper.cwd.clone().unwrap();
        cwd.set_local(base.path().to_owned());
        helper.prepare(cwd, PromptKind::Local);
        let mut found = texts(&helper, "one");
        found.sort_unstable();
        assert_eq!(found, ["one dir/", "one file"]);
        helper.kind = PromptKind::Command;
        assert_eq!(texts(&helper, "lcd o"), ["one\\ dir/"]);
        assert_eq!(texts(&helper, "put -r one\\ f"), ["one\\ file"]);
    }
}
