//! Quotas: rate limit and daily quota of each key, over all its connections.
//!
//! Clients without a key, or with one without rights of its own, share one quota. A quota counts
//! what is stored within a day, even if it is deleted later. It is kept in memory, so a restart of
//! the server resets it. A put is charged when it starts and a copy before it is published, so that
//! many at once can't exceed a quota together. The charge is returned if the change fails. What counts
//! is the length of files, holes included.

use std::collections::HashMap;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use quire_certs::Fingerprint;
use quire_transport::body::extents::HoleWrite;
use quire_transport::flow::stream_limits::RateLimiter;
use tokio::time::Instant;

use crate::metrics::Metrics;

use super::error::Error;

/// Limits of a key, over all its clients.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QuotaLimits {
    /// Bytes that may be stored in a day.
    pub(crate) daily_bytes: Option<u64>,
    /// Files and directories that may be created in a day.
    pub(crate) daily_files: Option<u64>,
    /// Bytes per second of all transfers together.
    pub(crate) rate: Option<u64>,
}

impl QuotaLimits {
    fn rate_limiter(self) -> Option<Arc<RateLimiter>> {
        self.rate
            .map(|rate| Arc::new(RateLimiter::new(rate, BURST)))
    }
}

/// Quotas of all keys seen since the start of the server.
#[derive(Debug)]
pub(crate) struct Quotas {
    limits: QuotaLimits,
    metrics: Arc<Metrics>,
    quotas: Mutex<HashMap<Option<Fingerprint>, Arc<Quota>>>,
}

impl Quotas {
    pub(crate) fn new(limits: QuotaLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            limits,
            metrics,
            quotas: Mutex::default(),
        }
    }

    /// Quota of `key`, which has rights of its own; `None` for the shared one.
    pub(crate) fn of(&self, key: Option<Fingerprint>) -> Arc<Quota> {
        let mut quotas = self.quotas.lock();
        let quota = quotas.entry(key).or_insert_with(|| {
            Arc::new(Quota {
                rate_limiter: self.limits.rate_limiter(),
                limits: self.limits,
                metrics: Arc::clone(&self.metrics),
                used: Mutex::new(Used {
                    since: Instant::now(),
                    bytes: 0,
                    files: 0,
                }),
            })
        });
        Arc::clone(quota)
    }
}

/// Quota of one key.
#[derive(Debug)]
pub(crate) struct Quota {
    /// Rate limit that all transfers of this key share.
    pub(crate) rate_limiter: Option<Arc<RateLimiter>>,
    limits: QuotaLimits,
    metrics: Arc<Metrics>,
    used: Mutex<Used>,
}

/// Use of a quota within the current day.
#[derive(Debug)]
struct Used {
    /// Start of the day; it has nothing to do with the calendar.
    since: Instant,
    bytes: u64,
    files: u64,
}

impl Quota {
    /// Charges `bytes` and `files` to the daily quota.
    ///
    /// # Errors
    /// If they exceed the quota; nothing is charged then.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, files: u64) -> Result<Reservation, Error> {
        let mut reservation = Reservation {
            quota: Arc::clone(self),
            day: self.used().since,
            bytes: 0,
            files: 0,
            kept_bytes: 0,
            is_kept: false,
        };
        reservation.add(bytes, files)?;
        Ok(reservation)
    }

    /// Use of the current day. Starts a new day if the last one is over.
    fn used(&self) -> MutexGuard<'_, Used> {
        let mut used = self.used.lock();
        if used.since.elapsed() >= DAY {
            *used = Used {
                since: Instant::now(),
                bytes: 0,
                files: 0,
            };
        }
        used
    }
}

/// Charge of one request to a quota. Returned when dropped, unless it was kept.
#[derive(Debug)]
pub(crate) struct Reservation {
    quota: Arc<Quota>,
    day: Instant,
    bytes: u64,
    files: u64,
    /// Bytes that stay charged when it is dropped.
    kept_bytes: u64,
    is_kept: bool,
}

