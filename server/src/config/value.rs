//! Values of settings: how each kind is read from text and shown as TOML.
//!
//! A flag, an environment variable and a key of the file hold the same text, so one reader serves
//! all three, and a mistake has the same message everywhere.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use quire_transport::congestion::CongestionControl;
use quire_transport::socket::address::{ZonedAddress, parse_ip};

use crate::auth::rules::Rules;
use crate::config::limits::{Limit, Seconds, ValidateAddresses};

/// Value of one setting, independent of its type.
pub(crate) trait SettingValue {
    /// How the value is written.
    fn form(&self) -> Form {
        Form::Text
    }

    /// Parses `texts` into the value; only a list takes more than one.
    ///
    /// # Errors
    /// What was expected instead.
    fn read(&mut self, texts: &[OsString]) -> Result<(), String>;

    /// The value in TOML, `None` if it is not set.
    fn show(&self) -> Option<toml::Value>;
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A text or a number.
    Text,
    /// A path, relative to the file that it is in.
    Path,
    /// True or false; a flag without a value.
    Switch,
    /// Several texts.
    List,
}

/// The last of `texts`.
fn last(texts: &[OsString]) -> &OsStr {
    texts.last().map(OsString::as_os_str).unwrap_or_default()
}

fn parse<T: FromStr<Err: fmt::Display>>(text: &OsStr) -> Result<T, String> {
    let text = text.to_str().ok_or("expected UTF-8")?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Types that `FromStr` reads and `Display` shows.
macro_rules! text_values {
    ($($type:ty),*) => {$(
        impl SettingValue for $type {
            fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
                *self = parse(last(texts))?;
                Ok(())
            }

            fn show(&self) -> Option<toml::Value> {
                Some(shown(self.to_string()))
            }
        }
    )*};
}

text_values!(
    u64,
    Seconds,
    ByteCount,
    Limit,
    CongestionControl,
    Rules,
    ValidateAddresses
);

/// A number in TOML if `text` is one.
fn shown(text: String) -> toml::Value {
    text.parse()
        .map_or_else(|_| text.into(), toml::Value::Integer)
}

/// A count that must not be 0.
impl SettingValue for u32 {
    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        match parse(last(texts)) {
            Ok(0) | Err(_) => Err("expected a number above 0".to_owned()),
            Ok(number) => {
                *self = number;
                Ok(())
            }
        }
    }

    fn show(&self) -> Option<toml::Value> {
        Some(i64::from(*self).into())
    }
}

/// A text in TOML too, where numbers are decimal.
impl SettingValue for Umask {
    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        *self = parse(last(texts))?;
        Ok(())
    }

    fn show(&self) -> Option<toml::Value> {
        Some(self.to_string().into())
    }
}

impl SettingValue for bool {
    fn form(&self) -> Form {
        Form::Switch
    }

    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        *self = parse(last(texts)).map_err(|_| "expected true or false")?;
        Ok(())
    }

    fn show(&self) -> Option<toml::Value> {
        Some((*self).into())
    }
}

impl SettingValue for PathBuf {
    fn form(&self) -> Form {
        Form::Path
    }

    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        let text = last(texts);
        if text.is_empty() {
            return Err("expected a path".to_owned());
        }
        *self = text.into();
        Ok(())
    }

    fn show(&self) -> Option<toml::Value> {
        Some(self.to_string_lossy().into_owned().into())
    }
}

impl<T: SettingValue + Default> SettingValue for Option<T> {
    fn form(&self) -> Form {
        T::default().form()
    }

    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        let mut value = T::default();
        value.read(texts)?;
        *self = Some(value);
        Ok(())
    }

    fn show(&self) -> Option<toml::Value> {
        self.as_ref().and_then(T::show)
    }
}

impl SettingValue for Vec<ListenAddress> {
    fn form(&self) -> Form {
        Form::List
    }

