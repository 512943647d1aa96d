//! Measures what no command line can: requests on a connection that is warm already.
//!
//! One run holds one connection and does one thing over it: small gets one after another, lists
//! beside a put or a get at full speed, or many downloads at once. Every request goes through the client's
//! library as a user's would, with digests checked, so the figures are a user's figures. The last
//! line of output is JSON; `bench/compare` reads it.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use quire_cli::CliSession;
use quire_cli::config::Config;
use quire_cli::operand::Remote;
use quire_client::Client;
use quire_client::download::Fetched;
use quire_client::upload::{Links, LocalFile, Stored};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{Delete, Get, List, Precondition, Preserve, Put, Stat};
use quire_shared::{Name, Printable, RemotePath};
use serde_json::{Value, json};
use tokio::task::JoinSet;

// As the client itself, whose memory is to be measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Times requests on one connection to a quire server.
#[derive(Debug, Parser)]
struct LatencyArgs {
    /// Where this client's key and known servers are.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Gets a small file again and again.
    SmallGet {
        /// HOST[:PORT]/PATH of the file.
        #[arg(value_parser = Remote::parse_below_root)]
        file: Remote,
    },
    /// Puts FILE into a directory, lists that again and again meanwhile, deletes FILE there.
    ListDuringPut {
        /// HOST[:PORT]/PATH of the directory, which may be the root.
        #[arg(value_parser = Remote::parse)]
        directory: Remote,
        /// A local file, large enough to take a while.
        file: PathBuf,
    },
    /// Gets FILE, dropping its bytes, and lists its directory again and again meanwhile.
    ListDuringGet {
        /// HOST[:PORT]/PATH of a file, large enough to take a while.
        #[arg(value_parser = Remote::parse_below_root)]
        file: Remote,
    },
    /// Gets a file many times at once, dropping its bytes.
    ParallelGet {
        /// HOST[:PORT]/PATH of the file.
        #[arg(value_parser = Remote::parse_below_root)]
        file: Remote,
        /// How many times.
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        count: u16,
    },
}

impl Measurement {
    fn remote(&self) -> &Remote {
        match self {
            Self::SmallGet { file }
            | Self::ListDuringGet { file }
            | Self::ParallelGet { file, .. } => file,
            Self::ListDuringPut { directory, .. } => directory,
        }
    }
}

