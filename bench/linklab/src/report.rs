//! The result of a session: counters of both directions as JSON, and what the machine did.

use std::fs;

use crate::link::Report;
use crate::model::Config;

pub fn direction_json(report: &Report, config: &Config, device_drops: u64) -> String {
    let rate = config.rate.map_or("null".into(), |rate| rate.to_string());
    let c = &report.counters;
    format!(
        "{{\"rate_bits\":{rate},\"queue_bytes\":{},\"sent\":{},\"sent_bytes\":{},\
         \"policed\":{},\"queue_dropped\":{},\"lost\":{},\"outage_lost\":{},\
         \"delivered\":{},\"delivered_bytes\":{},\
         \"in_flight\":{},\"duplicated\":{},\"reordered\":{},\"max_queue_bytes\":{},\
         \"device_dropped\":{device_drops},\"oversize\":{},\"write_errors\":{},\
         \"late_us\":{{\"p50\":{},\"p99\":{},\"max\":{}}}}}",
        config.queue_bytes,
        c.sent,
        c.sent_bytes,
        c.policed,
        c.queue_dropped,
        c.lost,
        c.outage_lost,
        c.delivered,
        c.delivered_bytes,
        report.in_flight,
        c.duplicated,
        c.reordered,
        c.max_queue_bytes,
        report.oversize,
        report.write_errors,
        report.late.quantile_us(0.5),
        report.late.quantile_us(0.99),
        report.late.max_us(),
    )
}

/// Says when the machine did not keep up with the model.
pub fn warn(name: &str, report: &Report, device_drops: u64) {
    if device_drops + report.oversize + report.write_errors > 0 {
        eprintln!("linklab: {name}: packets were dropped outside of the model");
    }
    let late = report.late.quantile_us(0.99);
    if late > 1000 {
        eprintln!("linklab: {name}: one packet in a hundred was {late} us late or more");
    }
}

/// Processor time of the whole machine so far, in clock ticks.
pub struct MachineTime {
    total: u64,
    idle: u64,
    stolen: u64,
}

impl MachineTime {
    pub fn now() -> Option<Self> {
        let text = fs::read_to_string("/proc/stat").ok()?;
        let ticks: Vec<u64> = text
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .take(8)
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        // user nice system idle iowait irq softirq steal
        Some(MachineTime {
            total: ticks.iter().sum(),
            idle: ticks.get(3)? + ticks.get(4)?,
            stolen: *ticks.get(7)?,
        })
    }

    pub fn busy_since(&self) -> Option<[f64; 2]> {
        let now = Self::now()?;
        let total = now
            .total
            .checked_sub(self.total)
            .filter(|ticks| *ticks > 0)? as f64;
        let idle = now.idle.saturating_sub(self.idle) as f64;
        let stolen = now.stolen.saturating_sub(self.stolen) as f64;
        Some([1.0 - (idle + stolen) / total, stolen / total])
    }
}
