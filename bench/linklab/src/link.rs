//! Moves packets between the two TUN devices according to the model.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::model::{Config, Counters, Fate, LinkModel};
use crate::sys;

/// Packets read or written in one go before looking at the other work.
const BATCH: usize = 16;
/// How often an idle link looks at its stop flag.
const IDLE: Duration = Duration::from_millis(100);
const REAL_TIME_PRIORITY: i32 = 10;
/// Buffers kept for later use by each direction.
const SPARE_BUFFERS: usize = 1 << 17;

type Packet = Box<[u8]>;

/// How late packets were handed over, compared with the model: a histogram of 10 microsecond
/// steps up to 10 ms.
pub struct Lateness {
    buckets: Box<[u64; Self::BUCKETS + 1]>,
    count: u64,
    max: u64,
}

impl Lateness {
    const STEP: u64 = 10_000;
    const BUCKETS: usize = 1000;

    fn new() -> Self {
        Lateness {
            buckets: Box::new([0; Self::BUCKETS + 1]),
            count: 0,
            max: 0,
        }
    }

    fn add(&mut self, nanos: u64) {
        let bucket = usize::try_from(nanos / Self::STEP).unwrap_or(Self::BUCKETS);
        self.buckets[bucket.min(Self::BUCKETS)] += 1;
        self.count += 1;
        self.max = self.max.max(nanos);
    }

    /// The upper edge, in microseconds, of the bucket that holds the given quantile.
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        let wanted = (self.count as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                let edge = (bucket as u64 + 1) * Self::STEP;
                return edge.min(self.max.next_multiple_of(1000)) / 1000;
            }
        }
        0
    }

    pub fn max_us(&self) -> u64 {
        self.max.div_ceil(1000)
    }
}

pub struct Report {
    pub counters: Counters,
    pub in_flight: u64,
    /// Packets larger than the MTU: the kernel never sends one, unless somebody changes the
    /// MTU of the device. They are dropped.
    pub oversize: u64,
    /// Packets that the receiving kernel refused.
    pub write_errors: u64,
    pub late: Lateness,
}

struct Lane {
    input: Arc<File>,
    output: Arc<File>,
    mtu: usize,
    model: LinkModel<Packet>,
    spare: Vec<Packet>,
    oversize: u64,
    write_errors: u64,
    late: Lateness,
}

impl Lane {
    fn new(input: Arc<File>, output: Arc<File>, mtu: usize, config: Config) -> Self {
        Lane {
            input,
            output,
            mtu,
            model: LinkModel::new(config),
            spare: Vec::new(),
            oversize: 0,
            write_errors: 0,
            late: Lateness::new(),
        }
    }

    fn keep(&mut self, packet: Packet) {
        if self.spare.len() < SPARE_BUFFERS {
            self.spare.push(packet);
        }
    }

    /// Reads what the sender's kernel has for the link; how many packets.
    fn take_in(&mut self, clock: &LinkClock) -> io::Result<usize> {
        for count in 0..BATCH {
            // One byte more than a packet can have, to tell one that is too large.
            let mut packet = self
                .spare
                .pop()
                .unwrap_or_else(|| vec![0; self.mtu + 1].into_boxed_slice());
            match self.input.as_ref().read(&mut packet) {
                Ok(len) if len > self.mtu => {
                    self.oversize += 1;
                    self.keep(packet);
                }
                Ok(len) => match self.model.offer(clock.now(), len, packet) {
                    Fate::Accepted => {}
                    Fate::Policed(packet) | Fate::QueueFull(packet) | Fate::Lost(packet) => {
                        self.keep(packet)
                    }
                },
                Err(error) => {
                    self.keep(packet);
                    match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(count),
                        _ => return Err(error),
                    }
                }
            }
        }
        Ok(BATCH)
    }

    /// Hands the packets whose time has come to the receiver's kernel; how many.
    fn hand_out(&mut self, clock: &LinkClock) -> usize {
        let mut now = clock.now();
        for count in 0..BATCH {
            let arrival = match self.model.pop_due(now) {
                Some(arrival) => arrival,
                None => return count,
            };
            for _ in 0..1 + usize::from(arrival.twice) {
                if self
                    .output
                    .as_ref()
                    .write(&arrival.packet[..arrival.len])
                    .is_err()
                {
                    self.write_errors += 1;
                }
            }
            // The receiving kernel has taken the packet by the time that the write returns.
            now = clock.now();
            self.late.add(now - arrival.due);
            self.keep(arrival.packet);
        }
        BATCH
    }

    fn report(self) -> Report {
        Report {
            counters: self.model.counters(),
            in_flight: self.model.in_flight(),
            oversize: self.oversize,
            write_errors: self.write_errors,
            late: self.late,
        }
    }
}

