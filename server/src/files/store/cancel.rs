//! Cancellation of work on blocking threads.
//!
//! A blocking thread can't be interrupted. So whatever may take long asks [`check`] between its
//! steps whether somebody still waits for the result. The flag belongs to the thread and not to a
//! parameter, because the loops that ask lie deep below the function that starts the work.
//! Commits never ask: they run to their end. The removal of what is no longer needed has a flag of
//! its own, which is set when the server stops: the next start removes the rest.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Error;

/// Cancels work on a blocking thread when the future that waits for it is dropped.
#[derive(Debug, Default)]
pub(super) struct CancelOnDrop(CancelFlag);

/// Flag that is set when nobody waits for the work any more.
#[derive(Debug, Default, Clone)]
pub(super) struct CancelFlag(Arc<AtomicBool>);

thread_local! {
    /// Flag of the work that this thread does.
    static CURRENT: RefCell<CancelFlag> = RefCell::default();
}

impl CancelOnDrop {
    pub(super) fn flag(&self) -> CancelFlag {
        self.0.clone()
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl CancelFlag {
    /// Makes [`check`] fail from now on.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Does `work`, in which [`check`] fails once this flag is set.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(self.clone());
        // Also after a panic: the thread does other work next.
        let _restored = Restore(before);
        work()
    }
}

struct Restore(CancelFlag);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(std::mem::take(&mut self.0));
    }
}

/// Fails if nobody waits for the work of this thread any more.
pub(in crate::files) fn check() -> Result<(), Error> {
    let is_cancelled = CURRENT.with_borrow(|flag| flag.0.load(Ordering::Relaxed));
    if is_cancelled {
        return Err(Error::Cancelled);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_cancelled_when_its_guard_is_dropped_and_later_work_is_not() {
        let guard = CancelOnDrop::default();
        let flag = guard.flag();
        let during = flag.run(|| {
            let before = check();
            drop(guard);
            (before, check())
        });
        assert!(matches!(during, (Ok(()), Err(Error::Cancelled))));
        assert!(check().is_ok());
        assert!(matches!(flag.run(check), Err(Error::Cancelled)));
    }
}
