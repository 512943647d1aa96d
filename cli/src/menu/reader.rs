//! Reading of command lines, from a terminal with editing, or from a pipe.
//!
//! Reading blocks, so it has a thread of its own, which reads one line per request. The thread is not
//! joined at the end, because nothing can interrupt its read. While a line is edited, the thread
//! requests the names in a directory on the server for completion, with a short time limit.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::time::Duration;

use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, List};
use rustyline::error::ReadlineError;
use rustyline::history::{DefaultHistory, History};
use rustyline::{CompletionType, Editor};
use tokio::sync::{mpsc, oneshot};

use super::completion::{EntryNames, EntryNamesRequest, LineHelper};
use super::cwd::WorkingDir;
use crate::session::CliSession;

/// Result of the request for a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Typed {
    /// A line, without its end.
    Line(String),
    /// The user cancelled this line.
    Interrupted,
    /// There are no more lines.
    End,
    /// Lines can't be read, and why.
    Failed(String),
}

/// Purpose of a line, which decides how it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PromptKind {
    /// A command, which also goes into the history.
    Command,
    /// A path on the server, unquoted.
    Remote,
    /// A local path, unquoted.
    Local,
    /// Anything else.
    Answer,
}

/// Reads lines.
#[derive(Debug)]
pub(super) struct Reader {
    requests: blocking::Sender<LineRequest>,
    names: mpsc::Receiver<EntryNamesRequest>,
}

#[derive(Debug)]
struct LineRequest {
    prompt: String,
    kind: PromptKind,
    cwd: WorkingDir,
    answer: oneshot::Sender<Typed>,
}

impl Reader {
    /// Reads from a terminal, with the history in the file `history` if there is one.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn from_terminal(history: Option<PathBuf>) -> io::Result<Self> {
        Self::start(move |requests, names| edit_lines(&requests, names, history.as_deref()))
    }

    /// Reads standard input without editing.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn from_pipe() -> io::Result<Self> {
        Self::start(|requests, _| {
            for request in requests {
                // Fails only when the session is over.
                let _ = request.answer.send(plain_line(&mut io::stdin().lock()));
            }
        })
    }

    fn start(
        read: impl FnOnce(blocking::Receiver<LineRequest>, mpsc::Sender<EntryNamesRequest>)
        + Send
        + 'static,
    ) -> io::Result<Self> {
        let (requests, requested) = blocking::channel();
        let (ask_names, names) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || read(requested, ask_names))?;
        Ok(Self { requests, names })
    }

    /// Waits for a line, and serves completion meanwhile.
    pub(super) async fn line(
        &mut self,
        session: &CliSession,
        cwd: &WorkingDir,
        prompt: String,
        kind: PromptKind,
    ) -> Typed {
        let (answer, mut typed) = oneshot::channel();
        let request = LineRequest {
            prompt,
            kind,
            cwd: cwd.clone(),
            answer,
        };
        if self.requests.send(request).is_err() {
            return Typed::End;
        }
        loop {
            tokio::select! {
                typed = &mut typed => return typed.unwrap_or(Typed::End),
                Some(request) = self.names.recv() => {
                    let names = names_in(session, cwd, &request.directory);
                    let names = tokio::time::timeout(NAMES_TIMEOUT, names).await;
                    // The editor may have stopped waiting.
                    let _ = request.answer.send(names.ok().flatten().unwrap_or_default());
                }
            }
        }
    }
}

/// Lists the names in a directory on the server, up to [`NAMES_MAX`].
async fn names_in(
    session: &CliSession,
    cwd: &WorkingDir,
    directory: &RemotePath,
) -> Option<EntryNames> {
    // Only an open connection: a new one could ask the user something in the middle of a line.
    let client = session.open_client(cwd.server()).await?;
    let list = List {
        path: directory.clone(),
        after: None,
    };
    let mut listing = client.list(list).await.ok()?;
    let mut names = EntryNames::new();
    while let Ok(Some(entry)) = listing.next().await {
        let is_directory = entry.attributes.kind == EntryKind::Directory;
        names.push((entry.name.as_str().to_owned(), is_directory));
        if names.len() >= NAMES_MAX {
            break;
        }
    }
    Some(names)
}

