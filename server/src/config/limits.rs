//! What a client may take of the server, as its operator chose it.
//!
//! Every limit has a flag of its name, a default, and a counter in the log of how often it was
//! met. The limits of messages and paths, on which both ends must agree, are in `quire_shared`.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use quire_transport::flow::stream_limits::{RateLimiter, StallTimer, StreamLimits};

use crate::config::args::ByteCount;

/// The limits of a server. Each field is the flag of the same name.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Connections at once, those whose handshake isn't over included.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = at_least_one())]
    pub connections: u32,
    /// Connections at once of one address; of IPv6, one /64 network.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one())]
    pub connections_per_address: u32,
    /// Handshakes at once; from a quarter of that on clients have to prove their address first, and
    /// from half of it on an address that has a 64th of it has to wait.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = at_least_one())]
    pub handshakes: u32,
    /// Which clients have to prove their address before anything is sent to it but a token, at the
    /// price of a round trip. Many handshakes at once make all do so.
    #[arg(long, value_name = "WHO", default_value = "public")]
    pub prove_addresses: Prove,
    /// Requests that a client may begin before its rights are known.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one())]
    pub early_requests: u32,
    /// Seconds that a handshake may take.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub handshake_time: Seconds,
    /// Seconds from the beginning of a stream to the end of its request.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    pub request_time: Seconds,
    /// Seconds that a connection may go without a request.
    #[arg(long, value_name = "SECONDS", default_value = "3600")]
    pub idle_time: Seconds,
    /// Seconds for which a client may keep a transfer waiting; what moves pays them back.
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    pub stall_time: Seconds,
    /// Bytes that pay back a second of --stall-time: the slowest rate a transfer may have.
    #[arg(long, value_name = "BYTES", default_value = "1KiB")]
    pub stall_rate: ByteCount,
    /// Requests per second of one connection; more have to wait.
    #[arg(long, value_name = "N", default_value = "none")]
    pub request_rate: Limit,
    /// Requests per second that a client gives up or garbles; a connection with more is closed.
    #[arg(long, value_name = "N", default_value = "1000")]
    pub abort_rate: Limit,
    /// Bytes per second of all transfers together.
    #[arg(long, value_name = "BYTES", default_value = "none")]
    pub rate: Limit,
    /// Bytes per second of all transfers of one key, or of all who have none.
    #[arg(long, value_name = "BYTES", default_value = "none")]
    pub rate_per_key: Limit,
    /// Bytes that one key, or all who have none, may store in a day.
    #[arg(long, value_name = "BYTES", default_value = "none")]
    pub daily_bytes: Limit,
    /// Files and directories that one key, or all who have none, may make in a day.
    #[arg(long, value_name = "N", default_value = "none")]
    pub daily_files: Limit,
}

fn at_least_one() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..)
}

impl Limits {
    /// How slow a stream may be, without a limit to how fast.
    pub(crate) fn pace(&self) -> StreamLimits {
        StreamLimits {
            stall_timer: Some(StallTimer::new(self.stall_time.0, self.stall_rate.0)),
            rate_limiters: Vec::new(),
        }
    }
}

impl Default for Limits {
    /// The defaults of the flags.
    fn default() -> Self {
        let seconds = |seconds| Seconds(Duration::from_secs(seconds));
        Self {
            connections: 1024,
            connections_per_address: 64,
            handshakes: 256,
            prove_addresses: Prove::Public,
            early_requests: 4,
            handshake_time: seconds(5),
            request_time: seconds(5),
            idle_time: seconds(3600),
            stall_time: seconds(30),
            stall_rate: ByteCount(1024),
            request_rate: Limit(None),
            abort_rate: Limit(Some(1000)),
            rate: Limit(None),
            rate_per_key: Limit(None),
            daily_bytes: Limit(None),
            daily_files: Limit(None),
        }
    }
}

/// Which clients have to prove their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Prove {
    /// All.
    Always,
    /// Those of the open Internet, whose addresses anybody else there could claim.
    Public,
    /// None, unless many handshakes are under way.
    UnderLoad,
}

/// A number, with a unit if it counts bytes, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

impl Limit {
    /// What spreads so many units a second over time.
    pub(crate) fn throttle(self) -> Option<Arc<RateLimiter>> {
        self.0
            .map(|per_second| Arc::new(RateLimiter::new(per_second, BURST)))
    }

    /// What counts how many come in a second.
    pub(crate) fn counter(self) -> Option<RateLimiter> {
        let second = Duration::from_secs(1);
        self.0
            .map(|per_second| RateLimiter::new(per_second, second))
    }
}

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        match text.parse::<ByteCount>()?.0 {
            // In some programs that means no limit, in others that nothing is let through.
            0 => Err("expected a number above 0, or none"),
            number => Ok(Self(Some(number))),
        }
    }
}

/// A time in whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<u32>() {
            Ok(0) | Err(_) => Err("expected a number of seconds above 0"),
            Ok(seconds) => Ok(Self(Duration::from_secs(seconds.into()))),
        }
    }
}

/// What may go at once after a pause: short enough to keep to a rate as people see it, long enough
/// for timers of a few milliseconds not to cost any of it.
const BURST: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_flags() {
        use clap::{Args as _, FromArgMatches as _};

        let command = Limits::augment_args(clap::Command::new("limits"));
        let matches = command.get_matches_from(["limits"]);
        let limits = Limits::from_arg_matches(&matches).unwrap();
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn no_limit_has_a_word_and_is_never_zero() {
        assert_eq!("none".parse(), Ok(Limit(None)));
        assert_eq!("10MiB".parse(), Ok(Limit(Some(10 << 20))));
        for text in ["0", "", "-1", "all"] {
            text.parse::<Limit>().unwrap_err();
        }
        assert_eq!("7".parse(), Ok(Seconds(Duration::from_secs(7))));
        for text in ["0", "", "1.5", "none"] {
            text.parse::<Seconds>().unwrap_err();
        }
    }
}
