//! Walks that only count: what there is to send, and what is below a directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::engine::Transfer;
use crate::save::is_left_over;

/// Stops the walk when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Survey {
    is_stopped: Arc<AtomicBool>,
}

impl Survey {
    /// Begins to count the bytes of `items` and all below them in a blocking thread.
    pub(super) fn start(items: Vec<PathBuf>, transfer: Arc<Transfer>) -> Self {
        let survey = Self::default();
        let is_stopped = Arc::clone(&survey.is_stopped);
        tokio::task::spawn_blocking(move || {
            if items
                .into_iter()
                .all(|item| count(item, &is_stopped, &transfer))
            {
                transfer.foresee_no_more();
            }
        });
        survey
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }
}

/// Counts one item; returns whether the walk goes on. What can't be read is reported by the
/// transfer itself.
fn count(item: PathBuf, is_stopped: &AtomicBool, transfer: &Transfer) -> bool {
    match fs::metadata(&item) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(metadata) => transfer.foresee(metadata.len()),
        Err(_) => return true,
    }
    let mut levels = Vec::from_iter(fs::read_dir(item));
    while let Some(level) = levels.last_mut() {
        if is_stopped.load(Ordering::Relaxed) {
            return false;
        }
        let Some(entry) = level.next() else {
            levels.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        if entry.file_name().to_str().is_some_and(is_left_over) {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => levels.extend(fs::read_dir(entry.path())),
            Ok(metadata) if metadata.is_file() => transfer.foresee(metadata.len()),
            Ok(_) | Err(_) => {}
        }
    }
    true
}

/// Number of files and directories below a local directory, as far as it can be read.
pub(super) fn count_below(directory: &Path) -> u64 {
    let mut count = 0;
    let mut levels = Vec::from_iter(fs::read_dir(directory));
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.next() else {
            levels.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        count += 1;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            levels.extend(fs::read_dir(entry.path()));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_files_below_are_counted_once() {
        let base = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: usize| {
            let path = base.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; bytes]).unwrap();
        };
        file("d/a", 1);
        file("d/b/c/d", 20);
        file("d/.quire-staging/x", 1000);
        file("f", 300);
        let transfer = Transfer::new(|_| {});
        let stop = AtomicBool::new(false);
        for name in ["d", "f", "missing"] {
            assert!(count(base.path().join(name), &stop, &transfer));
        }
        assert_eq!(transfer.total(), (321, false));
        stop.store(true, Ordering::Relaxed);
        assert!(!count(base.path().join("d"), &stop, &transfer));
    }
}
