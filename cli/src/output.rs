//! Output of the program: results to standard output, messages to standard error.
//!
//! No other module prints. So a progress bar can be suspended for a message, a closed pipe is
//! handled in one place, and the first failure that is printed decides the exit status. Callers
//! pass text whose control characters are escaped; JSON has exact names.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use quire_shared::EscapedPath;

use crate::event::Event;
use crate::exit::Exit;
use crate::failure::CommandFailure;

/// Destination and form of results and messages.
#[derive(Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    is_stdout_terminal: bool,
    is_stderr_terminal: bool,
    results: Mutex<BufWriter<Stdout>>,
    /// Why events can't be printed any more.
    unprinted: Mutex<Option<io::Error>>,
    /// The exit status of the first failure.
    failure: Mutex<Option<Exit>>,
    /// Whether `--force` would have avoided a failure.
    would_force_help: AtomicBool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// Prints results as JSON if `json`, and no messages but errors if `quiet`.
    pub fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            is_stdout_terminal: io::stdout().is_terminal(),
            is_stderr_terminal: io::stderr().is_terminal(),
            results: Mutex::new(BufWriter::new(io::stdout())),
            unprinted: Mutex::new(None),
            failure: Mutex::new(None),
            would_force_help: AtomicBool::new(false),
            bar: Mutex::new(None),
        }
    }

    /// Whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person reads the results.
    pub(crate) fn is_for_people(&self) -> bool {
        self.is_stdout_terminal && !self.json
    }

    /// Whether a person sees the messages and wants them.
    pub(crate) fn shows_progress(&self) -> bool {
        self.is_stderr_terminal && !self.quiet && !self.json
    }

    /// Prints a result: a line of text, or an object in JSON.
    ///
    /// # Errors
    /// If standard output can't be written to, for example because its pipe is closed. A command
    /// that only shows something ends then.
    pub(crate) fn result(
        &self,
        text: impl FnOnce() -> String,
        event: impl FnOnce() -> Event,
    ) -> io::Result<()> {
        let line = match self.json {
            true => event().to_string(),
            false => text(),
        };
        self.without_bar(|| {
            let mut results = lock(&self.results);
            writeln!(results, "{line}")?;
            match self.is_stdout_terminal {
                true => results.flush(),
                false => Ok(()),
            }
        })
    }

    /// Prints the outcome of a change or transfer, for which there is only JSON, at once. If that
    /// fails, the command goes on, and [`end`](Self::end) says so.
    pub fn event(&self, event: impl FnOnce() -> Event) {
        if self.json {
            self.outcome(String::new, event);
        }
    }

    /// As [`event`](Self::event), with a line of text as well.
    pub(crate) fn outcome(&self, text: impl FnOnce() -> String, event: impl FnOnce() -> Event) {
        if lock(&self.unprinted).is_some() {
            return;
        }
        let printed = self.result(text, event);
        if let Err(error) = printed.and_then(|()| lock(&self.results).flush()) {
            *lock(&self.unprinted) = Some(error);
        }
    }

    /// Flushes the results, and returns the exit status: that of the first failure since the last
    /// call. A closed pipe is none, because its reader wants no more, as `head` does.
    pub fn end(&self) -> Exit {
        let flushed = lock(&self.results).flush();
        let unprinted = lock(&self.unprinted).take();
        if let Some(error) = unprinted.or_else(|| flushed.err()) {
            self.unwritable(&error);
        }
        lock(&self.failure).take().unwrap_or(Exit::Done)
    }

    /// Reports that results can't be printed, unless the pipe was closed.
    pub(crate) fn unwritable(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::BrokenPipe {
            let text = format!("cannot write to standard output: {error}");
            self.fail(&CommandFailure::of_command(Exit::Failed, text));
        }
    }

    /// Prints a message that is not a result, unless --quiet was given.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.message(text);
        }
    }

    /// Notes the exit status of a failure that is printed later.
    pub(crate) fn note_failure(&self, exit: Exit) {
        lock(&self.failure).get_or_insert(exit);
    }

    /// Prints a failure as text, and in JSON as an object as well.
    pub fn fail(&self, failure: &CommandFailure) {
        self.note_failure(failure.exit);
        if failure.would_force_help() {
            self.would_force_help.store(true, Ordering::Relaxed);
        }
        self.event(|| failure.event());
        self.message(&format!("quire: {failure}"));
    }

    /// Whether a failure was printed that `--force` would have avoided.
    pub(crate) fn would_force_help(&self) -> bool {
        self.would_force_help.load(Ordering::Relaxed)
    }

    /// Prints a line to standard error.
    pub fn message(&self, text: &str) {
        // An error of writing to standard error can't be reported anywhere.
        let _ = self.without_bar(|| writeln!(io::stderr(), "{text}"));
    }

    /// Writes a record of the log to standard error.
    ///
    /// # Errors
    /// If that can't be written to.
    pub fn log(&self, record: &[u8]) -> io::Result<()> {
        self.without_bar(|| io::stderr().write_all(record))
    }

    /// Shows `bar` until the returned guard is dropped.
    pub(crate) fn show_bar(&self, bar: ProgressBar) -> ShownBar<'_> {
        *lock(&self.bar) = Some(bar);
        ShownBar(self)
    }

    fn without_bar<T>(&self, print: impl FnOnce() -> T) -> T {
        let bar = lock(&self.bar);
        match &*bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// Removes the bar on drop.
#[derive(Debug)]
pub(crate) struct ShownBar<'a>(&'a Output);

impl Drop for ShownBar<'_> {
    fn drop(&mut self) {
        if let Some(bar) = lock(&self.0.bar).take() {
            bar.finish_and_clear();
        }
    }
}

/// A local path with control characters and backslashes escaped.
pub(crate) fn shown(path: &Path) -> String {
    EscapedPath(path).to_string()
}

/// Locks `mutex`; its content stays valid after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
