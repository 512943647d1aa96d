//! The interactive client: commands from a terminal or a pipe, over one connection.
//!
//! A line is parsed into the same [`ClientCommand`](crate::args::ClientCommand) as on the command
//! line, and [`commands::run`] runs it. Server and current directory are added to its paths. An error is printed and the session goes on. An interrupt drops only the
//! running command, which removes its unfinished files. From a pipe, the first failure ends the
//! session, since later commands may rely on the one that failed.

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
use quire_shared::protocol::{EntryKind, Stat};

use crate::args::{EachArgs, MenuArgs};
use crate::commands::{self, CommandError};
use crate::event::{Event, EventKind};
use crate::exit::Exit;
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::Remote;
use crate::output::shown;
use crate::session::CliSession;
use crate::session::blocking;
use crate::standard_input;
use cwd::WorkingDir;
use line::{LineCommand, ParsedLine};
use numbers::Choice;
use quire_client::ClientError;
use reader::{PromptKind, Reader, Typed};

/// Runs the interactive client. The exit status is that of connecting on a terminal, and that of the
/// first failure from a pipe.
pub async fn run(session: &CliSession, args: &MenuArgs) -> Exit {
    let started = tokio::select! {
        started = start(session, args) => started,
        Ok(()) = tokio::signal::ctrl_c() => return Exit::Interrupted,
    };
    let mut menu = match started {
        Ok(menu) => menu,
        Err(error) => {
            error.report(session);
            return session.output.end();
        }
    };
    if menu.is_interactive {
        let _restored = terminal::restored_when_dropped();
        return menu.run_terminal().await;
    }
    tokio::select! {
        exit = menu.run_pipe() => exit,
        Ok(()) = tokio::signal::ctrl_c() => Exit::Interrupted,
    }
}

/// Connects, and checks the directory to start in.
async fn start<'a>(session: &'a CliSession, args: &MenuArgs) -> Result<Menu<'a>, CommandError> {
    let remote = Remote::parse(&args.operand)?;
    standard_input::require_open()?;
    let client = session.client(&remote.server).await?;
    // Whether the server grants access shows at the first request.
    client.ping().await?;
    let mut menu = Menu {
        session,
        cwd: WorkingDir::new(remote.server, RemotePath::ROOT),
        is_interactive: io::stdin().is_terminal() && io::stdout().is_terminal(),
        would_force_help: false,
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
    /// Whether the last command would have succeeded with `--force`.
    would_force_help: bool,
    /// Nothing only while starting.
    reader: Option<Reader>,
}

/// Result of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineResult {
    Went(Exit),
    Quit,
}

