//! `linklab`: an emulated network link between two network namespaces of this machine.

mod cli;
mod generate;
mod link;
mod model;
mod netns;
mod report;
mod sys;
mod units;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;

use cli::{Cli, LinkArgs, RunArgs, TraceArgs};
use link::Running;
use model::Config;
use netns::{Claim, Namespace, NamespacePair, Purpose};
use report::{MachineTime, direction_json, warn};
use sys::{Signal, Signals};

/// linklab itself failed.
const FAILED: u8 = 125;
/// The client ran into its time limit.
const TIMED_OUT: u8 = 124;
/// How often to look at things that send no signal.
const TICK: Duration = Duration::from_millis(100);
const GRACE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match Signals::block() {
        Err(error) => Err(error),
        Ok(signals) => match &cli.command {
            cli::Command::Up => up(&cli.link, &signals),
            cli::Command::Run(run_args) => run(&cli.link, run_args, &signals),
            cli::Command::Clean => clean(&cli.link),
            cli::Command::Trace(trace) => draw(trace, cli.link.seed),
        },
    };
    result.map_or_else(
        |error| {
            eprintln!("linklab: {error}");
            ExitCode::from(FAILED)
        },
        ExitCode::from,
    )
}

fn clean(link: &LinkArgs) -> io::Result<u8> {
    match Claim::take(&link.name, Purpose::Run)? {
        None => Err(io::Error::other("the link is in use")),
        Some(mut claim) => {
            claim.release()?;
            Ok(0)
        }
    }
}

/// Writes a modelled trace.
fn draw(args: &TraceArgs, seed: u64) -> io::Result<u8> {
    let trace = generate::generate(args.kind, seed, args.seconds).map_err(io::Error::other)?;
    let mut file = io::BufWriter::new(File::create(&args.file)?);
    for ms in trace.opportunities() {
        writeln!(file, "{ms}")?;
    }
    file.flush()?;
    let mbit = trace.mean_rate() as f64 / 1e6;
    println!("{mbit:.2} Mbit/s in the mean");
    Ok(0)
}

fn up(args: &LinkArgs, signals: &Signals) -> io::Result<u8> {
    let session = LinkSession::start(args, Purpose::Up, signals)?;
    eprintln!(
        "linklab: {} is {}, {} is {}",
        session.pair.client.name(),
        netns::CLIENT_ADDRESS,
        session.pair.server.name(),
        netns::SERVER_ADDRESS
    );
    let begin = Instant::now();
    loop {
        if let Some(Signal::End(_)) = signals.wait(TICK) {
            break;
        }
        session.check()?;
    }
    let line = session.finish(begin.elapsed(), None)?;
    writeln!(io::stdout(), "{line}")?;
    Ok(0)
}

fn run(args: &LinkArgs, run: &RunArgs, signals: &Signals) -> io::Result<u8> {
    let session = LinkSession::start(args, Purpose::Run, signals)?;
    let mut server = match &run.server {
        None => None,
        Some(command) => {
            let [output, error] = server_output(run)?;
            let server = spawn(&session.pair.server, command, output, error)?;
            Some(server)
        }
    };
    if let Some(server) = &mut server {
        wait_ready(&session, server, run, signals)?;
    }
    if let Some(pause) = run.ready_sleep.or(default_pause(run)) {
        sleep(pause, signals)?;
    }

    let machine = MachineTime::now();
    let begin = Instant::now();
    let mut client = spawn(
        &session.pair.client,
        &run.client,
        Stdio::inherit(),
        Stdio::inherit(),
    )?;
    let (code, elapsed) = wait_client(&session, &mut client, begin, run.timeout, signals)?;
    let busy = machine.and_then(|before| before.busy_since());
    client.end();
    if let Some(server) = &mut server {
        server.end();
    }

    let outcome = ClientOutcome { code, busy };
    let line = session.finish(elapsed, Some(outcome))?;
    if let Some(path) = &run.json {
        writeln!(File::create(path)?, "{line}")?;
    }
    writeln!(io::stdout(), "{line}")?;
    Ok(code)
}

fn default_pause(run: &RunArgs) -> Option<Duration> {
    let no_port = run.ready_tcp.is_none() && run.ready_udp.is_none();
    (run.server.is_some() && no_port).then_some(Duration::from_millis(500))
}

fn server_output(run: &RunArgs) -> io::Result<[Stdio; 2]> {
    let file: File = match &run.server_log {
        Some(path) => File::create(path)?,
        None => io::stderr().as_fd().try_clone_to_owned()?.into(),
    };
    Ok([file.try_clone()?.into(), file.into()])
}

fn wait_ready(
    session: &LinkSession,
    server: &mut Process,
    run: &RunArgs,
    signals: &Signals,
) -> io::Result<()> {
    let deadline = Instant::now() + run.ready_timeout;
    let namespace = &session.pair.server;
    loop {
        let udp = match run.ready_udp {
            Some(port) => namespace.has_udp(port)?,
            None => true,
        };
        let tcp = match run.ready_tcp {
            Some(port) => namespace.has_tcp(port)?,
            None => true,
        };
        if udp && tcp {
            return Ok(());
        }
        // A server may well put itself in the background.
        if let Some(status) = server.status()?
            && !status.success()
        {
            return Err(io::Error::other(format!("the server ended: {status}")));
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("the server did not become ready"));
        }
        sleep(Duration::from_millis(20), signals)?;
        session.check()?;
    }
}

