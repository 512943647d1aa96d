//! Whom an endpoint lets begin: how many connections there may be, and from where.
//!
//! An address that nobody has proved to hold costs nothing but a token (Retry of RFC 9000,
//! §8.1.2) as soon as many handshakes are under way, or many connections of that address. Only
//! proved addresses can use up what an address may have, so nobody can do that for another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quire_transport::socket::{AmplificationLimit, Unvalidated};

use crate::config::limits::{Limits, ValidateAddresses};
use crate::metrics::{Counter, Metrics};

/// The connections that there are.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    amplification: AmplificationLimit,
    open: Arc<Mutex<OpenConnections>>,
}

#[derive(Debug, Default)]
struct OpenConnections {
    total: u32,
    handshakes: u32,
    /// Addresses with at least one connection.
    by_address: HashMap<IpAddr, Held>,
}

/// What one address has.
#[derive(Debug, Default, Clone, Copy)]
struct Held {
    connections: u32,
    /// Those of them whose handshake isn't over.
    handshakes: u32,
}

/// What to do with a client that wants to connect.
#[derive(Debug)]
pub(crate) enum Admittance {
    /// Let it.
    Admit(Admitted),
    /// Have it prove its address first.
    Prove,
    /// Answer nothing, so that it asks again a little later.
    Wait,
    /// Refuse it, for this reason.
    Refuse(&'static str),
}

impl Admission {
    /// Nobody yet; what is sent to clients that haven't proved their address is up to `credit`.
    pub(crate) fn new(
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
        amplification: AmplificationLimit,
    ) -> Self {
        Self {
            limits,
            metrics,
            amplification,
            open: Arc::default(),
        }
    }

    /// Decides on a client at `remote`, which is proved to be its own or not.
    pub(crate) fn judge(&self, remote: SocketAddr, is_proved: bool) -> Admittance {
        let (limits, metrics) = (&self.limits, &self.metrics);
        let address = network(remote.ip());
        let mut open = self.open();
        let held = open.by_address.get(&address).copied().unwrap_or_default();
        let refuse = |counter: &Counter, reason| {
            counter.add_one();
            Admittance::Refuse(reason)
        };
        let has_to_prove = open.handshakes >= limits.handshakes.div_ceil(4)
            || held.connections >= limits.connections_per_address.div_ceil(2)
            || match limits.validate_addresses {
                ValidateAddresses::Always => true,
                ValidateAddresses::Public => is_public(remote.ip().to_canonical()),
                ValidateAddresses::UnderLoad => false,
            };
        if has_to_prove && !is_proved {
            metrics.retries.add_one();
            return Admittance::Prove;
        }
        if open.total >= limits.connections {
            return refuse(&metrics.connections, "too many connections");
        }
        if open.handshakes >= limits.handshakes {
            return refuse(&metrics.handshakes, "too many handshakes");
        }
        if held.connections >= limits.connections_per_address {
            let reason = "too many connections of one address";
            return refuse(&metrics.connections_per_address, reason);
        }
        // The second half is for addresses that have next to none, so that a few addresses can't
        // keep all others out by handshakes that they draw out.
        let is_scarce = open.handshakes >= limits.handshakes.div_ceil(2);
        if is_scarce && held.handshakes >= limits.handshakes.div_ceil(SHARES) {
            metrics.handshakes.add_one();
            return Admittance::Wait;
        }
        open.total += 1;
        open.handshakes += 1;
        let held = open.by_address.entry(address).or_default();
        held.connections += 1;
        held.handshakes += 1;
        Admittance::Admit(Admitted {
            address,
            unproved: (!is_proved).then(|| self.amplification.limit(remote)),
            is_in_handshake: true,
            open: Arc::clone(&self.open),
        })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock()
    }
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    address: IpAddr,
    /// Limits what it is sent as long as its address isn't proved.
    unproved: Option<Unvalidated>,
    is_in_handshake: bool,
    open: Arc<Mutex<OpenConnections>>,
}

impl Admitted {
    /// Notes that the handshake is over, and its address proved.
    pub(crate) fn handshake_over(&mut self) {
        self.unproved = None;
        if std::mem::take(&mut self.is_in_handshake) {
            let mut open = self.open.lock();
            open.handshakes = open.handshakes.saturating_sub(1);
            if let Some(held) = open.by_address.get_mut(&self.address) {
                held.handshakes = held.handshakes.saturating_sub(1);
            }
        }
    }

