//! What the program prints: results to standard output, all else to standard error.
//!
//! Nothing else prints, so this is where a progress bar gives way to a message, and where a reader
//! that went away is noticed. Callers pass text that is safe to show; in JSON names stand exactly.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::ProgressBar;
use quire_shared::Escaped;
use serde_json::Value;

use quire_client::ClientError;

use crate::hint::{HintFlags, with_hint};

/// Where results and messages go, and in which form.
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
    /// If standard output can't be written to, perhaps because its reader went away.
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

    /// Prints a result that exists in JSON alone.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn json_only(&self, json: impl FnOnce() -> Value) -> io::Result<()> {
        match self.json {
            true => self.result(String::new, json),
            false => Ok(()),
        }
    }

    /// Sees to it that all results are out.
    ///
    /// # Errors
    /// As [`Output::result`].
    pub(crate) fn flush(&self) -> io::Result<()> {
        lock(&self.results).flush()
    }

    /// Tells something that is no result, unless the user wants quiet.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            self.message(text);
        }
    }

    /// Prints an error about `name`, which is safe to show and may be empty, with a hint at the flag
    /// of the command that helps.
    pub(crate) fn error(&self, name: &str, error: &ClientError, flags: HintFlags) {
        // These name what they are about, or concern everything.
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

    /// Tells a person something, as it is.
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

/// Takes the bar away when dropped.
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
    Escaped(&path.to_string_lossy()).to_string()
}

/// What a panic left behind is still text.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
