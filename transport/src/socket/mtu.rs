//! How large a datagram towards a peer may become.
//!
//! Path MTU discovery is a binary search in which each size that is too large costs three lost
//! probes, so an upper bound far above the truth costs dozens of round trips at the smallest MTU.
//! The kernel knows the MTU of the route, and that bounds the search from above.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use quinn::MtuDiscoveryConfig;

use super::any_local_addr_for;

/// MTU discovery towards `remote`, up to what the route there carries.
///
/// Belongs into the transport configuration of one connection, as peers differ.
pub(crate) fn mtu_discovery(remote: SocketAddr) -> MtuDiscoveryConfig {
    let mut config = MtuDiscoveryConfig::default();
    if let Some(upper_bound) = path_payload_max(remote) {
        config.upper_bound(upper_bound);
    }
    config
}

/// The largest UDP payload, in bytes, that the route to `remote` carries as far as this machine
/// knows; `None` where the system doesn't tell.
///
/// Sends nothing.
pub(super) fn path_payload_max(remote: SocketAddr) -> Option<u16> {
    match route_mtu(remote) {
        Ok(mtu) => Some(payload_max(remote, mtu?)),
        Err(error) => {
            tracing::debug!(%error, %remote, "no MTU known for the route");
            None
        }
    }
}

/// The MTU of the interface, or of the path where an earlier connection has found it out.
#[cfg(target_os = "linux")]
fn route_mtu(remote: SocketAddr) -> io::Result<Option<u32>> {
    use rustix::net::sockopt;
    let socket = UdpSocket::bind(any_local_addr_for(remote))?;
    // Only looks up the route: connecting a UDP socket sends no packet.
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

/// IPv4 header without options (RFC 791), and UDP header.
const IPV4_UDP_HEADER_BYTES: u32 = 20 + 8;

/// IPv6 header without extensions (RFC 8200), and UDP header.
const IPV6_UDP_HEADER_BYTES: u32 = 40 + 8;

/// The MTU of jumbo frames, the largest that networks have. Loopback carries more, but nothing is
/// gained by that, and the first probe of the search, half the bound, would fill the initial
/// congestion window (RFC 9002, §7.2): what is to be sent meanwhile waits for its acknowledgement,
/// and a close that has to wait is never sent.
const MTU_MAX: u32 = 9000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_what_the_headers_leave_of_the_mtu() {
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
