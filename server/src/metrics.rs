//! How often each limit was met, since the start.
//!
//! The log shows them when the server stops, and once a minute while they move. Every event is
//! logged as well, but an attack would fill the log if it were more than a debug record.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::info;

/// Declares the counters once: field, and what is counted, which is also its name in the log.
macro_rules! counters {
    ($($name:ident $doc:literal;)*) => {
        /// How often each limit was met.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(#[doc = $doc] pub(crate) $name: Counter,)*
        }

        impl Metrics {
            fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.count())),*]
            }
        }
    };
}

counters! {
    connections "Connections refused because there were too many.";
    connections_per_address "Connections refused because their address had too many.";
    handshakes "Connections refused, or made to wait, because too many handshakes were under way.";
    retries "Connections that had to prove their address first.";
    handshake_time "Handshakes that took too long.";
    not_authorized "Clients sent away because they had no rights.";
    revoked "Connections ended because their rights were taken away.";
    request_time "Requests that took too long to arrive.";
    stall_time "Transfers cut off because the client kept them waiting.";
    idle_time "Connections closed because they had no request.";
    abort_rate "Connections closed because they gave up too many requests.";
    quota "Changes refused because of a daily quota.";
}

impl Metrics {
    /// Logs the counters whenever they have moved, for as long as it is waited for.
    pub(crate) async fn keep_logging(&self) {
        let mut logged = self.total();
        loop {
            tokio::time::sleep(LOG_INTERVAL).await;
            let total = self.total();
            if total != logged {
                self.log();
                logged = total;
            }
        }
    }

    /// Logs the counters that aren't 0, if there are any.
    pub(crate) fn log(&self) {
        if self.total() > 0 {
            info!("limits met: {self}");
        }
    }

    fn total(&self) -> u64 {
        self.all().iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, count) in self.all() {
            if count > 0 {
                write!(f, "{separator}{name} {count}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Between two records of counters that move.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_moved_are_shown_by_name() {
        let counters = Metrics::default();
        assert_eq!(counters.to_string(), "");
        counters.retries.add_one();
        counters.retries.add_one();
        counters.quota.add_one();
        assert_eq!(counters.to_string(), "retries 2, quota 1");
    }
}