/// The causes are what the client's library and the standard library say, for a human to read.
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let line = LatencyArgs::parse();
    let session = CliSession::new(Config {
        state_dir: line.state_dir,
        ..Config::default()
    });
    let result = run(&session, &line.command).await;
    session.close().await;
    match result.and_then(|figures| Ok(writeln!(io::stdout(), "{figures}")?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&*error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &dyn Error) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // A transparent error repeats its cause.
        if cause_text != text {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    // There is nowhere left to say that standard error is closed.
    let _ = writeln!(io::stderr(), "latency: {}", Printable(&text));
}

async fn run(session: &CliSession, command: &Measurement) -> Result<Value> {
    let client = session.client(&command.remote().server).await?;
    // Whether the server lets this client in shows now, and the path's round trip is known.
    client.ping().await?;
    match command {
        Measurement::SmallGet { file } => small_get(&client, &file.path).await,
        Measurement::ListDuringPut { directory, file } => {
            list_during_put(&client, &directory.path, file).await
        }
        Measurement::ListDuringGet { file } => list_during_get(&client, &file.path).await,
        Measurement::ParallelGet { file, count } => parallel_get(&client, &file.path, *count).await,
    }
}

async fn small_get(client: &Client, path: &RemotePath) -> Result<Value> {
    for _ in 0..WARM_UP_GETS {
        fetch(client, path).await?;
    }
    let mut samples = Vec::new();
    for _ in 0..GETS {
        let start = Instant::now();
        fetch(client, path).await?;
        samples.push(start.elapsed());
    }
    Ok(samples_ms(&samples))
}

/// Gets a file and drops its bytes once they have proved whole.
async fn fetch(client: &Client, path: &RemotePath) -> Result<Fetched> {
    fetch_counted(client, path, &AtomicU64::new(0)).await
}

/// The same; `moved` counts the bytes that have come.
async fn fetch_counted(client: &Client, path: &RemotePath, moved: &AtomicU64) -> Result<Fetched> {
    let get = Get {
        path: path.clone(),
        offset: 0,
        length: None,
        digest: DigestKind::default(),
        precondition: Precondition::Any,
        digest_from_start: false,
        takes_extents: false,
        details: Default::default(),
    };
    let download = client.get(get).await?;
    let size = download.header().size;
    let (_, fetched) = download.write_to(io::sink(), moved).await?;
    if fetched.bytes != size {
        return Err(format!("{size} bytes were promised, {} came", fetched.bytes).into());
    }
    Ok(fetched)
}

async fn list_during_put(client: &Client, directory: &RemotePath, file: &Path) -> Result<Value> {
    let name = file
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or("the local file has no name that can travel")?;
    let target = directory.join(Name::new(name)?)?;
    let local = LocalFile::open(file, Links::Follow).await?;
    let (size, moved) = (local.size(), Arc::new(AtomicU64::new(0)));
    let mut putting = JoinSet::new();
    putting.spawn(put(
        client.clone(),
        target.clone(),
        local,
        Arc::clone(&moved),
    ));
    let listed = list_while(client, directory, &mut putting, || {
        moved.load(Ordering::Relaxed)..size
    });
    let (samples, stored) = listed.await?;
    let delete = Delete {
        path: target,
        recursive: false,
        // Only what was put here is deleted.
        precondition: Precondition::Match(stored.version),
        change_id: None,
    };
    client.delete(delete).await?;
    if samples.is_empty() {
        return Err("the put was over before anything was listed; take a larger file".into());
    }
    Ok(samples_ms(&samples))
}

async fn list_during_get(client: &Client, path: &RemotePath) -> Result<Value> {
    let directory = path.parent().ok_or("the root is no file")?;
    let stat = Stat::of(path.clone());
    let size = client.stat(stat).await?.size;
    let moved = Arc::new(AtomicU64::new(0));
    let mut getting = JoinSet::new();
    let (getter, path, counter) = (client.clone(), path.clone(), Arc::clone(&moved));
    getting.spawn(async move { fetch_counted(&getter, &path, &counter).await });
    let listed = list_while(client, &directory, &mut getting, || {
        moved.load(Ordering::Relaxed)..size
    });
    let (samples, _) = listed.await?;
    if samples.is_empty() {
        return Err("the get was over before anything was listed; take a larger file".into());
    }
    Ok(samples_ms(&samples))
}

/// Puts a file that the server doesn't have.
async fn put(
    client: Client,
    path: RemotePath,
    local: LocalFile,
    moved: Arc<AtomicU64>,
) -> Result<Stored> {
    let put = Put {
        path,
        size: Some(local.size()),
        modified: local.modified(),
        mode: local.mode(),
        digest: DigestKind::default(),
        precondition: Precondition::Absent,
        make_parents: false,
        preserve: Preserve::Usual,
        details: None,
    };
    Ok(client.put(put, local.into_content(), &moved).await?)
}

/// Lists `directory` until the transfer has ended. Lists count that began while its body was under
/// way, which `left` tells: from the bytes that have gone out to those that there are.
async fn list_while<T: 'static>(
    client: &Client,
    directory: &RemotePath,
    transfer: &mut JoinSet<Result<T>>,
    left: impl Fn() -> std::ops::Range<u64>,
) -> Result<(Vec<Duration>, T)> {
    let mut samples = Vec::new();
    loop {
        let (start, left_then) = (Instant::now(), left());
        tokio::select! {
            biased;
            Some(ended) = transfer.join_next() => return Ok((samples, ended??)),
            // Nothing is sent any more while the server makes the file durable.
            listed = list(client, directory), if !left_then.is_empty() => {
                listed?;
                // Before the first byte has left there is nothing to compete with.
                if left_then.start > 0 {
                    samples.push(start.elapsed());
                }
            }
        }
    }
}

/// Receives a whole listing.
async fn list(client: &Client, directory: &RemotePath) -> Result<()> {
    let list = List {
        path: directory.clone(),
        after: None,
    };
    let mut listing = client.list(list).await?;
    while listing.next().await?.is_some() {}
    Ok(())
}

async fn parallel_get(client: &Client, path: &RemotePath, count: u16) -> Result<Value> {
    let start = Instant::now();
    let mut fetching = JoinSet::new();
    for _ in 0..count {
        let (client, path) = (client.clone(), path.clone());
        fetching.spawn(async move { fetch(&client, &path).await });
    }
    let mut first: Option<Fetched> = None;
    let mut bytes = 0;
    while let Some(fetched) = fetching.join_next().await {
        let fetched = fetched??;
        bytes += fetched.bytes;
        let first = first.get_or_insert_with(|| fetched.clone());
        if (first.bytes, &first.digest) != (fetched.bytes, &fetched.digest) {
            return Err("two downloads differ; is the file being replaced?".into());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(json!({
        "downloads": count,
        "bytes": bytes,
        "seconds": seconds,
        "mib_per_second": mebibytes(bytes) / seconds,
        "peak_rss_mib": peak_resident().map(mebibytes),
    }))
}

fn samples_ms(samples: &[Duration]) -> Value {
    let samples: Vec<f64> = samples
        .iter()
        .map(|sample| sample.as_secs_f64() * 1000.0)
        .collect();
    json!({ "samples_ms": samples })
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// The most memory that this process ever had resident, in bytes, where the system tells
/// (proc_pid_status(5), `VmHWM`).
fn peak_resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Gets before the first that counts: the server's cache takes the file at one of them, and all
/// threads have run.
const WARM_UP_GETS: usize = 5;

/// Gets that count: enough for a steady median, and few seconds on a path of 80 ms.
const GETS: usize = 100;
