//! Limits on the resources that clients can use, as the operator configured them.
//!
//! Every limit has a flag of its name, a default, and a counter in the log of how often it was
//! met. The limits of messages and paths, on which both ends must agree, are in `quire_shared`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use quire_transport::flow::stream_limits::{RateLimiter, StallTimer, StreamLimits};

use crate::config::settings::Setting;
use crate::config::value::ByteCount;
use crate::files::quota::BURST;

/// The limits of a server. Each field is the setting of the same name; [`Limits::settings`] has
/// its help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once, including unfinished handshakes.
    pub connections: u32,
    /// Connections at once of one IPv4 address or IPv6 /64 network.
    pub connections_per_address: u32,
    /// Handshakes at once.
    pub handshakes: u32,
    /// Which clients have to validate their address.
    pub validate_addresses: ValidateAddresses,
    /// Requests that a client may send before its rights are known.
    pub early_requests: u32,
    /// Time for a handshake.
    pub handshake_time: Seconds,
    /// Time from the beginning of a stream to the end of its request.
    pub request_time: Seconds,
    /// Time that a connection may be open without a request.
    pub idle_time: Seconds,
    /// Time that a transfer may be stalled.
    pub stall_time: Seconds,
    /// Bytes of progress that earn back a second of `stall_time`.
    pub stall_rate: ByteCount,
    /// Requests a second of one connection.
    pub request_rate: Limit,
    /// Aborted or malformed requests a second of one connection.
    pub abort_rate: Limit,
    /// Bytes a second of all transfers.
    pub rate: Limit,
    /// Bytes a second of one key.
    pub rate_per_key: Limit,
    /// Bytes that one key may store in a day.
    pub daily_bytes: Limit,
    /// Files and directories that one key may create in a day.
    pub daily_files: Limit,
}

impl Limits {
    /// The rows of the limits among the settings.
    pub(crate) fn settings(&mut self) -> Vec<Setting<'_>> {
        let row = Setting::new;
        vec![
            row(
                "connections",
                &mut self.connections,
                "N",
                "Connections at once",
            ),
            row(
                "connections-per-address",
                &mut self.connections_per_address,
                "N",
                "Connections at once of one IPv4 address or IPv6 /64 network",
            ),
            row("handshakes", &mut self.handshakes, "N", HANDSHAKES_HELP),
            row(
                "validate-addresses",
                &mut self.validate_addresses,
                "WHO",
                VALIDATE_HELP,
            )
            .formerly("prove-addresses"),
            row("early-requests", &mut self.early_requests, "N", EARLY_HELP),
            row(
                "handshake-time",
                &mut self.handshake_time,
                "SECONDS",
                "Time in seconds for a handshake",
            ),
            row(
                "request-time",
                &mut self.request_time,
                "SECONDS",
                REQUEST_TIME_HELP,
            ),
            row("idle-time", &mut self.idle_time, "SECONDS", IDLE_TIME_HELP),
            row(
                "stall-time",
                &mut self.stall_time,
                "SECONDS",
                STALL_TIME_HELP,
            ),
            row("stall-rate", &mut self.stall_rate, "BYTES", STALL_RATE_HELP),
            row(
                "request-rate",
                &mut self.request_rate,
                "N",
                REQUEST_RATE_HELP,
            ),
            row("abort-rate", &mut self.abort_rate, "N", ABORT_RATE_HELP),
            row("rate", &mut self.rate, "BYTES", RATE_HELP),
            row(
                "rate-per-key",
                &mut self.rate_per_key,
                "BYTES",
                RATE_PER_KEY_HELP,
            ),
            row(
                "daily-bytes",
                &mut self.daily_bytes,
                "BYTES",
                DAILY_BYTES_HELP,
            ),
            row("daily-files", &mut self.daily_files, "N", DAILY_FILES_HELP),
        ]
    }

    /// Stall timeout of a stream, without a rate limit.
    pub(crate) fn stream_limits(&self) -> StreamLimits {
        StreamLimits {
            stall_timer: Some(StallTimer::new(self.stall_time.0, self.stall_rate.0)),
            rate_limiters: Vec::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = |seconds| Seconds(Duration::from_secs(seconds));
        Self {
            connections: 1024,
            connections_per_address: 64,
            handshakes: 256,
            validate_addresses: ValidateAddresses::Public,
            early_requests: 4,
            handshake_time: seconds(5),
            // As long as a path may be silent before its connection times out.
            request_time: seconds(30),
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

/// Which clients have to validate their address (RFC 9000 §8.1.2) before the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValidateAddresses {
    /// All.
    Always,
    /// Those with public addresses, which others on the Internet could spoof.
    Public,
    /// None, unless many handshakes are in progress.
    UnderLoad,
}

impl ValidateAddresses {
    const ALL: [Self; 3] = [Self::Always, Self::Public, Self::UnderLoad];

    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Public => "public",
            Self::UnderLoad => "under-load",
        }
    }
}

impl FromStr for ValidateAddresses {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or("expected always, public or under-load")
    }
}

impl fmt::Display for ValidateAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number, with a unit if it counts bytes, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit(pub Option<u64>);

impl Limit {
    /// Creates a limiter that delays what exceeds this many units a second.
    pub(crate) fn rate_limiter(self) -> Option<Arc<RateLimiter>> {
        self.0
            .map(|per_second| Arc::new(RateLimiter::new(per_second, BURST)))
    }

    /// Creates a limiter that counts events, with a burst of one second.
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
            // Ambiguous: in some programs 0 means no limit, in others that nothing passes.
            0 => Err("expected a number above 0, or none"),
            number => Ok(Self(Some(number))),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("none"),
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

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs().fmt(f)
    }
}

const HANDSHAKES_HELP: &str = "Handshakes at once; from a quarter of this on, every client has to \
    validate its address, and from half of it on, addresses with a 64th of it have to wait";

const VALIDATE_HELP: &str = "Clients that have to validate their address first, at the price of a \
    round trip (RFC 9000, 8.1.2): always (all), public (those with public addresses), or \
    under-load (none until many handshakes are in progress)";

const EARLY_HELP: &str = "Requests that a client may send before its rights are known";

const REQUEST_TIME_HELP: &str =
    "Time in seconds from the beginning of a stream to the end of its request";

const IDLE_TIME_HELP: &str = "Time in seconds after which a connection without requests is closed";

const STALL_TIME_HELP: &str = "Abort a transfer after it has been stalled for this many seconds \
    in total; progress earns time back (see --stall-rate)";

const STALL_RATE_HELP: &str = "Bytes of progress that earn back one second of --stall-time, which \
    makes this the lowest rate of a transfer in bytes per second";

const REQUEST_RATE_HELP: &str = "Requests per second of one connection; further ones are delayed";

const ABORT_RATE_HELP: &str = "Aborted or malformed requests per second of one connection; above \
    this rate the connection is closed";

const RATE_HELP: &str = "Bytes per second of all transfers together";

const RATE_PER_KEY_HELP: &str =
    "Bytes per second of one key's transfers; all clients without a key count as one";

const DAILY_BYTES_HELP: &str =
    "Bytes that one key may store per day; all clients without a key count as one";

const DAILY_FILES_HELP: &str = "Files and directories that one key may create per day; all clients \
    without a key count as one";

#[cfg(test)]
mod tests {
    use super::*;

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
