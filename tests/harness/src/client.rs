//! Shorthands for common requests of a client.

use std::io::Cursor;
use std::sync::atomic::AtomicU64;

use quire_client::download::{Download, Fetched, WriteToError};
use quire_client::upload::{Stored, UploadBody};
use quire_client::{Client, ClientError};
use quire_shared::digest::DigestKind;
use quire_shared::protocol::{
    CacheEntry, Chmod, Copy, Delete, Entry, Get, Hash, List, MakeDirectory, Precondition, Preserve,
    Put, Rename, Stat, Version,
};
use quire_shared::{ErrorCode, Name, RemotePath};

use super::within;

/// The path `text`.
#[track_caller]
pub fn path(text: &str) -> RemotePath {
    RemotePath::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// The name `text`.
#[track_caller]
pub fn name(text: &str) -> Name {
    Name::new(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A get of a whole file.
pub fn get(file: &str) -> Get {
    Get {
        path: path(file),
        offset: 0,
        length: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        digest_from_start: false,
        takes_extents: false,
        details: Default::default(),
    }
}

/// A put of `size` bytes, whether or not the name is taken.
pub fn put(file: &str, size: usize) -> Put {
    Put {
        path: path(file),
        size: Some(size as u64),
        modified: None,
        mode: None,
        digest: DigestKind::Xxh3,
        precondition: Precondition::Any,
        make_parents: false,
        preserve: Preserve::Usual,
        details: None,
    }
}

/// A stat.
pub fn stat(file: &str) -> Stat {
    Stat::of(path(file))
}

/// A rename that replaces a file.
pub fn rename(from: &str, to: &str) -> Rename {
    Rename {
        from: path(from),
        to: path(to),
        source: Precondition::Any,
        target: Precondition::Any,
        change_id: None,
    }
}

/// A delete of one file.
pub fn delete(file: &str) -> Delete {
    Delete {
        path: path(file),
        recursive: false,
        precondition: Precondition::Any,
        change_id: None,
    }
}

/// A recursive delete.
pub fn delete_all(directory: &str) -> Delete {
    Delete {
        recursive: true,
        ..delete(directory)
    }
}

/// A make-directory.
pub fn make_directory(directory: &str) -> MakeDirectory {
    MakeDirectory {
        path: path(directory),
        make_parents: false,
        precondition: Precondition::Any,
        change_id: None,
    }
}

/// A copy that replaces a file.
pub fn copy(from: &str, to: &str) -> Copy {
    Copy {
        from: path(from),
        to: path(to),
        recursive: false,
        source: Precondition::Any,
        target: Precondition::Any,
        preserve: Preserve::Usual,
        details: Default::default(),
        change_id: None,
        hard_link: false,
    }
}

/// A chmod.
pub fn chmod(file: &str, mode: u32) -> Chmod {
    Chmod {
        path: path(file),
        mode,
        precondition: Precondition::Any,
        details: None,
    }
}

/// A hash.
pub fn hash(file: &str, digest: DigestKind) -> Hash {
    Hash {
        path: path(file),
        digest,
    }
}

/// Fetches a whole file into memory.
pub async fn fetch(client: &Client, file: &str) -> Result<Vec<u8>, ClientError> {
    fetch_as(client, get(file)).await
}

/// Fetches into memory what `get` asks for.
pub async fn fetch_as(client: &Client, get: Get) -> Result<Vec<u8>, ClientError> {
    Ok(receive(client.get(get).await?).await?.0)
}

/// Receives a download into memory.
pub async fn receive(download: Download) -> Result<(Vec<u8>, Fetched), ClientError> {
    match within(
        "a content",
        download.write_to(Vec::new(), &AtomicU64::new(0)),
    )
    .await
    {
        Ok(received) => Ok(received),
        Err(WriteToError::Client(error)) => Err(error),
        Err(WriteToError::Sink(error)) => panic!("memory refused bytes: {error}"),
    }
}

/// Stores `bytes` under a name, and replaces a file.
pub async fn store(client: &Client, file: &str, bytes: &[u8]) -> Result<Stored, ClientError> {
    store_as(client, put(file, bytes.len()), bytes).await
}

/// Stores `bytes` with the options of `put`.
pub async fn store_as(client: &Client, put: Put, bytes: &[u8]) -> Result<Stored, ClientError> {
    let content = UploadBody::stream(Cursor::new(bytes.to_vec()), "memory");
    client.put(put, content, &AtomicU64::new(0)).await
}

/// All entries of a directory.
pub async fn list(client: &Client, directory: &str) -> Result<Vec<Entry>, ClientError> {
    let mut listing = client
        .list(List {
            path: path(directory),
            after: None,
        })
        .await?;
    let mut entries = Vec::new();
    while let Some(entry) = listing.next().await? {
        entries.push(entry);
    }
    Ok(entries)
}

/// All names in a directory.
pub async fn list_names(client: &Client, directory: &str) -> Result<Vec<String>, ClientError> {
    let entries = list(client, directory).await?;
    Ok(entries
        .iter()
        .map(|entry| entry.name.as_str().to_owned())
        .collect())
}

/// The entries of the server's memory cache, and its limit.
pub async fn cached(client: &Client) -> Result<(Vec<CacheEntry>, u64), ClientError> {
    let mut listing = client.cache().await?;
    let mut entries = Vec::new();
    while let Some(entry) = listing.next().await? {
        entries.push(entry);
    }
    Ok((entries, listing.limit()))
}

/// The current version of a name.
pub async fn version(client: &Client, file: &str) -> Version {
    client.stat(stat(file)).await.unwrap().version
}

/// The code of the server's refusal, as a reply or as a reset.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ErrorCode {
    match result {
        Ok(value) => panic!("expected a refusal, got {value:?}"),
        Err(ClientError::Refused(failure)) => failure.code(),
        Err(ClientError::Changed | ClientError::LocalChanged(_)) => ErrorCode::CHANGED,
        Err(ClientError::Damaged) => ErrorCode::DAMAGED,
        Err(ClientError::NotAuthorized { .. } | ClientError::NoRight { .. }) => {
            ErrorCode::NOT_AUTHORIZED
        }
        Err(ClientError::Closed(code)) => code,
        Err(error) => panic!("expected a refusal by the server, got: {error}"),
    }
}