struct LinkClock(Instant);

impl LinkClock {
    fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

pub struct LinkOptions {
    pub mtu: usize,
    /// While packets flow, the thread works at most once in this time.
    pub coalesce: Duration,
    pub real_time: bool,
}

/// A link at work in its own thread.
pub struct Running {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<([Report; 2], Duration)>>,
}

impl Running {
    /// Starts a link; the configurations are those of the directions from the first device
    /// to the second and back.
    pub fn start(
        devices: [File; 2],
        configs: [Config; 2],
        options: LinkOptions,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let [a, b] = devices.map(Arc::new);
        let [forth, back] = configs;
        let directions = [
            Lane::new(a.clone(), b.clone(), options.mtu, forth),
            Lane::new(b, a, options.mtu, back),
        ];
        let flag = stop.clone();
        let thread = std::thread::Builder::new()
            .name("link".into())
            .spawn(move || {
                prepare_thread(options.real_time)?;
                forward(directions, &flag, options.coalesce)
                    .inspect_err(|error| eprintln!("linklab: moving packets: {error}"))
            })?;
        Ok(Running { stop, thread })
    }

    /// Whether the thread has ended by itself, which only an error makes it do.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops the link; its reports and the processor time that it used.
    pub fn stop(self) -> io::Result<([Report; 2], Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the link thread panicked")))
    }
}

fn prepare_thread(real_time: bool) -> io::Result<()> {
    sys::precise_timers()?;
    if real_time && let Err(error) = sys::real_time(REAL_TIME_PRIORITY) {
        eprintln!("linklab: no real-time priority, delays may be less exact: {error}");
    }
    Ok(())
}

fn forward(
    mut directions: [Lane; 2],
    stop: &AtomicBool,
    coalesce: Duration,
) -> io::Result<([Report; 2], Duration)> {
    let clock = LinkClock(Instant::now());
    let coalesce_ns = coalesce.as_nanos() as u64;
    let mut readable = [true; 2];
    let mut last_work = None;
    while !stop.load(Ordering::Relaxed) {
        let begin = clock.now();
        let mut most = 0;
        for (direction, readable) in directions.iter_mut().zip(&mut readable) {
            if *readable {
                let taken = direction.take_in(&clock)?;
                *readable = taken == BATCH;
                most = most.max(taken);
            }
            most = most.max(direction.hand_out(&clock));
        }
        if most > 0 {
            // When packets come apart, each is better served by waiting for the next one; when
            // they come close together, a wake-up for each would cost more than its work.
            let spent = Duration::from_nanos(clock.now() - begin);
            let close = last_work.is_some_and(|last| begin - last < 2 * coalesce_ns);
            if close
                && most < BATCH
                && let Some(rest) = coalesce.checked_sub(spent)
            {
                std::thread::sleep(rest);
            }
            last_work = Some(begin);
        }
        let next = directions
            .iter()
            .filter_map(|direction| direction.model.next_due())
            .min();
        let timeout = match next {
            // There may be more to do at once.
            _ if most == BATCH => Duration::ZERO,
            None => IDLE,
            Some(due) => Duration::from_nanos(due.saturating_sub(clock.now())).min(IDLE),
        };
        let files = [directions[0].input.as_fd(), directions[1].input.as_fd()];
        readable = sys::wait_readable(files, timeout)?;
    }
    Ok((directions.map(Lane::report), sys::thread_cpu_time()))
}

#[cfg(test)]
mod tests {
    use super::Lateness;

    #[test]
    fn lateness_quantiles_are_upper_edges() {
        let mut late = Lateness::new();
        assert_eq!((late.quantile_us(0.99), late.max_us()), (0, 0));
        for _ in 0..98 {
            late.add(41_500);
        }
        late.add(777_000);
        late.add(25_000_000);
        assert_eq!(late.quantile_us(0.5), 50);
        assert_eq!(late.quantile_us(0.99), 780);
        assert_eq!(late.max_us(), 25_000);
    }
}
