//! The command line and its units.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

use crate::generate::TraceKind;
use crate::model::{self, Config, Outage, Policer, Trace};
use crate::units::{
    OutageCycle, Queue, Rate, nanos, parse_duration, parse_gilbert, parse_name, parse_outage,
    parse_policer, parse_probability, parse_queue, parse_rate, parse_sysctl,
};

/// Emulates a network link between two network namespaces of this machine: rate, delay,
/// loss, queue. The client side is 10.77.0.1 in NAMEclient, the server side 10.77.1.1 in
/// NAMEserver. Needs root.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(flatten)]
    pub link: LinkArgs,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Keep the link up until SIGINT or SIGTERM, then print its counters as one JSON line.
    Up,
    /// Run a server and a client over the link, then print time and counters as one JSON line.
    Run(RunArgs),
    /// Remove what a crashed session left behind.
    Clean,
    /// Write a modelled trace, drawn from --seed, for --trace.
    Trace(TraceArgs),
}

#[derive(Args)]
pub struct LinkArgs {
    /// Rate of IP packets in each direction: 200mbit, 1gbit, 500kbit, 9600bit or unlimited.
    #[arg(long, global = true, default_value = "unlimited", value_parser = parse_rate)]
    pub rate: Rate,
    /// Rate from the client to the server, where it differs.
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub rate_up: Option<Rate>,
    /// Rate from the server to the client, where it differs.
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub rate_down: Option<Rate>,
    /// Rate that varies: a file in Mahimahi's format, with a line for each 1500 bytes that may
    /// leave, which is the millisecond at which they may. The file repeats.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "rate")]
    pub trace: Option<PathBuf>,
    /// Trace from the client to the server, where it differs.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "rate_up")]
    pub trace_up: Option<PathBuf>,
    /// Trace from the server to the client, where it differs.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "rate_down")]
    pub trace_down: Option<PathBuf>,
    /// Drop what exceeds a rate and a burst (150k or 100pkt), before the queue.
    #[arg(long, global = true, value_name = "RATE,BURST", value_parser = parse_policer)]
    pub police: Option<Policer>,
    /// Policer from the client to the server, where it differs.
    #[arg(long, global = true, value_name = "RATE,BURST", value_parser = parse_policer)]
    pub police_up: Option<Policer>,
    /// Policer from the server to the client, where it differs.
    #[arg(long, global = true, value_name = "RATE,BURST", value_parser = parse_policer)]
    pub police_down: Option<Policer>,
    /// Round-trip time; half of it is the delay of each direction.
    #[arg(long, global = true, default_value = "0ms", value_parser = parse_duration)]
    pub rtt: Duration,
    /// Loss probability of each packet: 0.5% or 0.005.
    #[arg(long, global = true, default_value = "0", value_parser = parse_probability)]
    pub loss: f64,
    /// Loss probability from the client to the server, where it differs.
    #[arg(long, global = true, value_name = "LOSS", value_parser = parse_probability)]
    pub loss_up: Option<f64>,
    /// Loss probability from the server to the client, where it differs.
    #[arg(long, global = true, value_name = "LOSS", value_parser = parse_probability)]
    pub loss_down: Option<f64>,
    /// Loss in bursts: "gilbert p,r" or "gilbert p,r,LOSS_BAD,LOSS_GOOD", where p is the
    /// probability of a burst beginning at a packet, r that of its ending.
    #[arg(long, global = true, num_args = 2, value_names = ["MODEL", "P,R"])]
    pub burst_loss: Option<Vec<String>>,
    /// Lose everything, in both directions, for LENGTH in each PERIOD: 20ms/1s. The seed
    /// decides when in the period.
    #[arg(long, global = true, value_name = "LENGTH/PERIOD", value_parser = parse_outage)]
    pub outage: Option<OutageCycle>,
    /// Most of a random delay of each packet, which keeps the order.
    #[arg(long, global = true, default_value = "0ms", value_name = "TIME", value_parser = parse_duration)]
    pub jitter: Duration,
    /// Jitter from the client to the server, where it differs.
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub jitter_up: Option<Duration>,
    /// Jitter from the server to the client, where it differs.
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration)]
    pub jitter_down: Option<Duration>,
    /// Most of a random delay of each packet, in which packets overtake one another.
    #[arg(long, global = true, default_value = "0ms", value_name = "TIME", value_parser = parse_duration)]
    pub jitter_reorder: Duration,
    /// Probability that a packet arrives late and is overtaken.
    #[arg(long, global = true, default_value = "0", value_parser = parse_probability)]
    pub reorder: f64,
    /// How much later such a packet arrives [default: a tenth of the RTT, at least 1 ms].
    #[arg(long, global = true, value_parser = parse_duration)]
    pub reorder_delay: Option<Duration>,
    /// Probability that a packet arrives twice.
    #[arg(long, global = true, default_value = "0", value_parser = parse_probability)]
    pub duplicate: f64,
    /// Queue before each direction: 1bdp, 0.5bdp (of at least 64 packets), 300pkt (full
    /// packets) or a number of bytes (150000, 150k, 2m).
    #[arg(long, global = true, default_value = "1bdp", value_parser = parse_queue)]
    pub queue: Queue,
    #[arg(long, global = true, default_value_t = 1500,
          value_parser = clap::value_parser!(u16).range(576..=65520))]
    pub mtu: u16,
    /// Seed of the random numbers.
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Set a net.* kernel setting in both namespaces (never on the host).
    #[arg(long = "sysctl", global = true, value_name = "KEY=VALUE", value_parser = parse_sysctl)]
    pub sysctls: Vec<(String, String)>,
    /// While packets flow, wake up at most once in this time [default: a two-hundredth of the
    /// RTT, at least 50us, at most 250us].
    #[arg(long, global = true, value_parser = parse_duration)]
    pub coalesce: Option<Duration>,
    /// Do not run the link thread at real-time priority.
    #[arg(long, global = true)]
    pub no_rt: bool,
    /// Prefix of the namespaces; links of different names can exist at once.
    #[arg(long, global = true, default_value = "ll", value_parser = parse_name)]
    pub name: String,
    /// Wait until another session that holds the name has ended, rather than fail.
    #[arg(long, global = true)]
    pub wait: bool,
}