    /// Keeps counting a connection whose handshake has failed for as long as quinn may keep it:
    /// its state takes memory whether or not anybody can still use it, and a client that ends its
    /// connections as fast as it begins them would have any number of them. Those of addresses
    /// that aren't proved still count as handshakes, so that many of them make all clients prove
    /// theirs; those of others count as connections of their address.
    pub(crate) async fn linger(mut self, time: Duration) {
        if self.unproved.is_none() {
            self.handshake_over();
        }
        tokio::time::sleep(time).await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.handshake_over();
        let mut open = self.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Entry::Occupied(mut entry) = open.by_address.entry(self.address) {
            let held = entry.get_mut();
            held.connections = held.connections.saturating_sub(1);
            if held.connections == 0 {
                entry.remove();
            }
        }
    }
}

/// Of handshakes that are scarce an address may have one in so many.
const SHARES: u32 = 64;

/// What counts as one address: of IPv6 the network that one subscriber has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// Whether the address is one of the open Internet, and not of this machine or a private network.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let is_shared = matches!(address.octets(), [100, 64..=127, ..]);
            !(address.is_private() || address.is_loopback() || address.is_link_local() || is_shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    fn admission(change: impl FnOnce(&mut Limits)) -> Admission {
        let mut limits = Limits {
            validate_addresses: ValidateAddresses::UnderLoad,
            ..Limits::default()
        };
        change(&mut limits);
        Admission::new(
            Arc::new(limits),
            Arc::default(),
            AmplificationLimit::default(),
        )
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 7))
    }

    fn admit(verdict: Admittance) -> Admitted {
        match verdict {
            Admittance::Admit(admitted) => admitted,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_limit_holds_and_is_given_back() {
        for (change, addresses) in [
            (
                (|limits: &mut Limits| limits.connections = 8) as fn(&mut Limits),
                100,
            ),
            (|limits| limits.connections_per_address = 8, 1),
            (|limits| limits.handshakes = 8, 100),
        ] {
            let admission = admission(change);
            let mut admitted = Vec::new();
            for number in 0..8 {
                let verdict = admission.judge(address(number % addresses), true);
                admitted.push(admit(verdict));
            }
            let verdict = admission.judge(address(0), true);
            assert!(matches!(verdict, Admittance::Refuse(_)), "{verdict:?}");
            admitted.pop();
            admit(admission.judge(address(7 % addresses), true));
            drop(admitted);
            let open = admission.open();
            assert_eq!((open.total, open.handshakes), (0, 0));
            assert!(open.by_address.is_empty());
        }
    }

    #[test]
    fn a_handshake_that_is_over_makes_room_for_another() {
        let admission = admission(|limits| limits.handshakes = 1);
        let mut first = admit(admission.judge(address(1), true));
        assert!(matches!(
            admission.judge(address(2), true),
            Admittance::Refuse(_)
        ));
        first.handshake_over();
        admit(admission.judge(address(2), true));
    }

    #[test]
    fn a_few_addresses_do_not_get_all_handshakes() {
        let admission = admission(|limits| limits.handshakes = 256);
        let mut admitted = Vec::new();
        for number in 0..128 {
            admitted.push(admit(admission.judge(address(number % 4), true)));
        }
        for number in 0..4 {
            let verdict = admission.judge(address(number), true);
            assert!(matches!(verdict, Admittance::Wait), "{verdict:?}");
        }
        for number in 0..128 {
            admitted.push(admit(admission.judge(address(100 + number / 4), true)));
        }
        let verdict = admission.judge(address(99), true);
        assert!(matches!(verdict, Admittance::Refuse(_)), "{verdict:?}");
        for one in admitted.iter_mut().skip(128) {
            one.handshake_over();
        }
        admitted.drain(..4);
        admit(admission.judge(address(0), true));
    }

    #[tokio::test]
    async fn a_failed_handshake_counts_until_quinn_has_forgotten_it() {
        for is_proved in [true, false] {
            let admission = admission(|limits| limits.handshakes = 8);
            let admitted = admit(admission.judge(address(1), is_proved));
            let mut lingering = Box::pin(admitted.linger(Duration::from_millis(1)));
            let first = poll_fn(|context| Poll::Ready(lingering.as_mut().poll(context)));
            assert!(first.await.is_pending());
            assert_eq!(admission.open().total, 1);
            assert_eq!(admission.open().by_address.len(), 1);
            assert_eq!(admission.open().handshakes, u32::from(!is_proved));
            lingering.await;
            let open = admission.open();
            assert_eq!((open.total, open.handshakes), (0, 0));
        }
    }

    #[test]
    fn under_load_addresses_have_to_be_proved() {
        let admission = admission(|limits| limits.handshakes = 8);
        let _one = admit(admission.judge(address(1), false));
        let _two = admit(admission.judge(address(2), false));
        assert!(matches!(
            admission.judge(address(3), false),
            Admittance::Prove
        ));
        admit(admission.judge(address(3), true));
    }

    #[test]
    fn nobody_uses_up_the_connections_of_an_address_that_isnt_his() {
        let admission = admission(|limits| limits.connections_per_address = 4);
        let _spoofed: Vec<_> = (0..2)
            .map(|_| admit(admission.judge(address(1), false)))
            .collect();
        assert!(matches!(
            admission.judge(address(1), false),
            Admittance::Prove
        ));
        let _real: Vec<_> = (0..2)
            .map(|_| admit(admission.judge(address(1), true)))
            .collect();
    }

    #[test]
    fn addresses_of_the_open_internet_have_to_be_proved() {
        let public = admission(|limits| limits.validate_addresses = ValidateAddresses::Public);
        let has_to = |address: &str| {
            let verdict = public.judge(SocketAddr::new(address.parse().unwrap(), 7), false);
            matches!(verdict, Admittance::Prove)
        };
        for address in ["192.0.2.1", "8.8.8.8", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(has_to(address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "192.168.0.9",
            "172.16.0.1",
            "100.64.0.1",
            "169.254.1.1",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!has_to(address), "{address}");
        }
        let always = admission(|limits| limits.validate_addresses = ValidateAddresses::Always);
        let verdict = always.judge(address(1), false);
        assert!(matches!(verdict, Admittance::Prove));
        admit(always.judge(address(1), true));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let parse = |text: &str| network(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), address(1).ip());
    }
}
