//! What the holder of a key shares over all its connections: its rate, and its daily quota.
//!
//! All who show no key, or one without rights of its own, are one holder. A quota counts what is
//! stored within a day, whatever becomes of it; it is kept in memory and starts anew with the
//! server. What is under way counts from the moment it is let begin, so that many at once can't
//! pass a quota together, and is given back if it fails.

use std::collections::HashMap;
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quire_certs::Fingerprint;
use quire_transport::flow::stream_limits::RateLimiter;
use tokio::time::Instant;

use crate::config::limits::Limits;
use crate::error::RequestError;
use crate::metrics::Counters;

/// The holders that were here since the start.
#[derive(Debug)]
pub(crate) struct Holders {
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    holders: Mutex<HashMap<Option<Fingerprint>, Arc<Holder>>>,
}

impl Holders {
    pub(crate) fn new(limits: Arc<Limits>, counters: Arc<Counters>) -> Self {
        Self {
            limits,
            counters,
            holders: Mutex::default(),
        }
    }

    /// The holder of `key`, which has rights of its own, or of none.
    pub(crate) fn holder(&self, key: Option<Fingerprint>) -> Arc<Holder> {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let holder = holders.entry(key).or_insert_with(|| {
            Arc::new(Holder {
                throttle: self.limits.rate_per_key.throttle(),
                limits: Arc::clone(&self.limits),
                counters: Arc::clone(&self.counters),
                used: Mutex::new(Used {
                    since: Instant::now(),
                    bytes: 0,
                    files: 0,
                }),
            })
        });
        Arc::clone(holder)
    }
}

/// Who holds a key.
#[derive(Debug)]
pub(crate) struct Holder {
    /// What all transfers of this holder share.
    pub(crate) throttle: Option<Arc<RateLimiter>>,
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    since: Instant,
    bytes: u64,
    files: u64,
}

impl Holder {
    /// Charges `bytes` and `files` to the quota of the day.
    ///
    /// # Errors
    /// If they don't fit; nothing is charged then.
    pub(crate) fn charge(self: &Arc<Self>, bytes: u64, files: u64) -> Result<Charge, RequestError> {
        let mut charge = Charge {
            holder: Arc::clone(self),
            day: self.used().since,
            bytes: 0,
            files: 0,
            is_kept: false,
        };
        charge.add(bytes, files)?;
        Ok(charge)
    }

    /// What was used today; a new day begins when the old one is over.
    fn used(&self) -> MutexGuard<'_, Used> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
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

/// What one request takes of a quota. Given back when dropped, unless it was kept.
#[derive(Debug)]
pub(crate) struct Charge {
    holder: Arc<Holder>,
    day: Instant,
    bytes: u64,
    files: u64,
    is_kept: bool,
}

impl Charge {
    /// Charges more.
    ///
    /// # Errors
    /// If it doesn't fit.
    pub(crate) fn add(&mut self, bytes: u64, files: u64) -> Result<(), RequestError> {
        let limits = &self.holder.limits;
        let (bytes_max, files_max) = (limits.daily_bytes.0, limits.daily_files.0);
        let mut used = self.holder.used();
        let fits = |used: u64, more: u64, max: Option<u64>| {
            used.saturating_add(more) <= max.unwrap_or(u64::MAX)
        };
        if !fits(used.bytes, bytes, bytes_max) || !fits(used.files, files, files_max) {
            drop(used);
            self.holder.counters.quota.add_one();
            return Err(RequestError::Quota);
        }
        used.bytes = used.bytes.saturating_add(bytes);
        used.files = used.files.saturating_add(files);
        self.bytes += bytes;
        self.files += files;
        Ok(())
    }

    /// Leaves it charged.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let mut used = self.holder.used();
        // What was charged yesterday is forgotten already.
        if used.since == self.day {
            used.bytes = used.bytes.saturating_sub(self.bytes);
            used.files = used.files.saturating_sub(self.files);
        }
    }
}

