//! Connection admission: global and per-address limits, and address validation (RFC 9000, section
//! 8.1).
//!
//! While many handshakes are in progress, or an address has many connections, a client gets only a
//! Retry packet (section 8.1.2) until its address is validated. A Retry costs the server no
//! state. Only validated addresses can use up the connections of an address, so an attacker with
//! spoofed addresses can't lock out their owners.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quire_transport::socket::{AmplificationLimit, Unvalidated};

use crate::config::limits::{Limits, ValidateAddresses};
use crate::metrics::{Counter, Metrics};

/// Decides which connections are accepted, and counts the open ones. Clones share the counts.
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
    by_address: HashMap<IpAddr, AddressCounts>,
}

/// Counts of one address.
#[derive(Debug, Default, Clone, Copy)]
struct AddressCounts {
    connections: u32,
    /// Connections among them whose handshake is in progress.
    handshakes: u32,
}

/// Decision on a client that wants to connect.
#[derive(Debug)]
pub(crate) enum Admittance {
    /// Accept the connection.
    Admit(Admitted),
    /// Send a Retry packet, so that the client validates its address (RFC 9000, section 8.1.2).
    Validate,
    /// Ignore the packet: the client retransmits it a little later.
    Ignore,
    /// Refuse the connection, for this reason.
    Refuse(&'static str),
}

impl Admission {
    /// Makes an admission without connections. `amplification` limits what is sent to addresses
    /// that aren't validated.
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

    /// Decides on a new connection from `remote`, whose address is validated or not.
    pub(crate) fn judge(&self, remote: SocketAddr, is_validated: bool) -> Admittance {
        let limits = &self.limits;
        let metrics = &self.metrics;
        let address = network(remote.ip());
        let mut open = self.open();
        let of_address = open.by_address.get(&address).copied().unwrap_or_default();
        let refuse = |counter: &Counter, reason| {
            counter.add_one();
            Admittance::Refuse(reason)
        };
        let must_validate = open.handshakes >= limits.handshakes.div_ceil(4)
            || of_address.connections >= limits.connections_per_address.div_ceil(2)
            || match limits.validate_addresses {
                ValidateAddresses::Always => true,
                ValidateAddresses::Public => is_public(remote.ip().to_canonical()),
                ValidateAddresses::UnderLoad => false,
            };
        if must_validate && !is_validated {
            metrics.retries.add_one();
            return Admittance::Validate;
        }
        if open.total >= limits.connections {
            return refuse(&metrics.connections, "too many connections");
        }
        if open.handshakes >= limits.handshakes {
            return refuse(&metrics.handshakes, "too many handshakes");
        }
        if of_address.connections >= limits.connections_per_address {
            let reason = "too many connections from one address";
            return refuse(&metrics.connections_per_address, reason);
        }
        // The second half of the handshakes is reserved for addresses with few of them. Otherwise a
        // few addresses could block all others with handshakes that they never complete.
        let is_scarce = open.handshakes >= limits.handshakes.div_ceil(2);
        if is_scarce && of_address.handshakes >= limits.handshakes.div_ceil(SHARES) {
            metrics.handshakes.add_one();
            return Admittance::Ignore;
        }
        open.total += 1;
        open.handshakes += 1;
        let of_address = open.by_address.entry(address).or_default();
        of_address.connections += 1;
        of_address.handshakes += 1;
        Admittance::Admit(Admitted {
            address,
            unvalidated: (!is_validated).then(|| self.amplification.limit(remote)),
            is_in_handshake: true,
            open: Arc::clone(&self.open),
        })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock()
    }
}

/// Admitted connection; counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    address: IpAddr,
    /// Anti-amplification limit, as long as the address isn't validated (RFC 9000, section 8.1).
    unvalidated: Option<Unvalidated>,
    is_in_handshake: bool,
    open: Arc<Mutex<OpenConnections>>,
}

impl Admitted {
    /// Stops counting the handshake, and lifts the anti-amplification limit: a complete handshake
    /// validates the address.
    pub(crate) fn end_handshake(&mut self) {
        self.unvalidated = None;
        if std::mem::take(&mut self.is_in_handshake) {
            let mut open = self.open.lock();
            open.handshakes = open.handshakes.saturating_sub(1);
            if let Some(of_address) = open.by_address.get_mut(&self.address) {
                of_address.handshakes = of_address.handshakes.saturating_sub(1);
            }
        }
    }