impl Menu<'_> {
    /// Runs commands from a terminal until the user quits.
    async fn run_terminal(&mut self) -> Exit {
        self.session.output.note(&format!(
            "Type a command (`help` lists them, Tab completes), or the number of an operation:\n{}",
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
                None => self.run_line_unless_interrupted(&line).await,
            };
            if step == LineResult::Quit {
                return Exit::Done;
            }
        }
    }

    /// Runs the lines of a pipe, up to the first failure.
    async fn run_pipe(&mut self) -> Exit {
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
            match self.run_line(line).await {
                LineResult::Quit => return Exit::Done,
                LineResult::Went(Exit::Done) => {}
                LineResult::Went(failure) if !may_fail => return failure,
                LineResult::Went(_) => {}
            }
        }
    }

    /// Runs a typed line.
    async fn run_line(&mut self, line: &str) -> LineResult {
        match shell_split::split(line) {
            Ok(words) if words.is_empty() => LineResult::Went(Exit::Done),
            Ok(words) => self.run_words(&words).await,
            Err(error) => self.usage(&error.to_string()),
        }
    }

    async fn run_line_unless_interrupted(&mut self, line: &str) -> LineResult {
        tokio::select! {
            step = self.run_line(line) => return step,
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        self.interrupted()
    }

    async fn run_words(&mut self, words: &[String]) -> LineResult {
        match ParsedLine::parse(words) {
            Ok(ParsedLine::Run(each, command)) => self.perform(&each, command).await,
            Ok(ParsedLine::Help(text)) => {
                let output = &self.session.output;
                let printed = output.result(
                    || text.clone(),
                    || Event::new(EventKind::Help).with("text", text.as_str()),
                );
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
                        let exit = commands::run(&session, &command).await;
                        self.would_force_help = session.output.would_force_help();
                        LineResult::Went(exit)
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
                let event = || Event::new(EventKind::Directory).remote("path", path);
                output
                    .result(|| path.to_string(), event)
                    .map_err(Into::into)
            }
            LineCommand::Lpwd => std::path::absolute(self.cwd.local_path(".".as_ref()))
                .and_then(|path| {
                    let event = || Event::new(EventKind::LocalDirectory).local("local", &path);
                    output.result(|| shown(&path), event)
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
        let error = match self.remote_kind(&path).await {
            Ok(EntryKind::Directory) => {
                self.cwd.set_remote(path);
                return Ok(());
            }
            Ok(EntryKind::File | EntryKind::Symlink | EntryKind::Other) => {
                ClientError::of_code(ErrorCode::NOT_DIRECTORY)
            }
            Err(error) => error,
        };
        let subject = Subject::Item((&path).into());
        let failure = CommandFailure::new(subject, &error, HintFlags::NONE);
        let failure = match self.session.open_client(self.cwd.server()).await {
            Some(client) => failure.explain(&client).await,
            None => failure,
        };
        Err(CommandError::Failed(Box::new(failure)))
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

    /// The kind of `path` on the server.
    async fn remote_kind(&self, path: &RemotePath) -> Result<EntryKind, ClientError> {
        let client = self.session.client(self.cwd.server()).await?;
        let stat = Stat::of(path.clone());
        Ok(client.stat(stat).await?.kind)
    }

    /// Asks for the operands of an operation, and runs it.
    async fn choose(&mut self, choice: &Choice) -> LineResult {
        let mut answers = Vec::new();
        for (text, kind) in choice.questions {
            match self.ask(text, *kind).await {
                Some(answer) => answers.push(as_name(answer, *kind)),
                None => return self.nothing_done(),
            }
        }
        let is_recursive = self.is_directory(choice.recursive, answers.first()).await;
        let mut flags = Vec::new();
        if is_recursive {
            flags.push("--recursive");
        }
        if choice.command == "delete" && !self.may_delete(&answers, is_recursive).await {
            return self.nothing_done();
        }
        let step = self
            .run_words_unless_interrupted(choice.words(&flags, &answers))
            .await;
        if step != LineResult::Went(Exit::Conflict) || !self.would_force_help {
            return step;
        }
        if !self.agrees("It exists already. Replace it").await {
            return self.nothing_done();
        }
        flags.push("--force");
        self.run_words_unless_interrupted(choice.words(&flags, &answers))
            .await
    }

    async fn run_words_unless_interrupted(&mut self, words: Vec<String>) -> LineResult {
        tokio::select! {
            step = self.run_words(&words) => return step,
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        self.interrupted()
    }

    async fn may_delete(&mut self, answers: &[String], is_directory: bool) -> bool {
        let Some(answer) = answers.first() else {
            return false;
        };
        let Ok(path) = self.cwd.remote_path(answer) else {
            // The command will report the error and delete nothing.
            return true;
        };
        self.agrees(&match is_directory {
            true => format!("Delete {path} and everything below it"),
            false => format!("Delete {path}"),
        })
        .await
    }

    /// Whether the operand `typed`, which is on the server or local, is a directory.
    async fn is_directory(&self, operand: Option<PromptKind>, typed: Option<&String>) -> bool {
        let Some(typed) = typed else { return false };
        match operand {
            Some(PromptKind::Local) => {
                let path = self.cwd.local_path(typed.as_ref());
                blocking(move || path.is_dir()).await
            }
            Some(PromptKind::Remote) => match self.cwd.remote_path(typed) {
                Ok(path) => self.remote_kind(&path).await.ok() == Some(EntryKind::Directory),
                // The command will report the error.
                Err(_) => false,
            },
            Some(PromptKind::Command | PromptKind::Answer) | None => false,
        }
    }

    /// Asks one question; `None` if there is no answer.
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

    /// The file of the history, if there is a state directory.
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

    /// Flushes the results, and prints the error if there is one.
    fn went(&self, result: Result<(), CommandError>) -> LineResult {
        if let Err(error) = result {
            error.report(self.session);
        }
        LineResult::Went(self.session.output.end())
    }

    fn usage(&self, error: &str) -> LineResult {
        LineResult::Went(self.failed(Exit::Usage, error))
    }

    fn interrupted(&self) -> LineResult {
        LineResult::Went(self.failed(Exit::Interrupted, "interrupted"))
    }

    /// Prints a failure that no command has printed.
    fn failed(&self, exit: Exit, error: &str) -> Exit {
        let output = &self.session.output;
        output.fail(&CommandFailure::of_command(exit, error.to_owned()));
        output.end()
    }

    fn nothing_done(&self) -> LineResult {
        self.session.output.note("Nothing was changed.");
        LineResult::Went(Exit::Done)
    }

    fn unreadable(&self, reason: &str) -> Exit {
        self.failed(Exit::Failed, &format!("cannot read commands: {reason}"))
    }
}

/// The name that an answer stands for, which may be typed as it was printed. On Windows a backslash
/// in a local path divides it.
fn as_name(answer: String, kind: PromptKind) -> String {
    match kind {
        PromptKind::Local if cfg!(windows) => answer,
        PromptKind::Remote | PromptKind::Local => shell_split::unescape(&answer),
        PromptKind::Command | PromptKind::Answer => answer,
    }
}

/// The history in the state directory, which other users can't read.
const HISTORY_FILE: &str = "history";

/// Prefix of a command in a pipe whose failure doesn't end the session, as in `sftp -b`.
const MAY_FAIL: &str = "- ";