#[derive(Args)]
pub struct TraceArgs {
    pub kind: TraceKind,
    pub file: PathBuf,
    /// Length of the trace, after which it begins again.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
}

#[derive(Args)]
pub struct RunArgs {
    /// Shell command to run in the server's namespace.
    #[arg(long, value_name = "CMD")]
    pub server: Option<String>,
    /// Shell command to run, and to time, in the client's namespace.
    #[arg(long, value_name = "CMD")]
    pub client: String,
    /// The server is ready when it has bound this UDP port (looked up, nothing is sent).
    #[arg(long, value_name = "PORT")]
    pub ready_udp: Option<u16>,
    /// The server is ready when it listens on this TCP port (looked up, nothing is sent).
    #[arg(long, value_name = "PORT")]
    pub ready_tcp: Option<u16>,
    /// Wait this long before the client starts (after the ports are ready, if asked for)
    /// [default: 500ms with a server and no port].
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ready_sleep: Option<Duration>,
    /// How long the server may take to become ready.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub ready_timeout: Duration,
    /// End the client after this time; the exit status is then 124.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// File for the server's output [default: linklab's standard error].
    #[arg(long, value_name = "FILE")]
    pub server_log: Option<PathBuf>,
    /// Also write the JSON line to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Without a rate nothing waits, but packets under way need memory.
const UNLIMITED_IN_FLIGHT: u64 = 256 << 20;
const LEAST_PACKETS: u64 = 64;

const LEAST_COALESCE: Duration = Duration::from_micros(50);
const MOST_COALESCE: Duration = Duration::from_micros(250);

impl LinkArgs {
    pub fn coalesce(&self) -> Duration {
        self.coalesce
            .unwrap_or((self.rtt / 200).clamp(LEAST_COALESCE, MOST_COALESCE))
    }

    /// The configurations of the two directions: client to server, server to client.
    pub fn configs(&self) -> Result<[Config; 2], String> {
        let burst_loss = match self.burst_loss.as_deref() {
            None => None,
            Some([model, parameters]) if model == "gilbert" => Some(parse_gilbert(parameters)?),
            Some(_) => return Err("the only burst loss model is \"gilbert\"".into()),
        };
        let outage = self.outage.map(|silence| self.outage(silence));
        let traces = [
            self.trace(self.trace_up.as_deref(), self.rate_up)?,
            self.trace(self.trace_down.as_deref(), self.rate_down)?,
        ];
        let rtt_ns = nanos(self.rtt);
        let shared = Config {
            rate: None,
            trace: None,
            policer: None,
            delay_ns: rtt_ns / 2,
            queue_bytes: 0,
            loss: 0.0,
            burst_loss,
            outage,
            jitter_ns: 0,
            jitter_reorder_ns: nanos(self.jitter_reorder),
            reorder: self.reorder,
            reorder_delay_ns: self
                .reorder_delay
                .map_or((rtt_ns / 10).max(1_000_000), nanos),
            duplicate: self.duplicate,
            seed: self.seed.wrapping_mul(2),
        };
        let [trace_up, trace_down] = traces;
        let rate_up = self.mean_rate(trace_up.as_deref(), self.rate_up);
        let rate_down = self.mean_rate(trace_down.as_deref(), self.rate_down);
        let up = Config {
            rate: rate_up,
            trace: trace_up,
            policer: self.police_up.or(self.police),
            queue_bytes: self.queue_bytes(rate_up),
            loss: self.loss_up.unwrap_or(self.loss),
            jitter_ns: nanos(self.jitter_up.unwrap_or(self.jitter)),
            ..shared.clone()
        };
        let down = Config {
            rate: rate_down,
            trace: trace_down,
            policer: self.police_down.or(self.police),
            queue_bytes: self.queue_bytes(rate_down),
            loss: self.loss_down.unwrap_or(self.loss),
            jitter_ns: nanos(self.jitter_down.unwrap_or(self.jitter)),
            seed: shared.seed.wrapping_add(1),
            ..shared
        };
        Ok([up, down])
    }

