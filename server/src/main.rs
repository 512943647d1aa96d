//! The program `quire-server`: parses the command line, serves until a signal, and exits.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use quire_certs::{Role, StateDir, load_or_create, replace};
use quire_server::auth::pairing;
use quire_server::config::args::{
    Args, CertsAction, CertsArgs, OfferArgs, ServeArgs, ServerCommand,
};
use quire_server::config::resolve::{ConfigError, Resolved};
use quire_server::config::sandbox::Sandbox;
use quire_server::config::settings::Settings;
use quire_server::config::value::Umask;
use quire_server::{Config, Server, StartError};
use quire_shared::protocol::PORT;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            message(&format!("quire-server: {}", error.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), StartError> {
    match &args.command {
        Some(ServerCommand::Certs(args)) => certs(args),
        Some(ServerCommand::Pair(args)) => pair(args),
        None => {
            let resolved = resolve(&args.serve)?;
            if args.serve.check_config {
                Config::check(&resolved.settings)?;
                return print(&format!("# configuration OK\n{resolved}"));
            }
            serve(&resolved.settings)
        }
    }
}

/// The settings that hold. A certificate that was typed without its key is a usage error.
fn resolve(args: &ServeArgs) -> Result<Resolved, StartError> {
    match Resolved::new(args, |name| std::env::var_os(name)) {
        Err(error @ ConfigError::CertWithoutKey { is_typed: true }) => Args::command()
            .error(clap::error::ErrorKind::MissingRequiredArgument, error)
            .exit(),
        resolved => Ok(resolved?),
    }
}

fn certs(args: &CertsArgs) -> Result<(), StartError> {
    let state = StateDir::open(args.state_dir.as_deref())?;
    let identity = match args.action.unwrap_or(CertsAction::Show) {
        CertsAction::Show => load_or_create(&state, Role::Server)?,
        CertsAction::New => replace(&state, Role::Server)?,
    };
    print(&format!("{}\n", identity.fingerprint()))
}

fn pair(args: &OfferArgs) -> Result<(), StartError> {
    let state = StateDir::open(args.state_dir.as_deref())?;
    let lifetime = Duration::from_secs(60 * u64::from(args.minutes));
    let code = pairing::offer(&state, &args.rights, &args.comment, lifetime)?;
    print(&format!("{code}\n"))?;
    message(&format!(
        "Run this on the client within {} minutes: quire pair HOST {code}",
        args.minutes
    ));
    Ok(())
}

fn serve(settings: &Settings) -> Result<(), StartError> {
    start_logging(settings.verbose);
    // Before there are other threads, because they share it.
    if let Some(Umask(bits)) = settings.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(bits));
    }
    let config = Config::from_settings(settings)?;
    // Before the sandbox, which makes the files with the number of processors unreachable.
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // As well: the names of users and groups.
    quire_transport::details::accounts::load();
    let sandbox = if settings.no_landlock {
        Sandbox::Off
    } else {
        Sandbox::enter(&config)?
    };
    // Threads that return unused memory. Not earlier: the sandbox only holds for threads that start
    // after it.
    #[cfg(feature = "jemalloc")]
    if let Err(error) = tikv_jemalloc_ctl::background_thread::write(true) {
        tracing::warn!(
            "cannot start jemalloc's background threads, so unused memory is returned late: {error}"
        );
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .worker_threads(workers)
        // Idle threads take turns at little work, so with tokio's default of ten seconds the threads
        // that a burst has started would never end.
        .thread_keep_alive(Duration::from_secs(1));
    // strace injects faults into the n-th call of each thread, so one thread makes n meaningful.
    #[cfg(feature = "fault-injection")]
    runtime.max_blocking_threads(1);
    let runtime = runtime.enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let mut signalled = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let server = tokio::select! {
            server = Server::bind_when_free(config) => server?,
            () = signalled() => return Ok(()),
        };
        announce(&server, sandbox)?;
        let (asked, ask) = tokio::sync::oneshot::channel();
        let again = async {
            signalled().await;
            asked.send(()).ok();
            // A second signal ends the server without waiting for requests.
            signalled().await;
        };
        tokio::select! {
            () = server.run(async { ask.await.unwrap_or_default() }) => {}
            () = again => {}
        }
        Ok(())
    })
}

/// Prints what clients need to know to standard output, in lines that programs can read.
fn announce(server: &Server, sandbox: Sandbox) -> Result<(), StartError> {
    let addresses = server.local_addrs().map_err(StartError::Runtime)?;
    let mut lines = vec![format!("fingerprint {}", server.fingerprint())];
    lines.extend(
        addresses
            .iter()
            .map(|address| format!("listening on {address}")),
    );
    lines.push(sandbox.to_string());
    if std::io::stdout().is_terminal()
        && let Some(address) = addresses.first()
    {
        let port = if address.port() == PORT {
            String::new()
        } else {
            format!(":{}", address.port())
        };
        lines.push(format!("try: quire list localhost{port}"));
    }
    lines.push(String::new());
    // The server is useful even if these lines can't be written.
    let _ = print(&lines.join("\n"));
    if let Some(reason) = server.read_only() {
        message(&format!("quire-server: serving read-only: {reason}"));
    }
    Ok(())
}

/// Writes `text` to standard output. A closed pipe is no error: a reader such as `head` ends early.
fn print(text: &str) -> Result<(), StartError> {
    // Not `print!`, which panics when the pipe is closed.
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(StartError::Output),
    }
}

/// Writes a line to standard error.
fn message(text: &str) {
    // Not `eprintln!`, which panics when the pipe is closed. The error can't be reported anywhere.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Sends the log to standard error: connections and warnings, or what RUST_LOG selects.
fn start_logging(verbose: bool) {
    let level = if verbose {
        "warn,quire_server=debug"
    } else {
        "warn,quire_server=info"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
