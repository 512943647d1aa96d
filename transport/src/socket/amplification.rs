//! What may be sent to an address that nobody has proved to hold.
//!
//! RFC 9000, §8.1, allows three times what came from it, so that nobody is flooded through this
//! machine in somebody else's name. quinn keeps to that up to one datagram: as long as anything is
//! allowed, it sends a full one. Here what would go beyond is left out, as if it had been lost; the
//! client, if there is one, asks again, and has more to its credit then.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// The addresses that aren't proved. Clones stand for the same ones.
#[derive(Debug, Clone, Default)]
pub struct AmplificationLimit(Arc<Accounts>);

#[derive(Debug, Default)]
struct Accounts {
    /// How many there are, so that a server without any has nothing to look up.
    count: AtomicUsize,
    by_address: Mutex<HashMap<SocketAddr, Account>>,
}

/// What has come and gone, in bytes.
#[derive(Debug, Default)]
struct Account {
    received: u64,
    sent: u64,
    connections: usize,
}

impl AmplificationLimit {
    /// Limits what `remote` is sent, until the guard is dropped, to what it has to its credit: its
    /// first datagram, which has come already, and what comes from now on.
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

    /// Counts bytes that came.
    pub(super) fn received(&self, remote: SocketAddr, bytes: usize) {
        if self.is_empty() {
            return;
        }
        if let Some(account) = self.accounts().get_mut(&remote) {
            account.received += bytes as u64;
        }
    }

    /// Whether `bytes` may go, which then count as gone.
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

/// An address that is limited until this is dropped.
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

/// RFC 9000, §8.1.
const SENT_PER_RECEIVED: u64 = 3;

/// What a client's first datagram has at least (RFC 9000, §14.1); quinn drops shorter ones.
const FIRST_DATAGRAM_BYTES: u64 = 1200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unvalidated_address_is_sent_three_times_what_came_from_it() {
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
        // A second connection of the same address, of which nobody knows whether it's the same.
        let second = amplification.limit(one);
        assert!(amplification.take(one, 3600 + 30));
        drop(first);
        assert!(!amplification.take(one, 1));
        drop(second);
        assert!(amplification.take(one, 10_000));
        assert!(amplification.is_empty());
    }
}