/// Serves requests from a terminal.
fn edit_lines(
    requests: &blocking::Receiver<LineRequest>,
    names: mpsc::Sender<EntryNamesRequest>,
    history: Option<&Path>,
) {
    let mut editor = match editor(names) {
        Ok(editor) => editor,
        Err(error) => {
            if let Ok(request) = requests.recv() {
                let _ = request.answer.send(Typed::Failed(error.to_string()));
            }
            return;
        }
    };
    if let Some(file) = history
        && let Err(error) = editor.load_history(file)
    {
        tracing::debug!(%error, "no history");
    }
    for request in requests {
        if let Some(helper) = editor.helper_mut() {
            helper.prepare(request.cwd, request.kind);
        }
        let typed = match editor.readline(&request.prompt) {
            Ok(line) => Typed::Line(line),
            Err(ReadlineError::Interrupted) => Typed::Interrupted,
            Err(ReadlineError::Eof) => Typed::End,
            Err(error) => Typed::Failed(error.to_string()),
        };
        if let (Typed::Line(line), PromptKind::Command) = (&typed, request.kind) {
            remember(&mut editor, line, history);
        }
        let _ = request.answer.send(typed);
    }
}

type LineEditor = Editor<LineHelper, DefaultHistory>;

fn editor(names: mpsc::Sender<EntryNamesRequest>) -> Result<LineEditor, ReadlineError> {
    let config = rustyline::Config::builder()
        .completion_type(CompletionType::List)
        .max_history_size(HISTORY_LINES_MAX)?
        .history_ignore_space(true)
        .build();
    let history = DefaultHistory::with_config(&config);
    let mut editor = Editor::with_history(config, history)?;
    editor.set_helper(Some(LineHelper::new(names)));
    Ok(editor)
}

/// Adds a line to the history, and to its file at once, because the program may be killed.
fn remember(editor: &mut LineEditor, line: &str, file: Option<&Path>) {
    if line.trim().is_empty() || line.len() > HISTORY_LINE_BYTES_MAX {
        return;
    }
    let added = editor.add_history_entry(line);
    if let (Ok(true), Some(file)) = (added, file)
        && let Err(error) = editor.history_mut().append(file)
    {
        tracing::warn!(%error, "cannot write the history to {}", file.display());
    }
}

/// Reads a line from a pipe.
fn plain_line(input: &mut impl BufRead) -> Typed {
    let mut bytes = Vec::new();
    match input.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes) {
        Ok(0) => return Typed::End,
        Ok(_) => {}
        Err(error) => return Typed::Failed(error.to_string()),
    }
    if bytes.pop_if(|byte| *byte == b'\n').is_some() {
        bytes.pop_if(|byte| *byte == b'\r');
    } else if u64::try_from(bytes.len()).is_ok_and(|length| length >= LINE_BYTES_MAX) {
        return Typed::Failed(format!("a line is longer than {LINE_BYTES_MAX} bytes"));
    }
    match String::from_utf8(bytes) {
        Ok(line) => Typed::Line(line),
        Err(_) => Typed::Failed("a line isn't UTF-8".to_owned()),
    }
}

/// Time limit for the names of a directory. If it were longer, Tab would seem to hang.
pub(super) const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

/// Most names that are read for completion: more than a user can choose from.
const NAMES_MAX: usize = 10_000;

/// Most lines in the history: weeks of work, and fast to load.
const HISTORY_LINES_MAX: usize = 1000;

/// Longer lines were pasted rather than typed, and would fill the history.
const HISTORY_LINE_BYTES_MAX: usize = 4096;

/// Most bytes in a line: more than two quoted paths of full length.
const LINE_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_end_with_a_newline_or_the_input() {
        let mut input = "a b\n\n c\r\nd".as_bytes();
        for expected in ["a b", "", " c", "d"] {
            assert_eq!(plain_line(&mut input), Typed::Line(expected.to_owned()));
        }
        assert_eq!(plain_line(&mut input), Typed::End);
    }

    #[test]
    fn lines_that_are_not_utf8_or_too_long_are_refused() {
        let failed = |bytes: &[u8]| matches!(plain_line(&mut &*bytes), Typed::Failed(_));
        assert!(failed(b"a\xff\n"));
        let limit = usize::try_from(LINE_BYTES_MAX).unwrap();
        let mut line = vec![b'a'; limit - 1];
        line.push(b'\n');
        assert!(!failed(&line));
        line.insert(0, b'a');
        assert!(failed(&line));
        assert!(failed(&vec![b'a'; limit * 2]));
    }

    #[test]
    fn the_history_is_private_and_survives() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("history");
        let (names, _asked) = mpsc::channel(1);
        let mut first = editor(names.clone()).unwrap();
        for line in ["ls", " secret", "", "get 'a b'"] {
            remember(&mut first, line, Some(&file));
        }
        remember(&mut first, &"x".repeat(10_000), Some(&file));
        let mut second = editor(names).unwrap();
        second.load_history(&file).unwrap();
        let lines: Vec<_> = second.history().iter().cloned().collect();
        assert_eq!(lines, ["ls", "get 'a b'"]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }
}
