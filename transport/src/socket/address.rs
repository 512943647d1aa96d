//! Text forms of IP addresses that people type: short ones, and those of one link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

/// Parses an IP address, also in the short forms of IPv4 that other programs accept, such as
/// `127.1` (inet(3)). Octal numbers aren't accepted: few who write a leading zero mean one.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| short_ipv4(text).map(IpAddr::V4))
}

/// Parses an IPv4 address of up to three numbers, of which the last stands for all bytes left.
fn short_ipv4(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    let bytes_left = 4_u32.checked_sub(u32::try_from(first.len()).ok()?)?;
    if bytes_left == 0 || u64::from(*last) >> (8 * bytes_left) != 0 {
        return None;
    }
    let mut bits = *last;
    for (place, byte) in first.iter().enumerate() {
        let shift = 24 - 8 * u32::try_from(place).ok()?;
        bits |= u32::from(u8::try_from(*byte).ok()?) << shift;
    }
    Some(Ipv4Addr::from_bits(bits))
}

fn number(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if let Some(digits) = digits {
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        return u32::from_str_radix(digits, 16).ok().filter(|_| is_hex);
    }
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_octal = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| is_decimal && !is_octal)
}

/// An IPv6 address and the interface to whose link it belongs (RFC 4007, §11), as `fe80::1%eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZonedAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// The interface: its name, or its number.
    pub zone: String,
}

impl ZonedAddress {
    /// Parses `ADDRESS%ZONE`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, zone) = text.split_once('%')?;
        let is_name = !zone.is_empty() && !zone.contains(['%', ']', '/']);
        let address = address.parse().ok().filter(|_| is_name)?;
        let zone = zone.to_owned();
        Some(Self { address, zone })
    }

    /// The address of a socket, with the number of the interface; `None` if this machine has no such
    /// interface.
    pub fn with_port(&self, port: u16) -> Option<SocketAddr> {
        // The resolver of the system knows the interfaces. An address isn't looked up anywhere.
        (self.to_string().as_str(), port)
            .to_socket_addrs()
            .ok()?
            .next()
    }
}

impl std::fmt::Display for ZonedAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%{}", self.address, self.zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_addresses_are_those_of_other_programs() {
        let shown = |text: &str| parse_ip(text).map(|address| address.to_string());
        for (text, address) in [
            ("127.1", "127.0.0.1"),
            ("10.1.2", "10.1.0.2"),
            ("10.1.513", "10.1.2.1"),
            ("2130706433", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(address), "{text}");
        }
        for text in [
            "",
            ".",
            "1.",
            ".1",
            "256.1",
            "1.2.3.4.5",
            "1.16777216",
            "4294967296",
            "010.1",
            "0x",
            "0x+1",
            "+1",
            "a",
            "1.2.3.256",
        ] {
            assert_eq!(parse_ip(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_of_a_link_has_the_number_of_its_interface() {
        let loopback = ZonedAddress::parse("fe80::1%1").unwrap();
        assert_eq!(loopback.to_string(), "fe80::1%1");
        let SocketAddr::V6(address) = loopback.with_port(9).unwrap() else {
            panic!("not IPv6");
        };
        assert_eq!((address.scope_id(), address.port()), (1, 9));
        let missing = ZonedAddress::parse("fe80::1%no-such-interface").unwrap();
        assert_eq!(missing.with_port(9), None);
        for text in ["fe80::1", "127.0.0.1%1", "fe80::1%", "fe80::1%a%b", "%1"] {
            assert_eq!(ZonedAddress::parse(text), None, "{text}");
        }
    }
}