    fn read(&mut self, texts: &[OsString]) -> Result<(), String> {
        *self = texts
            .iter()
            .map(|text| parse(text))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    fn show(&self) -> Option<toml::Value> {
        let all = self.iter().map(|address| address.to_string().into());
        Some(toml::Value::Array(all.collect()))
    }
}

/// The value of `--listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// One address, on the default port unless it names one.
    Address(IpAddr, Option<u16>),
    /// One address of a link, likewise.
    Zoned(ZonedAddress, Option<u16>),
    /// A port on every address of the machine.
    Port(u16),
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
            return port
                .parse()
                .map(Self::Port)
                .map_err(|_| "a port is a number up to 65535");
        }
        // Without brackets, an address with several colons is IPv6 without a port.
        let is_bare_v6 = !text.starts_with('[') && text.matches(':').count() > 1;
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_bare_v6 && !text.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let form = "an address is IP, IP:PORT, [IPv6]:PORT or :PORT";
        let port = port
            .map(|port| port.parse().map_err(|_| form))
            .transpose()?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if let Some(zoned) = ZonedAddress::parse(bare) {
            // Checked here, so that the mistake is told with the setting that it is in.
            zoned.with_port(0).ok_or("no such network interface")?;
            return Ok(Self::Zoned(zoned, port));
        }
        let address = parse_ip(bare).ok_or(form)?;
        Ok(Self::Address(address, port))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip, Some(port)) => SocketAddr::new(*ip, *port).fmt(f),
            Self::Address(ip, None) => ip.fmt(f),
            Self::Zoned(address, Some(port)) => write!(f, "[{address}]:{port}"),
            Self::Zoned(address, None) => address.fmt(f),
            Self::Port(port) => write!(f, ":{port}"),
        }
    }
}

/// A number of bytes, with an optional unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ByteCount(pub u64);

impl FromStr for ByteCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| "expected a number of bytes")?;
        let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err("the units are KiB, MiB, GiB, TiB and kB, MB, GB"),
        };
        number.checked_mul(factor).map(Self).ok_or("too large")
    }
}

/// With the largest unit that needs no fraction.
impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, bits) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 > 0 && self.0.trailing_zeros() >= bits {
                return write!(f, "{}{unit}", self.0 >> bits);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Permission bits that new files and directories don't get, in octal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Umask(pub u32);

impl FromStr for Umask {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The zero at the beginning tells it from a number of TOML, which would be decimal.
        let is_octal = text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
        bits.filter(|bits| *bits <= 0o777)
            .map(Self)
            .ok_or("expected permission bits in octal with a leading zero, such as 022")
    }
}

impl fmt::Display for Umask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0{:02o}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts_take_units() {
        let parse = |text: &str| text.parse::<ByteCount>().map(|count| count.0);
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("64MiB"), Ok(64 << 20));
        assert_eq!(parse("64 mib"), Ok(64 << 20));
        assert_eq!(parse("2GB"), Ok(2_000_000_000));
        assert!(parse("").is_err());
        assert!(parse("MiB").is_err());
        assert!(parse("-1").is_err());
        assert!(parse("20000000TiB").is_err());
        assert!(parse("5 parsecs").is_err());
        for text in ["0", "1000", "1KiB", "64MiB", "3GiB", "1TiB"] {
            assert_eq!(text.parse::<ByteCount>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_umask_is_octal() {
        let parse = |text: &str| text.parse::<Umask>().map(|umask| umask.0);
        assert_eq!(parse("022"), Ok(0o22));
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("0177"), Ok(0o177));
        for text in ["", "08", "22", "-1", "+1", "01000", "rwx"] {
            assert!(parse(text).is_err(), "{text}");
        }
        for text in ["002", "027", "0177", "000"] {
            assert_eq!(text.parse::<Umask>().unwrap().to_string(), text);
        }
        assert_eq!(Umask(0o27).show(), Some("027".into()));
    }

    #[test]
    fn listen_addresses_take_the_usual_forms() {
        let parse = |text: &str| text.parse::<ListenAddress>();
        let v6: IpAddr = "::1".parse().unwrap();
        assert_eq!(parse(":0"), Ok(ListenAddress::Port(0)));
        assert_eq!(parse("::1"), Ok(ListenAddress::Address(v6, None)));
        assert_eq!(parse("[::1]"), Ok(ListenAddress::Address(v6, None)));
        assert_eq!(parse("[::1]:9"), Ok(ListenAddress::Address(v6, Some(9))));
        assert_eq!(
            parse("127.0.0.1"),
            Ok(ListenAddress::Address("127.0.0.1".parse().unwrap(), None))
        );
        assert_eq!(parse("127.1"), parse("127.0.0.1"));
        assert_eq!(parse("127.1:9"), parse("127.0.0.1:9"));
        // The first interface is loopback on every system.
        for text in ["fe80::1%1", "[fe80::1%1]", "[fe80::1%1]:9"] {
            assert!(
                matches!(parse(text), Ok(ListenAddress::Zoned(..))),
                "{text}"
            );
        }
        assert_eq!(parse("fe80::1%nowhere"), Err("no such network interface"));
        assert!(parse("[::1]9").is_err());
        assert!(parse("[::1").is_err());
        assert!(parse("1.2.3.4:x").is_err());
        assert!(parse("localhost").is_err());
        assert!(parse(":65536").is_err());
        for text in [
            ":0",
            "::1",
            "[::1]:9",
            "127.0.0.1",
            "fe80::1%1",
            "[fe80::1%1]:9",
        ] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
    }
}