impl Reservation {
    /// Charges more.
    ///
    /// # Errors
    /// If it exceeds the quota; nothing more is charged then.
    pub(crate) fn add(&mut self, bytes: u64, files: u64) -> Result<(), Error> {
        let limits = &self.quota.limits;
        let bytes_max = limits.daily_bytes;
        let files_max = limits.daily_files;
        let mut used = self.quota.used();
        let fits = |used: u64, more: u64, max: Option<u64>| {
            used.saturating_add(more) <= max.unwrap_or(u64::MAX)
        };
        if !fits(used.bytes, bytes, bytes_max) || !fits(used.files, files, files_max) {
            drop(used);
            self.quota.metrics.quota.add_one();
            return Err(Error::Quota);
        }
        used.bytes = used.bytes.saturating_add(bytes);
        used.files = used.files.saturating_add(files);
        self.bytes += bytes;
        self.files += files;
        Ok(())
    }

    /// Makes the charge for `bytes` permanent, since they stay stored whatever becomes of the rest.
    fn keep_bytes(&mut self, bytes: u64) {
        self.kept_bytes += bytes;
    }

    /// Takes back what was kept of the charge so far.
    pub(crate) fn keep_nothing(&mut self) {
        self.kept_bytes = 0;
    }

    /// Makes the charge permanent.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let mut used = self.quota.used();
        // A new day has started at 0: it doesn't contain a charge of the day before.
        if used.since == self.day {
            let returned = self.bytes.saturating_sub(self.kept_bytes);
            used.bytes = used.bytes.saturating_sub(returned);
            used.files = used.files.saturating_sub(self.files);
        }
    }
}

/// Sink of a body that charges bytes to a quota before it writes them.
#[derive(Debug)]
pub(crate) struct Metered<W> {
    /// Destination of the bytes.
    pub(crate) sink: W,
    /// Charge so far.
    pub(crate) reservation: Reservation,
    /// Bytes that are charged but not written yet.
    pub(crate) ahead: u64,
    /// Whether bytes that are written stay charged, because they are kept for an upload that goes
    /// on.
    pub(crate) stays_charged: bool,
}

impl<W> Metered<W> {
    /// Notes that `written` of `asked` bytes were written.
    fn wrote(&mut self, written: usize, asked: usize) -> usize {
        self.ahead += (asked - written) as u64;
        self.keep(written as u64);
        written
    }

    fn keep(&mut self, bytes: u64) {
        if self.stays_charged {
            self.reservation.keep_bytes(bytes);
        }
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(left) = self.ahead.checked_sub(bytes) {
            self.ahead = left;
            return Ok(());
        }
        let more = bytes - self.ahead;
        let charged = self.reservation.add(more, 0);
        // The error of a file system's own quota, so that the same code handles both.
        charged
            .map_err(|_| io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error()))?;
        self.ahead = 0;
        Ok(())
    }
}

impl<W> Metered<W> {
    /// Has `write` write `bytes` bytes by itself.
    ///
    /// # Errors
    /// If the quota is used up, or those of `write`.
    pub(crate) fn write_with(
        &mut self,
        bytes: u64,
        write: impl FnOnce(&mut W) -> io::Result<()>,
    ) -> io::Result<()> {
        self.reserve(bytes)?;
        write(&mut self.sink)
    }
}

