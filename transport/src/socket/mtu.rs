//! Path MTU discovery (RFC 8899), bounded by the MTU of the route.
//!
//! quinn searches by bisection, and every size that is too large costs three lost probes. An upper
//! bound far above the path MTU costs dozens of round trips at the smallest MTU. The kernel knows
//! the MTU of the route, so that is the upper bound.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use quinn::MtuDiscoveryConfig;

use super::any_local_addr_for;

/// Returns the configuration of MTU discovery towards `remote`.
///
/// It depends on the peer, so each connection needs a transport configuration of its own.
pub(crate) fn mtu_discovery(remote: SocketAddr) -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    if let Some(upper_bound) = path_payload_max(remote) {
        config.upper_bound(upper_bound);
    }
    config
}

/// Returns the largest UDP payload on the route to `remote` that this machine knows of, in bytes;
/// `None` where the system doesn't report it. Sends nothing.
pub(super) fn path_payload_max(remote: SocketAddr) -> Option<u16> {
    match route_mtu(remote) {
        Ok(mtu) => Some(payload_max(remote, mtu?)),
        Err(error) => {
            tracing::debug!(%error, %remote, "no MTU known for the route");
            None
        }
    }
}

/// Returns the MTU of the interface, or of the path if an earlier connection discovered it.
#[cfg(target_os = "linux")]
fn route_mtu(remote: SocketAddr) -> io::Result<Option<u32>> {
    use rustix::net::sockopt;
    let socket = UdpSocket::bind(any_local_addr_for(remote))?;
    // Looks up the route only: connecting a UDP socket sends no packet.
    socket.connect(remote)?;
    let mtu = match remote {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    };
    Ok(Some(mtu))
}

#[cfg(not(target_os = "linux"))]
fn route_mtu(_remote: SocketAddr) -> io::Result<Option<u32>> {
    Ok(None)
}

fn payload_max(remote: SocketAddr, mtu: u32) -> u16 {
    let headers = match remote {
        SocketAddr::V4(_) => IPV4_UDP_HEADER_BYTES,
        SocketAddr::V6(_) => IPV6_UDP_HEADER_BYTES,
    };
    let payload = mtu.min(MTU_MAX).saturating_sub(headers);
    u16::try_from(payload).unwrap_or(u16::MAX)
}

/// IPv4 header without options (RFC 791) and UDP header, in bytes.
const IPV4_UDP_HEADER_BYTES: u32 = 20 + 8;

/// IPv6 header without extensions (RFC 8200) and UDP header, in bytes.
const IPV6_UDP_HEADER_BYTES: u32 = 40 + 8;

/// The largest MTU to search for, in bytes: that of jumbo frames.
///
/// Loopback carries more, but a larger MTU gains nothing there. The first probe, half the bound,
/// would fill the initial congestion window (RFC 9002, §7.2). Other data would wait for its
/// acknowledgement, and a `CONNECTION_CLOSE` that has to wait is never sent (see `close.rs`).
const MTU_MAX: u32 = 9000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_the_mtu_less_the_headers() {
        let v4 = SocketAddr::from(([192, 0, 2, 1], 1));
        let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 1));
        assert_eq!(payload_max(v4, 1500), 1472);
        assert_eq!(payload_max(v6, 1500), 1452);
        assert_eq!(payload_max(v4, 9000), 8972);
        assert_eq!(payload_max(v4, 65_536), 8972);
        assert_eq!(payload_max(v6, u32::MAX), 8952);
        assert_eq!(payload_max(v4, 20), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn loopback_carries_more_than_ethernet() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 9));
        assert!(path_payload_max(remote).is_some_and(|payload| payload > 1472));
    }
}
