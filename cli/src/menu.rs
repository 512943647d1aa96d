//! The interactive client: commands from a person or a pipe, over one connection.
//!
//! A line becomes the same [`ClientCommand`](crate::args::ClientCommand) that the command line makes, with
//! the server and the current directory put before its paths, and runs through the same
//! [`commands::run`]. An error is told and the session goes on; an interrupt drops the command
//! that runs, which removes what it left unfinished, and nothing else. From a pipe, the first
//! failure ends the session instead, since what follows may rely on what failed.

mod completion;
mod cwd;
mod line;
mod numbers;
mod reader;
mod shell_split;
mod terminal;

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use quire_certs::{CertsError, StateDir};
use quire_shared::ErrorCode;
use quire_shared::RemotePath;
use quire_shared::protocol::{EntryKind, Failure, Stat};
use serde_json::json;

use crate::args::{EachArgs, MenuArgs};
use crate::commands::{self, CommandError};
use crate::exit::Exit;
use crate::hint::HintFlags;
use crate::operand::Remote;
use crate::output::shown;
use crate::session::CliSession;
use crate::session::blocking;
use cwd::WorkingDir;
use line::{LineCommand, ParsedLine};
use numbers::{Choice, Recursion};
use quire_client::ClientError;
use reader::{PromptKind, Reader, Typed};

/// Runs the interactive client, and tells the exit status: from a terminal that of connecting,
/// from a pipe that of the first failure.
pub async fn run(session: &CliSession, args: &MenuArgs) -> Exit {
    let started = tokio::select! {
        started = start(session, args) => started,
        Ok(()) = tokio::signal::ctrl_c() => return Exit::Interrupted,
    };
    let mut menu = match started {
        Ok(menu) => menu,
        Err(error) => return error.report(session),
    };
    if menu.is_interactive {
        let _restored = terminal::restored_when_dropped();
        return menu.talk().await;
    }
    tokio::select! {
        exit = menu.work_off() => exit,
        Ok(()) = tokio::signal::ctrl_c() => Exit::Interrupted,
    }
}

/// Connects, and sees to it that there is a directory to start in.
async fn start<'a>(session: &'a CliSession, args: &MenuArgs) -> Result<Menu<'a>, CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    // Whether the server lets this client in shows at the first request.
    client.ping().await?;
    let mut menu = Menu {
        session,
        cwd: WorkingDir::new(remote.server, RemotePath::ROOT),
        is_interactive: io::stdin().is_terminal() && io::stdout().is_terminal(),
        reader: None,
    };
    menu.change_directory(remote.path).await?;
    let reader = match menu.is_interactive {
        true => Reader::from_terminal(menu.history_file().await),
        false => Reader::from_pipe(),
    };
    menu.reader = Some(reader?);
    Ok(menu)
}

/// A session of commands.
#[derive(Debug)]
struct Menu<'a> {
    session: &'a CliSession,
    cwd: WorkingDir,
    is_interactive: bool,
    /// Nothing only while starting.
    reader: Option<Reader>,
}

/// What a line led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineResult {
    Went(Exit),
    Quit,
}

