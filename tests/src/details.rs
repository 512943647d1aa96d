//! Details of files that a transfer keeps only if it is told to: extended attributes, owner and group.

mod command_line;
mod owners;
mod peers;
mod synced;
mod xattrs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use quire_client::protocol::DetailKinds;
use quire_client::transfer::{
    self, DownloadJob, FetchOptions, StoreOptions, Transfer, TransferEvent, UploadJob,
};
use quire_client::{Client, Keep};
use quire_test_harness::client::path;
use quire_test_harness::{skip, within};
use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};

/// Keeps extended attributes alone.
const XATTRS: Keep = Keep {
    kinds: DetailKinds {
        xattrs: true,
        owner: false,
        group: false,
    },
    numeric_ids: false,
};

/// Keeps owner and group alone.
const OWNERS: Keep = Keep {
    kinds: DetailKinds {
        xattrs: false,
        owner: true,
        group: true,
    },
    numeric_ids: false,
};

/// The extended attributes of a file or directory, of every namespace that may be read.
fn xattrs_of(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = [0; 4096];
    let length = listxattr(path, &mut list).unwrap();
    let names = list[..length].split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = [0; 8192];
        let length = getxattr(path, name, &mut value).unwrap();
        value[..length].to_vec()
    };
    names
        .map(|name| (String::from_utf8_lossy(name).into_owned(), value(name)))
        .filter(|(name, _)| name.starts_with("user."))
        .collect()
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn remove_xattr(path: &Path, name: &str) {
    rustix::fs::removexattr(path, name).unwrap();
}

/// These attributes, as [`xattrs_of`] gives them.
fn expected(pairs: &[(&str, &[u8])]) -> BTreeMap<String, Vec<u8>> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), value.to_vec()))
        .collect()
}

/// Whether the file system of `directory` has extended attributes; says so if it hasn't.
fn has_xattrs(directory: &Path) -> bool {
    let file = directory.join(".try");
    fs::write(&file, "").unwrap();
    let set = setxattr(&file, "user.try", b"", XattrFlags::empty());
    fs::remove_file(&file).unwrap();
    match set {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            skip("the file system of the tests has no extended attributes");
            false
        }
        set => {
            set.unwrap();
            true
        }
    }
}

/// A transfer, and what it reports as failed.
fn transfer() -> (Arc<Transfer>, Arc<Mutex<Vec<String>>>) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&failures);
    let transfer = Transfer::new(move |event| {
        if let TransferEvent::Failed { name, error } = event {
            log.lock().unwrap().push(format!("{name}: {error}"));
        }
    });
    (transfer, failures)
}

/// Puts a file or directory, and returns what failed.
async fn put_tree(client: &Client, from: &Path, to: &str, keep: Keep) -> Vec<String> {
    let options = StoreOptions {
        recursive: true,
        overwrite: true,
        keep,
        ..StoreOptions::default()
    };
    let job = UploadJob {
        from: from.to_owned(),
        to: path(to),
    };
    let (transfer, failures) = transfer();
    let storing = transfer::store(client, vec![job], options, &transfer);
    within("a put", storing).await;
    let failed = failures.lock().unwrap().clone();
    assert_eq!(failed.is_empty(), transfer.failed() == 0, "{failed:?}");
    failed
}

/// Gets a file or directory, and returns what failed.
async fn get_tree(client: &Client, from: &str, to: PathBuf, keep: Keep) -> Vec<String> {
    let mut options = FetchOptions {
        recursive: true,
        ..FetchOptions::default()
    };
    options.save.overwrite = true;
    options.save.keep = keep;
    let job = DownloadJob {
        from: path(from),
        to,
        contents: false,
    };
    let (transfer, failures) = transfer();
    let fetching = transfer::fetch(client, vec![job], options, &transfer);
    within("a get", fetching).await;
    let failed = failures.lock().unwrap().clone();
    assert_eq!(failed.is_empty(), transfer.failed() == 0, "{failed:?}");
    failed
}

/// Nothing that failed.
const NOTHING: Vec<String> = Vec::new();
