//! Variable rates: a trace in Mahimahi's format, and when packets leave a link that follows it.
//!
//! A trace is a list of milliseconds in ascending order. Each is one opportunity to send 1500
//! bytes, which several small packets can share. What nobody uses is gone. After the last line
//! the trace begins again.

use std::sync::Arc;

pub const OPPORTUNITY_BYTES: u64 = 1500;
const NANOS_PER_MS: u64 = 1_000_000;

#[derive(Debug, PartialEq)]
pub struct Trace {
    /// Milliseconds of the opportunities; never empty, ascending, and the last is above 0.
    opportunities: Vec<u64>,
}

impl Trace {
    pub fn new(opportunities: Vec<u64>) -> Result<Self, String> {
        if !opportunities.is_sorted() {
            return Err("the times of a trace must ascend".into());
        }
        match opportunities.last() {
            None | Some(0) => Err("a trace must have a time above 0".into()),
            Some(_) => Ok(Trace { opportunities }),
        }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let times = lines
            .filter(|(_, line)| !line.is_empty())
            .map(|(index, line)| {
                line.parse()
                    .map_err(|_| format!("line {}: {line:?} is not a time in ms", index + 1))
            });
        Trace::new(times.collect::<Result<_, _>>()?)
    }

    pub fn opportunities(&self) -> &[u64] {
        &self.opportunities
    }

    fn period_ms(&self) -> u64 {
        self.opportunities.last().copied().unwrap_or(1)
    }

    /// Bits per second in the mean.
    pub fn mean_rate(&self) -> u64 {
        let bits = self.opportunities.len() as u64 * OPPORTUNITY_BYTES * 8;
        bits * 1000 / self.period_ms()
    }
}

/// The place of a link in its trace.
pub struct Schedule {
    trace: Arc<Trace>,
    cycle: u64,
    index: usize,
    /// Bytes that the current opportunity can still carry.
    left: u64,
}

impl Schedule {
    pub fn new(trace: Arc<Trace>) -> Self {
        Schedule {
            trace,
            cycle: 0,
            index: 0,
            left: OPPORTUNITY_BYTES,
        }
    }

    /// When a packet leaves that came at `now`, behind all packets before it.
    pub fn departure(&mut self, now: u64, bytes: u64) -> u64 {
        self.skip_to(now);
        let mut rest = bytes;
        while rest > self.left {
            rest -= self.left;
            self.advance();
        }
        self.left -= rest;
        self.time()
    }

    fn time(&self) -> u64 {
        let ms = self.cycle * self.trace.period_ms() + self.trace.opportunities[self.index];
        ms * NANOS_PER_MS
    }

    fn advance(&mut self) {
        self.index += 1;
        if self.index == self.trace.opportunities.len() {
            self.index = 0;
            self.cycle += 1;
        }
        self.left = OPPORTUNITY_BYTES;
    }

    /// Passes the opportunities before `now`: no packet was there to use them.
    fn skip_to(&mut self, now: u64) {
        if self.time() >= now {
            return;
        }
        let now_ms = now.div_ceil(NANOS_PER_MS);
        // The last opportunity of a cycle is at the moment at which the next one begins.
        self.cycle = (now_ms - 1) / self.trace.period_ms();
        let within = now_ms - self.cycle * self.trace.period_ms();
        self.index = self
            .trace
            .opportunities
            .partition_point(|time| *time < within);
        self.left = OPPORTUNITY_BYTES;
    }
}
