//! Counters of reached limits, since the start.
//!
//! The log shows the counters when the server stops, and once a minute while they change. A refused
//! connection is itself only a debug record: an attack would fill the log otherwise.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::info;

/// Declares each counter once: its field, which is also its name in the log, and its description.
macro_rules! counters {
    ($($name:ident $doc:literal;)*) => {
        /// Counters of reached limits.
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
    handshakes "Connections refused, or ignored for now, because of too many open handshakes.";
    retries "Connections answered with a Retry packet to validate their address.";
    handshake_time "Handshakes that took too long.";
    not_authorized "Connections closed because the client had no rights.";
    revoked "Connections closed because the rights of the client were revoked.";
    request_time "Requests that took too long to arrive.";
    stall_time "Transfers aborted because the client stalled them.";
    idle_time "Connections closed because they had no request.";
    abort_rate "Connections closed because the client cancelled too many requests.";
    quota "Changes refused because of a daily quota.";
}

impl Metrics {
    /// Logs the counters each minute in which they changed. Never completes.
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

    /// Logs the counters that aren't 0, if any.
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

/// Counter of events; never decreases.
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

/// Interval at which changed counters are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_not_0_are_shown_by_name() {
        let counters = Metrics::default();
        assert_eq!(counters.to_string(), "");
        counters.retries.add_one();
        counters.retries.add_one();
        counters.quota.add_one();
        assert_eq!(counters.to_string(), "retries 2, quota 1");
    }
}
