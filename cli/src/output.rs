//! Output of the program: results to standard output, messages to standard error.
//!
//! No other module prints. So a progress bar can be suspended for a message, and a closed pipe is
//! handled in one place. Callers pass text whose control characters are escaped; JSON has exact names.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use quire_shared::EscapedPath;
use serde_json::Value;

use quire_client::ClientError;

use crate::hint::{HintFlags, with_hint};

/// Destination and form of results and messages.
#[derive(Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    is_stdout_terminal: bool,
    is_stderr_terminal: bool,
    results: Mutex<BufWriter<Stdout>>,
    bar: Mutex<Option<ProgressBar>>,
}

impl Output {
    /// Prints results as JSON if `json`, and no messages but errors if `quiet`.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self {
            json,
            quiet,
            is_stdout_terminal: io::stdout().is_terminal(),
            is_stderr_terminal: io::stderr().is_terminal(),
            results: Mutex::new(BufWriter::new(io::stdout())),
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
    /// If standard output can't be written to, for example because its pipe is closed.
    pub(crate) fn result(
        &self,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> Value,
    ) -> io::Result<()> {
        let line = match self.json {
            true => json().to_string(),
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

    /// Prints a result that has no form but JSON.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn json_only(&self, json: impl FnOnce() -> Value) -> io::Result<()> {
        match self.json {
            true => self.result(String::new, json),
            false => Ok(()),
        }
    }

    /// Flushes the results.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        lock(&self.results).flush()
    }

    /// Prints a message that is not a result, unless --quiet was given.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.message(text);
        }
    }

    /// Prints an error about `name`, which is escaped and may be empty, with a hint at the flag of the
    /// command that helps.
    pub(crate) fn error(&self, name: &str, error: &ClientError, flags: HintFlags) {
        // These errors contain the name already, or are about the connection.
        let names_itself = error.is_connection_lost()
            || matches!(
                error,
                ClientError::Disk { .. }
                    | ClientError::LocalExists(_)
                    | ClientError::LocalDirectory(_)
                    | ClientError::LocalName { .. }
                    | ClientError::Unsuitable { .. }
            );
        let text = with_hint(error, flags);
        if name.is_empty() || names_itself {
            self.message(&format!("quire: {text}"));
        } else {
            self.message(&format!("quire: {name}: {text}"));
        }
    }

    /// Prints a line to standard error.
    pub fn message(&self, text: &str) {
        // An error of writing to standard error can't be reported anywhere.
        let _ = self.without_bar(|| writeln!(io::stderr(), "{text}"));
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

/// A local path with control characters escaped.
pub(crate) fn shown(path: &Path) -> String {
    EscapedPath(path).to_string()
}

/// Locks `mutex`; its content stays valid after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
