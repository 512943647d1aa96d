//! Measurements of the whole process: its processor time, its work on files, and its syncs.
//!
//! A client has few connections, so that all of them may count together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::TransferStats;

/// Does blocking work on files for a body, and measures in a part of all calls how much of it is
/// computing.
pub fn file_work<T>(work: impl FnOnce() -> T) -> T {
    let is_sample = CALLS
        .fetch_add(1, Ordering::Relaxed)
        .is_multiple_of(u64::from(CALLS_PER_SAMPLE));
    if !is_sample {
        return work();
    }
    let sleeps = sleeps();
    let start = Instant::now();
    let before = clock(Clock::Thread);
    let result = work();
    let processor = clock(Clock::Thread).saturating_sub(before);
    let elapsed = start.elapsed();
    // A thread that didn't sleep at most waited for a processor, or its whole machine did.
    let is_awake = sleeps.is_some() && sleeps == self::sleeps();
    add(&FILE_PROCESSOR, if is_awake { elapsed } else { processor });
    add(&FILE_WORK, elapsed);
    result
}

/// Returns how often this thread has given up its processor to wait for something; `None` if the
/// system doesn't say so.
fn sleeps() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count?.trim().parse().ok()
}

/// Syncs a file, and measures how long that takes.
pub fn file_sync<T>(sync: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = sync();
    add(&SYNCS, start.elapsed());
    result
}

/// Adds the measurements of this process to `stats`. They are of all its connections, of which a
/// client has few.
pub(crate) fn add_process(stats: TransferStats) -> TransferStats {
    let time = |micros: &AtomicU64| Duration::from_micros(micros.load(Ordering::Relaxed));
    TransferStats {
        file_work: time(&FILE_WORK),
        file_processor: time(&FILE_PROCESSOR),
        syncs: time(&SYNCS),
        processor: clock(Clock::Process),
        ..stats
    }
}

fn add(sum: &AtomicU64, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    sum.fetch_add(micros, Ordering::Relaxed);
}

/// Calls of [`file_work`], and microseconds: of those measured, of computing in them, and of syncs.
static CALLS: AtomicU64 = AtomicU64::new(0);
static FILE_WORK: AtomicU64 = AtomicU64::new(0);
static FILE_PROCESSOR: AtomicU64 = AtomicU64::new(0);
static SYNCS: AtomicU64 = AtomicU64::new(0);

/// Whose processor time is measured.
#[derive(Clone, Copy)]
enum Clock {
    Process,
    Thread,
}

/// Returns the processor time; zero where the system doesn't report it.
#[cfg(unix)]
fn clock(of: Clock) -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let id = match of {
        Clock::Process => ClockId::ProcessCPUTime,
        Clock::Thread => ClockId::ThreadCPUTime,
    };
    Duration::try_from(clock_gettime(id)).unwrap_or_default()
}

#[cfg(not(unix))]
fn clock(_: Clock) -> Duration {
    Duration::ZERO
}

/// Calls of [`file_work`] for each one that is measured, because that takes some 20 µs.
pub(super) const CALLS_PER_SAMPLE: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_grows_with_work() {
        let before = clock(Clock::Process);
        let mut hasher = quire_shared::digest::DigestKind::Blake3.hasher();
        hasher.update(&vec![0; 1 << 20]);
        assert!(
            cfg!(not(unix)) || clock(Clock::Process) > before,
            "{}",
            hasher.finish()
        );
    }
}