impl<W: Write> Write for Metered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reserve(bytes.len() as u64)?;
        let written = self.sink.write(bytes)?;
        Ok(self.wrote(written, bytes.len()))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.reserve(bytes as u64)?;
        let written = self.sink.write_vectored(slices)?;
        Ok(self.wrote(written, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl<W: HoleWrite> HoleWrite for Metered<W> {
    /// Holes count like data: a quota is of what files have, not of what they take of the disk.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        self.reserve(bytes)?;
        self.sink.skip(bytes)?;
        self.keep(bytes);
        Ok(())
    }
}

/// Period of a daily quota.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a rate limit lets through at once after a pause: short enough for the rate to hold as
/// people see it, long enough that timers of a few milliseconds cost none of it.
pub(crate) const BURST: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use quire_transport::body::extents::Filled;

    use super::*;

    fn quotas(bytes: Option<u64>, files: Option<u64>) -> Quotas {
        let limits = QuotaLimits {
            daily_bytes: bytes,
            daily_files: files,
            rate: None,
        };
        Quotas::new(limits, Arc::default())
    }

    #[test]
    fn a_quota_is_never_exceeded_and_a_failed_change_returns_its_charge() {
        let quota = quotas(Some(100), Some(3)).of(None);
        quota.reserve(60, 1).unwrap().keep();
        let pending = quota.reserve(40, 1).unwrap();
        assert!(matches!(quota.reserve(1, 1), Err(Error::Quota)));
        drop(pending);
        quota.reserve(40, 1).unwrap().keep();
        assert!(matches!(quota.reserve(0, 2), Err(Error::Quota)));
        quota.reserve(0, 1).unwrap().keep();
        let used = quota.used();
        assert_eq!((used.bytes, used.files), (100, 3));
        drop(used);
        assert_eq!(quota.metrics.quota.count(), 2);
    }

    #[test]
    fn a_body_without_a_size_is_charged_before_it_is_written() {
        let quota = quotas(Some(10), None).of(None);
        let mut charged = Metered {
            sink: Vec::new(),
            reservation: quota.reserve(4, 1).unwrap(),
            ahead: 4,
            stays_charged: false,
        };
        charged.write_all(b"1234").unwrap();
        assert_eq!(quota.used().bytes, 4);
        charged.write_all(b"567890").unwrap();
        let error = charged.write_all(b"x").unwrap_err();
        assert_eq!(
            Error::from(crate::files::StoreError::system("writing")(error)).code(),
            quire_shared::ErrorCode::QUOTA
        );
        assert_eq!(charged.sink, b"1234567890");
        drop(charged);
        assert_eq!(quota.used().bytes, 0);
    }

    #[test]
    fn a_hole_counts_as_what_is_read_there() {
        let quota = quotas(Some(10), None).of(None);
        let mut charged = Metered {
            sink: Filled(Vec::new()),
            reservation: quota.reserve(4, 1).unwrap(),
            ahead: 4,
            stays_charged: true,
        };
        charged.skip(9).unwrap();
        assert_eq!(quota.used().bytes, 9);
        charged.skip(2).unwrap_err();
        assert_eq!(charged.sink.0, [0; 9]);
        drop(charged);
        assert_eq!(quota.used().bytes, 9);
    }

    #[test]
    fn what_is_kept_of_a_body_that_fails_stays_charged() {
        let quota = quotas(Some(10), None).of(None);
        let charged = |bytes: &[u8]| {
            let mut charged = Metered {
                sink: Vec::new(),
                reservation: quota.reserve(10, 1).unwrap(),
                ahead: 10,
                stays_charged: true,
            };
            charged.write_all(bytes).unwrap();
            charged
        };
        drop(charged(b"1234"));
        let used = quota.used();
        assert_eq!((used.bytes, used.files), (4, 0));
        drop(used);
        // The rest is all that is left of the quota.
        assert!(quota.reserve(7, 1).is_err());
        quota.reserve(6, 1).unwrap().keep();
        let quota = quotas(Some(10), None).of(None);
        let mut discarded = Metered {
            sink: Vec::new(),
            reservation: quota.reserve(10, 1).unwrap(),
            ahead: 10,
            stays_charged: true,
        };
        discarded.write_all(b"1234").unwrap();
        discarded.reservation.keep_nothing();
        drop(discarded);
        assert_eq!(quota.used().bytes, 0);
    }

    #[test]
    fn concurrent_charges_do_not_exceed_a_quota_together() {
        let quota = quotas(Some(64), None).of(None);
        let fitted = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|_| scope.spawn(|| quota.reserve(10, 1).map(Reservation::keep).is_ok()))
                .collect();
            let fits = threads.into_iter().map(|thread| thread.join().unwrap());
            fits.filter(|fits| *fits).count()
        });
        assert_eq!(fitted, 6);
        assert_eq!(quota.used().bytes, 60);
    }

    #[test]
    fn every_key_has_a_quota_of_its_own_over_all_its_connections() {
        let quotas = quotas(Some(10), None);
        let key = quire_certs::Identity::generate(&[]).unwrap().fingerprint();
        quotas.of(Some(key)).reserve(10, 0).unwrap().keep();
        quotas.of(Some(key)).reserve(1, 0).unwrap_err();
        quotas.of(None).reserve(10, 0).unwrap().keep();
    }
}