/// Where a body goes whose bytes are charged as they come, before they are written.
#[derive(Debug)]
pub(crate) struct Charged<W> {
    /// What is written to.
    pub(crate) sink: W,
    /// What it takes.
    pub(crate) charge: Charge,
    /// Bytes that were charged before they come.
    pub(crate) ahead: u64,
}

impl<W> Charged<W> {
    fn charge(&mut self, bytes: usize) -> io::Result<()> {
        let bytes = bytes as u64;
        if let Some(left) = self.ahead.checked_sub(bytes) {
            self.ahead = left;
            return Ok(());
        }
        let more = bytes - self.ahead;
        let charged = self.charge.add(more, 0);
        // As a full disk would answer.
        charged
            .map_err(|_| io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error()))?;
        self.ahead = 0;
        Ok(())
    }
}

impl<W: Write> Write for Charged<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.charge(bytes.len())?;
        let written = self.sink.write(bytes)?;
        self.ahead += (bytes.len() - written) as u64;
        Ok(written)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        self.charge(bytes)?;
        let written = self.sink.write_vectored(slices)?;
        self.ahead += (bytes - written) as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The time of a quota.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limit;

    fn holders(bytes: Option<u64>, files: Option<u64>) -> Holders {
        let limits = Limits {
            daily_bytes: Limit(bytes),
            daily_files: Limit(files),
            ..Limits::default()
        };
        Holders::new(Arc::new(limits), Arc::default())
    }

    #[test]
    fn a_quota_is_never_passed_and_given_back_by_what_fails() {
        let holder = holders(Some(100), Some(3)).holder(None);
        holder.charge(60, 1).unwrap().keep();
        let pending = holder.charge(40, 1).unwrap();
        assert!(matches!(holder.charge(1, 1), Err(RequestError::Quota)));
        drop(pending);
        holder.charge(40, 1).unwrap().keep();
        assert!(matches!(holder.charge(0, 2), Err(RequestError::Quota)));
        holder.charge(0, 1).unwrap().keep();
        let used = holder.used();
        assert_eq!((used.bytes, used.files), (100, 3));
        drop(used);
        assert_eq!(holder.counters.quota.count(), 2);
    }

    #[test]
    fn what_comes_in_pieces_is_charged_before_it_is_written() {
        let holder = holders(Some(10), None).holder(None);
        let mut charged = Charged {
            sink: Vec::new(),
            charge: holder.charge(4, 1).unwrap(),
            ahead: 4,
        };
        charged.write_all(b"1234").unwrap();
        assert_eq!(holder.used().bytes, 4);
        charged.write_all(b"567890").unwrap();
        let error = charged.write_all(b"x").unwrap_err();
        assert_eq!(
            RequestError::system("writing")(error).code(),
            quire_shared::ErrorCode::QUOTA
        );
        assert_eq!(charged.sink, b"1234567890");
        drop(charged);
        assert_eq!(holder.used().bytes, 0);
    }

    #[test]
    fn of_many_at_once_only_as_many_fit_as_there_is_room_for() {
        let holder = holders(Some(64), None).holder(None);
        let fitted = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..64)
                .map(|_| scope.spawn(|| holder.charge(10, 1).map(Charge::keep).is_ok()))
                .collect();
            let fits = threads.into_iter().map(|thread| thread.join().unwrap());
            fits.filter(|fits| *fits).count()
        });
        assert_eq!(fitted, 6);
        assert_eq!(holder.used().bytes, 60);
    }

    #[test]
    fn every_key_has_a_quota_of_its_own_over_all_its_connections() {
        let holders = holders(Some(10), None);
        let key = quire_certs::Identity::generate(&[]).unwrap().fingerprint();
        holders.holder(Some(key)).charge(10, 0).unwrap().keep();
        holders.holder(Some(key)).charge(1, 0).unwrap_err();
        holders.holder(None).charge(10, 0).unwrap().keep();
    }
}