impl Menu<'_> {
    /// Talks with a person until they leave.
    async fn talk(&mut self) -> Exit {
        self.session.output.note(&format!(
            "Type a command (help lists them, Tab completes), or the number of an operation:\n{}",
            numbers::overview()
        ));
        loop {
            let line = match self
                .read(format!("{}> ", self.cwd), PromptKind::Command)
                .await
            {
                Typed::Line(line) => line,
                Typed::Interrupted => continue,
                Typed::End => return Exit::Done,
                Typed::Failed(reason) => return self.unreadable(&reason),
            };
            let step = match Choice::find(&line) {
                Some(Ok(choice)) => self.choose(choice).await,
                Some(Err(error)) => self.usage(&error),
                None => self.obey_unless_interrupted(&line).await,
            };
            if step == LineResult::Quit {
                return Exit::Done;
            }
        }
    }

    /// Works off the lines of a pipe, up to the first failure.
    async fn work_off(&mut self) -> Exit {
        loop {
            let line = match self.read(String::new(), PromptKind::Command).await {
                Typed::Line(line) => line,
                Typed::Interrupted => return Exit::Interrupted,
                Typed::End => return Exit::Done,
                Typed::Failed(reason) => return self.unreadable(&reason),
            };
            let (may_fail, line) = match line.trim_start().strip_prefix(MAY_FAIL) {
                Some(rest) => (true, rest),
                None => (false, line.as_str()),
            };
            match self.obey(line).await {
                LineResult::Quit => return Exit::Done,
                LineResult::Went(Exit::Done) => {}
                LineResult::Went(failure) if !may_fail => return failure,
                LineResult::Went(_) => {}
            }
        }
    }

    /// Does what a typed line says.
    async fn obey(&mut self, line: &str) -> LineResult {
        match shell_split::split(line) {
            Ok(words) if words.is_empty() => LineResult::Went(Exit::Done),
            Ok(words) => self.obey_words(&words).await,
            Err(error) => self.usage(&error.to_string()),
        }
    }

    async fn obey_unless_interrupted(&mut self, line: &str) -> LineResult {
        tokio::select! {
            step = self.obey(line) => return step,
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        self.interrupted()
    }

    async fn obey_words(&mut self, words: &[String]) -> LineResult {
        match ParsedLine::parse(words) {
            Ok(ParsedLine::Run(each, command)) => self.perform(&each, command).await,
            Ok(ParsedLine::Help(text)) => {
                let output = &self.session.output;
                let printed = output.result(|| text.clone(), || json!({ "help": text }));
                self.went(printed.map_err(CommandError::from))
            }
            Err(error) => self.usage(&error),
        }
    }

    async fn perform(&mut self, each: &EachArgs, command: LineCommand) -> LineResult {
        let output = &self.session.output;
        let result = match command {
            LineCommand::Same(mut command) => {
                return match self.cwd.qualify(&mut command) {
                    Ok(()) => {
                        let session = self.session.with(self.session.config.with_each(each));
                        LineResult::Went(commands::run(&session, &command).await)
                    }
                    Err(error) => self.usage(&error.to_string()),
                };
            }
            LineCommand::Cd { directory } => match self.cwd.remote_path(&directory) {
                Ok(path) => self.change_directory(path).await,
                Err(error) => return self.usage(&error.to_string()),
            },
            LineCommand::Lcd { directory } => self.change_local_directory(&directory).await,
            LineCommand::Pwd => {
                let path = self.cwd.remote();
                let json = || json!({ "path": commands::json_path(path) });
                output.result(|| path.to_string(), json).map_err(Into::into)
            }
            LineCommand::Lpwd => std::path::absolute(self.cwd.local_path(".".as_ref()))
                .and_then(|path| {
                    let json = || json!({ "local": path.to_string_lossy() });
                    output.result(|| shown(&path), json)
                })
                .map_err(Into::into),
            LineCommand::Menu => {
                output.message(&numbers::overview());
                Ok(())
            }
            LineCommand::Quit => return LineResult::Quit,
        };
        self.went(result)
    }

    async fn change_directory(&mut self, path: RemotePath) -> Result<(), CommandError> {
        let of = |error| CommandError::Of {
            name: path.to_string(),
            error: Box::new(error),
            flags: HintFlags::NONE,
        };
        match self.remote_kind(&path).await.map_err(of)? {
            EntryKind::Directory => {
                self.cwd.set_remote(path);
                Ok(())
            }
            EntryKind::File | EntryKind::Symlink | EntryKind::Other => {
                let failure = Failure::new(ErrorCode::NOT_DIRECTORY);
                Err(of(ClientError::Refused(failure)))
            }
        }
    }

    async fn change_local_directory(&mut self, typed: &str) -> Result<(), CommandError> {
        let path = self.cwd.local_path(typed.as_ref());
        let path = blocking(move || {
            let entered = path.canonicalize();
            let entered = entered.map_err(|e| ClientError::disk(&path, "enter", e))?;
            match entered.is_dir() {
                true => Ok(entered),
                false => Err(ClientError::Unsuitable {
                    path,
                    reason: "is not a directory",
                }),
            }
        });
        self.cwd.set_local(path.await?);
        Ok(())
    }

    /// What is under `path` on the server.
    async fn remote_kind(&self, path: &RemotePath) -> Result<EntryKind, ClientError> {
        let client = self.session.client(self.cwd.server()).await?;
        let stat = Stat { path: path.clone() };
        Ok(client.stat(stat).await?.kind)
    }

    /// Asks for what an operation needs, and does it.
    async fn choose(&mut self, choice: &Choice) -> LineResult {
        let mut answers = Vec::new();
        for question in choice.questions {
            match self.ask(question.text, question.kind).await {
                Some(answer) => answers.push(answer),
                None => return self.nothing_done(),
            }
        }
        let is_recursive = self.is_directory(choice.recursion, answers.first()).await;
        let mut flags = Vec::new();
        if is_recursive {
            flags.push("--recursive");
        }
        if choice.command == numbers::DELETE && !self.may_delete(&answers, is_recursive).await {
            return self.nothing_done();
        }
        let step = self
            .do_unless_interrupted(choice.words(&flags, &answers))
            .await;
        if step != LineResult::Went(Exit::Conflict) || !choice.can_replace {
            return step;
        }
        if !self.agrees("Try again, and replace what exists").await {
            return self.nothing_done();
        }
        flags.push("--force");
        self.do_unless_interrupted(choice.words(&flags, &answers))
            .await
    }

    async fn do_unless_interrupted(&mut self, words: Vec<String>) -> LineResult {
        tokio::select! {
            step = self.obey_words(&words) => return step,
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        self.interrupted()
    }

    async fn may_delete(&mut self, answers: &[String], is_directory: bool) -> bool {
        let Some(answer) = answers.first() else {
            return false;
        };
        let Ok(path) = self.cwd.remote_path(answer) else {
            // What is wrong will be told by the command, which deletes nothing.
            return true;
        };
        self.agrees(&match is_directory {
            true => format!("Delete {path} and all that is below it"),
            false => format!("Delete {path}"),
        })
        .await
    }

    /// Whether an operation concerns a whole directory.
    async fn is_directory(&self, recursion: Recursion, operand: Option<&String>) -> bool {
        match (recursion, operand) {
            (Recursion::Never, _) | (_, None) => false,
            (Recursion::Local, Some(typed)) => {
                let path = self.cwd.local_path(typed.as_ref());
                blocking(move || path.is_dir()).await
            }
            (Recursion::Remote, Some(typed)) => match self.cwd.remote_path(typed) {
                // What is wrong will be told by the command.
                Ok(path) => self.remote_kind(&path).await.ok() == Some(EntryKind::Directory),
                Err(_) => false,
            },
        }
    }

    /// Asks one question; nothing if there is no answer.
    async fn ask(&mut self, question: &str, kind: PromptKind) -> Option<String> {
        match self.read(format!("{question}? "), kind).await {
            Typed::Line(answer) if !answer.trim().is_empty() => Some(answer.trim().to_owned()),
            Typed::Line(_) | Typed::Interrupted | Typed::End | Typed::Failed(_) => None,
        }
    }

    async fn agrees(&mut self, question: &str) -> bool {
        let answer = self
            .ask(&format!("{question} [y/N]"), PromptKind::Answer)
            .await;
        answer.is_some_and(|answer| matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    async fn read(&mut self, prompt: String, kind: PromptKind) -> Typed {
        match &mut self.reader {
            Some(reader) => reader.line(self.session, &self.cwd, prompt, kind).await,
            None => Typed::End,
        }
    }

    /// Where the history is kept; without such a cwd there is none.
    async fn history_file(&self) -> Option<PathBuf> {
        let state_dir = self.session.config.state_dir.clone();
        let file = blocking(move || {
            let dir = StateDir::open(state_dir.as_deref())?;
            Ok::<_, CertsError>(dir.file(HISTORY_FILE))
        });
        match file.await {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(%error, "no history");
                None
            }
        }
    }

    /// Sees to it that results are out, and tells what went wrong.
    fn went(&self, result: Result<(), CommandError>) -> LineResult {
        let result = result.and_then(|()| Ok(self.session.output.flush()?));
        LineResult::Went(match result {
            Ok(()) => Exit::Done,
            Err(error) => error.report(self.session),
        })
    }

    fn usage(&self, error: &str) -> LineResult {
        self.session.output.message(&format!("quire: {error}"));
        LineResult::Went(Exit::Usage)
    }

    fn interrupted(&self) -> LineResult {
        self.session.output.message("quire: interrupted");
        LineResult::Went(Exit::Interrupted)
    }

    fn nothing_done(&self) -> LineResult {
        self.session.output.note("Nothing was done.");
        LineResult::Went(Exit::Done)
    }

    fn unreadable(&self, reason: &str) -> Exit {
        let message = format!("quire: cannot read commands: {reason}");
        self.session.output.message(&message);
        Exit::Failed
    }
}

/// In the state directory, since what was typed is nobody else's business.
const HISTORY_FILE: &str = "history";

/// Before a command in a pipe whose failure doesn't end the session, as with `sftp -b`.
const MAY_FAIL: &str = "- ";
