//! Anti-amplification limit for unvalidated addresses (RFC 9000, §8.1).
//!
//! An endpoint may send at most three times the bytes that it received from an unvalidated address.
//! Otherwise an attacker with a forged source address could flood a victim through this machine.
//! quinn may exceed the limit by up to one datagram: it sends a full one as long as anything is
//! allowed. So datagrams above the limit are dropped here, as if the network had lost them. A real
//! client retransmits, which raises its limit.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// The unvalidated addresses of an endpoint. Clones refer to the same addresses.
#[derive(Debug, Clone, Default)]
pub struct AmplificationLimit(Arc<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    /// Number of addresses, so that a server without any takes no lock.
    count: AtomicUsize,
    by_address: Mutex<HashMap<SocketAddr, Account>>,
}

/// Bytes from and to one address.
#[derive(Debug, Default)]
struct Account {
    received: u64,
    sent: u64,
    connections: usize,
}

impl AmplificationLimit {
    /// Limits what is sent to `remote` until the guard is dropped.
    ///
    /// Its first datagram has arrived already, so it counts as received.
    pub fn limit(&self, remote: SocketAddr) -> Unvalidated {
        let mut accounts = self.accounts();
        let account = accounts.entry(remote).or_default();
        account.received += FIRST_DATAGRAM_BYTES;
        account.connections += 1;
        self.0.count.store(accounts.len(), Ordering::Relaxed);
        Unvalidated {
            amplification: self.clone(),
            remote,
        }
    }

    /// Counts bytes received from `remote`.
    pub(super) fn received(&self, remote: SocketAddr, bytes: usize) {
        if self.is_empty() {
            return;
        }
        if let Some(account) = self.accounts().get_mut(&remote) {
            account.received += bytes as u64;
        }
    }

    /// Whether `bytes` may be sent to `remote`. If so, counts them as sent.
    pub(super) fn take(&self, remote: SocketAddr, bytes: usize) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut accounts = self.accounts();
        let Some(account) = accounts.get_mut(&remote) else {
            return true;
        };
        let sent = account.sent + bytes as u64;
        if sent > account.received.saturating_mul(SENT_PER_RECEIVED) {
            return false;
        }
        account.sent = sent;
        true
    }

    fn is_empty(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) == 0
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<SocketAddr, Account>> {
        self.0.by_address.lock()
    }
}

/// A guard: its address is limited until it is dropped, once the address is validated.
#[derive(Debug)]
pub struct Unvalidated {
    amplification: AmplificationLimit,
    remote: SocketAddr,
}

impl Drop for Unvalidated {
    fn drop(&mut self) {
        let mut accounts = self.amplification.accounts();
        if let Some(account) = accounts.get_mut(&self.remote) {
            account.connections -= 1;
            if account.connections == 0 {
                accounts.remove(&self.remote);
            }
        }
        let count = accounts.len();
        self.amplification.0.count.store(count, Ordering::Relaxed);
    }
}

/// The factor of RFC 9000, §8.1.
const SENT_PER_RECEIVED: u64 = 3;

/// The smallest first datagram of a client, in bytes (RFC 9000, §14.1). quinn drops shorter ones.
const FIRST_DATAGRAM_BYTES: u64 = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unvalidated_address_is_sent_three_times_what_it_sent() {
        let amplification = AmplificationLimit::default();
        let [one, other] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 7)));
        let first = amplification.limit(one);
        assert!(amplification.take(one, 3599));
        assert!(!amplification.take(one, 2));
        assert!(amplification.take(one, 1));
        assert!(amplification.take(other, 10_000));
        amplification.received(one, 10);
        amplification.received(other, 10);
        assert!(!amplification.take(one, 31));
        // A second connection from the same address raises the limit by its own first datagram.
        let second = amplification.limit(one);
        assert!(amplification.take(one, 3600 + 30));
        drop(first);
        assert!(!amplification.take(one, 1));
        drop(second);
        assert!(amplification.take(one, 10_000));
        assert!(amplification.is_empty());
    }
}