    /// The trace of a direction: its own, or that of both unless it has a rate of its own.
    fn trace(&self, own: Option<&Path>, rate: Option<Rate>) -> Result<Option<Arc<Trace>>, String> {
        let common = self.trace.as_deref().filter(|_| rate.is_none());
        let Some(path) = own.or(common) else {
            return Ok(None);
        };
        let named = |error: String| format!("{}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
        Ok(Some(Arc::new(Trace::parse(&text).map_err(named)?)))
    }

    fn mean_rate(&self, trace: Option<&Trace>, own: Option<Rate>) -> Option<u64> {
        let constant = own.unwrap_or(self.rate).0;
        trace.map_or(constant, |trace| Some(trace.mean_rate()))
    }

    /// Both directions fall silent at the same time.
    fn outage(&self, silence: OutageCycle) -> Outage {
        let period_ns = nanos(silence.period);
        Outage {
            length_ns: nanos(silence.length),
            period_ns,
            phase_ns: Pcg64::seed_from_u64(self.seed).random_range(0..period_ns),
        }
    }

    fn queue_bytes(&self, rate: Option<u64>) -> u64 {
        let mtu = u64::from(self.mtu);
        let bytes = match (self.queue, rate) {
            (Queue::Bdp(_), None) => UNLIMITED_IN_FLIGHT,
            (Queue::Bdp(times), Some(rate)) => {
                let bdp = model::bdp_bytes(rate, nanos(self.rtt));
                ((bdp as f64 * times) as u64).max(LEAST_PACKETS * mtu)
            }
            (Queue::Packets(packets), _) => packets.saturating_mul(mtu),
            (Queue::Bytes(bytes), _) => bytes,
        };
        bytes.max(mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Gilbert;

    fn configs(arguments: &[&str]) -> [Config; 2] {
        let words = ["linklab"].iter().chain(arguments).chain(&["up"]);
        match Cli::try_parse_from(words) {
            Ok(cli) => match cli.link.configs() {
                Ok(configs) => configs,
                Err(error) => panic!("{error}"),
            },
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_queue_follows_the_rate_of_its_direction() {
        let [up, down] = configs(&["--rate=200mbit", "--rate-up=10mbit", "--rtt=80ms"]);
        assert_eq!(down.queue_bytes, 2_000_000);
        assert_eq!(up.queue_bytes, 100_000);
        assert_eq!(up.delay_ns, 40_000_000);
        let [up, _] = configs(&["--rate=10mbit", "--rtt=1ms"]);
        assert_eq!(up.queue_bytes, 64 * 1500);
        let [up, _] = configs(&["--rate=10mbit", "--rtt=1ms", "--queue=15000"]);
        assert_eq!(up.queue_bytes, 15_000);
        assert_ne!(up.seed, down.seed);
    }

    #[test]
    fn burst_loss() {
        let [up, _] = configs(&["--burst-loss", "gilbert", "0.5%,0.3"]);
        let expected = Gilbert {
            p: 0.005,
            r: 0.3,
            loss_bad: 1.0,
            loss_good: 0.0,
        };
        assert_eq!(up.burst_loss, Some(expected));
    }

    #[test]
    fn both_directions_fall_silent_at_once() {
        let outage = |seed: &str| {
            let [up, down] = configs(&["--outage=20ms/1s", seed]);
            assert_eq!(up.outage, down.outage);
            up.outage.unwrap()
        };
        assert_eq!(outage("--seed=1"), outage("--seed=1"));
        assert_ne!(outage("--seed=1").phase_ns, outage("--seed=2").phase_ns);
        assert_eq!(outage("--seed=1").length_ns, 20_000_000);
    }

    #[test]
    fn a_direction_can_have_its_own_jitter_and_policer() {
        let [up, down] = configs(&[
            "--jitter=10ms",
            "--jitter-up=0",
            "--police-down=50mbit,150k",
        ]);
        assert_eq!([up.jitter_ns, down.jitter_ns], [0, 10_000_000]);
        assert_eq!(up.policer, None);
        assert_eq!(
            down.policer.map(|policer| policer.burst_bytes),
            Some(150_000)
        );
    }
}
