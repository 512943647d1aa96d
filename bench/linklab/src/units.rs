//! The units of the command line: rates, times, probabilities, sizes.

use std::time::Duration;

use crate::model::{Gilbert, OPPORTUNITY_BYTES, Policer};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate(pub Option<u64>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Queue {
    Bdp(f64),
    Packets(u64),
    Bytes(u64),
}

/// A silence of this length in each period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutageCycle {
    pub length: Duration,
    pub period: Duration,
}

pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Splits "1.5ms" into 1.5 and "ms".
fn number_and_unit(text: &str) -> Result<(f64, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((number, unit))
}

pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "unlimited" {
        return Ok(Rate(None));
    }
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "bit" => 1e0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err("the unit must be bit, kbit, mbit or gbit".into()),
    };
    let bits = number * factor;
    if !(1000.0..=1e12).contains(&bits) {
        return Err("the rate must be from 1kbit to 1000gbit".into());
    }
    Ok(Rate(Some(bits as u64)))
}

pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = number_and_unit(text)?;
    let factor = match unit {
        "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "" if number == 0.0 => 1.0,
        _ => return Err("the unit must be s, ms or us".into()),
    };
    let seconds = number * factor;
    if seconds > 1e6 {
        return Err("too long".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

pub fn parse_probability(text: &str) -> Result<f64, String> {
    let (number, unit) = number_and_unit(text)?;
    let value = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err("a probability is written 0.5% or 0.005".into()),
    };
    if value > 1.0 {
        return Err("a probability is at most 100% (a number without % is a fraction)".into());
    }
    Ok(value)
}

pub fn parse_gilbert(text: &str) -> Result<Gilbert, String> {
    let values = text
        .split(',')
        .map(parse_probability)
        .collect::<Result<Vec<_>, _>>()?;
    let (p, r, loss_bad, loss_good) = match values[..] {
        [p, r] => (p, r, 1.0, 0.0),
        [p, r, loss_bad] => (p, r, loss_bad, 0.0),
        [p, r, loss_bad, loss_good] => (p, r, loss_bad, loss_good),
        _ => return Err("burst loss takes p,r[,LOSS_BAD[,LOSS_GOOD]]".into()),
    };
    Ok(Gilbert {
        p,
        r,
        loss_bad,
        loss_good,
    })
}

pub fn parse_queue(text: &str) -> Result<Queue, String> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "bdp" => Ok(Queue::Bdp(number)),
        "pkt" => Ok(Queue::Packets(number as u64)),
        "" => Ok(Queue::Bytes(number as u64)),
        "k" => Ok(Queue::Bytes((number * 1e3) as u64)),
        "m" => Ok(Queue::Bytes((number * 1e6) as u64)),
        _ => Err("the unit must be bdp, pkt, k, m or nothing (bytes)".into()),
    }
}

pub fn parse_sysctl(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.starts_with("net.") && !key.contains("..") => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("expected net.SOME.KEY=VALUE".into()),
    }
}

pub fn parse_name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if plain && (1..=32).contains(&text.len()) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("a name is 1 to 32 letters, digits and dashes".into())
    }
}

pub fn parse_outage(text: &str) -> Result<OutageCycle, String> {
    let (length, period) = text.split_once('/').ok_or("expected LENGTH/PERIOD")?;
    let silence = OutageCycle {
        length: parse_duration(length)?,
        period: parse_duration(period)?,
    };
    if silence.length >= silence.period {
        return Err("the outage must be shorter than its period".into());
    }
    Ok(silence)
}

pub fn parse_policer(text: &str) -> Result<Policer, String> {
    let (rate, burst) = text.split_once(',').ok_or("expected RATE,BURST")?;
    match (parse_rate(rate)?, parse_queue(burst)?) {
        (Rate(Some(rate)), Queue::Bytes(burst_bytes)) => Ok(Policer { rate, burst_bytes }),
        (Rate(Some(rate)), Queue::Packets(packets)) => Ok(Policer {
            rate,
            burst_bytes: packets.saturating_mul(OPPORTUNITY_BYTES),
        }),
        _ => Err("a policer needs a rate, and a burst in bytes (150k) or packets (100pkt)".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(parse_rate("200mbit"), Ok(Rate(Some(200_000_000))));
        assert_eq!(parse_rate("2.5gbit"), Ok(Rate(Some(2_500_000_000))));
        assert!(parse_rate("200").is_err());
        assert!(parse_rate("200mbps").is_err());
        assert_eq!(parse_duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(parse_duration("80").is_err());
        assert_eq!(parse_probability("0.5%"), Ok(0.005));
        assert_eq!(parse_probability("0.005"), Ok(0.005));
        assert!(parse_probability("2").is_err());
        assert!(parse_probability("-1%").is_err());
        assert_eq!(parse_queue("150k"), Ok(Queue::Bytes(150_000)));
        assert!(parse_queue("1bpd").is_err());
        assert_eq!(
            parse_outage("20ms/1s").map(|silence| silence.length),
            Ok(Duration::from_millis(20))
        );
        assert!(parse_outage("1s/1s").is_err());
        let policer = Policer {
            rate: 50_000_000,
            burst_bytes: 150_000,
        };
        assert_eq!(parse_policer("50mbit,150k"), Ok(policer));
        assert_eq!(parse_policer("50mbit,100pkt"), Ok(policer));
        assert!(parse_policer("unlimited,150k").is_err());
        assert!(parse_policer("50mbit,1bdp").is_err());
        assert!(parse_sysctl("kernel.panic=1").is_err());
        assert!(parse_sysctl("net./../../kernel.panic=1").is_err());
    }
}