    /// Keeps counting a connection whose handshake has failed, for the `time` that quinn may keep
    /// it.
    ///
    /// Its state takes memory although it is of no use any more. Without this, a client that closes
    /// its connections as fast as it opens them would have any number of them. Connections from
    /// addresses that aren't validated still count as handshakes, so many of them make all clients
    /// validate their addresses. Other connections count as connections of their address.
    pub(crate) async fn linger(mut self, time: Duration) {
        if self.unvalidated.is_none() {
            self.end_handshake();
        }
        tokio::time::sleep(time).await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end_handshake();
        let mut open = self.open.lock();
        open.total = open.total.saturating_sub(1);
        if let Entry::Occupied(mut entry) = open.by_address.entry(self.address) {
            let of_address = entry.get_mut();
            of_address.connections = of_address.connections.saturating_sub(1);
            if of_address.connections == 0 {
                entry.remove();
            }
        }
    }
}

/// Divisor of an address's share of the handshakes, while they are scarce.
const SHARES: u32 = 64;

/// Maps an address to what counts as one: of IPv6 the /64 network, which is what one subscriber
/// has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
    }
}

/// Whether the address is a public one: not of this machine, a private network or shared address
/// space (RFC 6598).
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
    fn each_limit_holds_and_dropped_connections_are_not_counted() {
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
    fn a_complete_handshake_makes_room_for_another() {
        let admission = admission(|limits| limits.handshakes = 1);
        let mut first = admit(admission.judge(address(1), true));
        assert!(matches!(
            admission.judge(address(2), true),
            Admittance::Refuse(_)
        ));
        first.end_handshake();
        admit(admission.judge(address(2), true));
    }

    #[test]
    fn a_few_addresses_can_not_take_all_handshakes() {
        let admission = admission(|limits| limits.handshakes = 256);
        let mut admitted = Vec::new();
        for number in 0..128 {
            admitted.push(admit(admission.judge(address(number % 4), true)));
        }
        for number in 0..4 {
            let verdict = admission.judge(address(number), true);
            assert!(matches!(verdict, Admittance::Ignore), "{verdict:?}");
        }
        for number in 0..128 {
            admitted.push(admit(admission.judge(address(100 + number / 4), true)));
        }
        let verdict = admission.judge(address(99), true);
        assert!(matches!(verdict, Admittance::Refuse(_)), "{verdict:?}");
        for one in admitted.iter_mut().skip(128) {
            one.end_handshake();
        }
        admitted.drain(..4);
        admit(admission.judge(address(0), true));
    }

    #[tokio::test]
    async fn a_failed_handshake_counts_until_quinn_has_forgotten_it() {
        for is_validated in [true, false] {
            let admission = admission(|limits| limits.handshakes = 8);
            let admitted = admit(admission.judge(address(1), is_validated));
            let mut lingering = Box::pin(admitted.linger(Duration::from_millis(1)));
            let first = poll_fn(|context| Poll::Ready(lingering.as_mut().poll(context)));
            assert!(first.await.is_pending());
            assert_eq!(admission.open().total, 1);
            assert_eq!(admission.open().by_address.len(), 1);
            assert_eq!(admission.open().handshakes, u32::from(!is_validated));
            lingering.await;
            let open = admission.open();
            assert_eq!((open.total, open.handshakes), (0, 0));
        }
    }

    #[test]
    fn under_load_addresses_must_be_validated() {
        let admission = admission(|limits| limits.handshakes = 8);
        let _one = admit(admission.judge(address(1), false));
        let _two = admit(admission.judge(address(2), false));
        assert!(matches!(
            admission.judge(address(3), false),
            Admittance::Validate
        ));
        admit(admission.judge(address(3), true));
    }

    #[test]
    fn spoofed_addresses_do_not_use_up_the_connections_of_their_owner() {
        let admission = admission(|limits| limits.connections_per_address = 4);
        let _spoofed: Vec<_> = (0..2)
            .map(|_| admit(admission.judge(address(1), false)))
            .collect();
        assert!(matches!(
            admission.judge(address(1), false),
            Admittance::Validate
        ));
        let _real: Vec<_> = (0..2)
            .map(|_| admit(admission.judge(address(1), true)))
            .collect();
    }

    #[test]
    fn public_addresses_must_be_validated() {
        let public = admission(|limits| limits.validate_addresses = ValidateAddresses::Public);
        let must_validate = |address: &str| {
            let verdict = public.judge(SocketAddr::new(address.parse().unwrap(), 7), false);
            matches!(verdict, Admittance::Validate)
        };
        for address in ["192.0.2.1", "8.8.8.8", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(must_validate(address), "{address}");
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
            assert!(!must_validate(address), "{address}");
        }
        let always = admission(|limits| limits.validate_addresses = ValidateAddresses::Always);
        let verdict = always.judge(address(1), false);
        assert!(matches!(verdict, Admittance::Validate));
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
