//! The program `quire`: reads the command line, runs the command, and ends with its exit status.
//!
//! An interrupt drops the running command, which removes unfinished files and closes the connections.
//! The interactive client handles interrupts itself.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use quire_cli::args::{self, Action, CliArgs};
use quire_cli::config::Config;
use quire_cli::output::Output;
use quire_cli::{CliSession, CommandFailure, Exit, commands, menu};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (action, line) = match CliArgs::read(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => {
            if std::env::args_os().any(|argument| argument == "--json") {
                args::print_usage_event(&error);
            }
            error.exit()
        }
    };
    let verbose = line.global.verbose;
    let session = CliSession::new(Config::from(line.global));
    start_log(verbose, Arc::clone(&session.output));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let text = format!("cannot start threads: {error}");
            let failure = CommandFailure::of_command(Exit::Failed, text);
            session.output.fail(&failure);
            return session.output.end().into();
        }
    };
    let exit = runtime.block_on(async {
        let exit = tokio::select! {
            exit = act(&session, &action) => exit,
            exit = terminated() => cut_off(&session, exit),
        };
        session.close().await;
        exit
    });
    // Blocking threads remove their unfinished files. One that waits for input never ends.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    exit.into()
}

async fn act(session: &CliSession, action: &Action) -> Exit {
    match action {
        Action::Menu(args) => menu::run(session, args).await,
        Action::Command(command) => tokio::select! {
            exit = commands::run(session, command) => exit,
            Ok(()) = tokio::signal::ctrl_c() => cut_off(session, Exit::Interrupted),
        },
    }
}

/// Tells programs that the command was cut off. People know.
fn cut_off(session: &CliSession, exit: Exit) -> Exit {
    let failure = CommandFailure::of_command(exit, "interrupted".to_owned());
    session.output.event(|| failure.event());
    exit
}

/// Completes when the program is asked to end by SIGTERM, SIGHUP or SIGQUIT.
#[cfg(unix)]
async fn terminated() -> Exit {
    use tokio::signal::unix::SignalKind;
    tokio::select! {
        () = received(SignalKind::terminate()) => Exit::Terminated,
        () = received(SignalKind::hangup()) => Exit::HungUp,
        () = received(SignalKind::quit()) => Exit::Quit,
    }
}

/// Completes when `kind` is received, unless this process was started to ignore it, as by nohup.
#[cfg(unix)]
async fn received(kind: tokio::signal::unix::SignalKind) {
    if !is_ignored(kind.as_raw_value()) {
        match tokio::signal::unix::signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
                return;
            }
            Err(error) => tracing::warn!(%error, "cannot listen for a signal"),
        }
    }
    std::future::pending::<()>().await;
}

/// Whether the system says that this process ignores a signal.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.unwrap_or(0) >> (signal - 1) & 1 == 1
}

#[cfg(not(unix))]
async fn terminated() -> Exit {
    std::future::pending().await
}

/// Logs to standard error, filtered by RUST_LOG or by the number of `-v` flags. One `-v` is for the
/// messages of commands, which need no log.
fn start_log(verbose: u8, output: Arc<Output>) {
    let level = match verbose {
        0 | 1 => "error",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LogWriter(Arc::clone(&output)))
        .with_ansi(has_colours())
        .init();
}

/// Writes records of the log between the lines of the progress display.
struct LogWriter(Arc<Output>);

impl io::Write for LogWriter {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.0.log(record)?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error shows colours, and the user wants them (no-color.org).
fn has_colours() -> bool {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !is_unwanted
}

/// Time limit for blocking threads to end: longer than the write of one batch on a slow disk.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