/// Sleeps, unless a signal ends the session.
fn sleep(time: Duration, signals: &Signals) -> io::Result<()> {
    let deadline = Instant::now() + time;
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(());
        }
        if let Some(Signal::End(signal)) = signals.wait(rest) {
            return Err(io::Error::other(format!("ended by signal {signal}")));
        }
    }
}

/// Waits for the client; its exit code and its time.
fn wait_client(
    session: &LinkSession,
    client: &mut Process,
    begin: Instant,
    limit: Option<Duration>,
    signals: &Signals,
) -> io::Result<(u8, Duration)> {
    loop {
        let status = client.status()?;
        let elapsed = begin.elapsed();
        if let Some(status) = status {
            return Ok((exit_code(status), elapsed));
        }
        session.check()?;
        let rest = limit.map_or(TICK, |limit| limit.saturating_sub(elapsed));
        if rest.is_zero() {
            return Ok((TIMED_OUT, elapsed));
        }
        if let Some(Signal::End(signal)) = signals.wait(rest.min(TICK)) {
            return Ok((128 + signal as u8, begin.elapsed()));
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128 + signal as u8,
        (None, None) => FAILED,
    }
}

/// A shell command in a namespace, in a process group of its own that ends with this value.
struct Process(Child);

fn spawn(namespace: &Namespace, command: &str, output: Stdio, error: Stdio) -> io::Result<Process> {
    let file = namespace.file().try_clone()?;
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(error)
        .process_group(0);
    // SAFETY: between fork and exec the closure only makes system calls.
    unsafe {
        shell.pre_exec(move || {
            sys::die_with_parent()?;
            sys::unblock_signals()?;
            sys::enter_netns(file.as_fd())
        });
    }
    Ok(Process(shell.spawn()?))
}

impl Process {
    fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Ends the process and its group, at first politely. What outlives the shell is ended
    /// with the namespace: once the shell has been waited for, the number of its group could
    /// belong to somebody else.
    fn end(&mut self) {
        let group = -(self.0.id() as i32);
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            if let Ok(Some(_)) = self.status() {
                return;
            }
            let _ = sys::kill(group, signal);
            let deadline = Instant::now() + GRACE;
            while Instant::now() < deadline && matches!(self.status(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A link that is up.
struct LinkSession {
    configs: [Config; 2],
    rtt: Duration,
    mtu: u16,
    seed: u64,
    begin: Instant,
    running: Running,
    pair: NamespacePair,
}

struct ClientOutcome {
    code: u8,
    /// Share of the machine's processor time that was in use, and share that was stolen.
    busy: Option<[f64; 2]>,
}

impl LinkSession {
    fn start(args: &LinkArgs, purpose: Purpose, signals: &Signals) -> io::Result<Self> {
        let configs = args.configs().map_err(io::Error::other)?;
        let claim = loop {
            match Claim::take(&args.name, purpose)? {
                Some(claim) => break claim,
                None if args.wait => sleep(TICK, signals)?,
                None => {
                    return Err(io::Error::other(format!(
                        "another session holds the link name {:?}: use --wait, or --name",
                        args.name
                    )));
                }
            }
        };
        let mtu = usize::from(args.mtu);
        let (pair, devices) = NamespacePair::create(claim, mtu, &args.sysctls)?;
        let options = link::LinkOptions {
            mtu,
            coalesce: args.coalesce(),
            real_time: !args.no_rt,
        };
        Ok(LinkSession {
            running: Running::start(devices, configs.clone(), options)?,
            configs,
            rtt: args.rtt,
            mtu: args.mtu,
            seed: args.seed,
            begin: Instant::now(),
            pair,
        })
    }

    fn check(&self) -> io::Result<()> {
        if self.running.has_failed() {
            return Err(io::Error::other("the link has failed"));
        }
        Ok(())
    }

    /// Takes the link down; its result as one line of JSON.
    fn finish(self, elapsed: Duration, outcome: Option<ClientOutcome>) -> io::Result<String> {
        let [client, server] = [&self.pair.client, &self.pair.server].map(Namespace::device_drops);
        let drops = [client?, server?];
        let (reports, cpu) = self.running.stop()?;
        let cpu = cpu.as_secs_f64();
        let share = cpu / self.begin.elapsed().as_secs_f64();

        let mut json = format!("{{\"seconds\":{:.6}", elapsed.as_secs_f64());
        if let Some(outcome) = outcome {
            let _ = write!(json, ",\"exit\":{}", outcome.code);
            if let Some([busy, stolen]) = outcome.busy {
                let _ = write!(
                    json,
                    ",\"machine_busy\":{busy:.3},\"machine_stolen\":{stolen:.3}"
                );
            }
        }
        let _ = write!(
            json,
            ",\"link_cpu_seconds\":{cpu:.3},\"link_cpu_share\":{share:.3},\"rtt_ms\":{},\"mtu\":{},\"seed\":{}",
            self.rtt.as_secs_f64() * 1e3,
            self.mtu,
            self.seed,
        );
        let directions = reports.iter().zip(&self.configs).zip(drops);
        for (name, ((report, config), drops)) in ["up", "down"].iter().zip(directions) {
            let _ = write!(
                json,
                ",\"{name}\":{}",
                direction_json(report, config, drops)
            );
            warn(name, report, drops);
        }
        json.push('}');
        self.pair.remove()?;
        Ok(json)
    }
}
