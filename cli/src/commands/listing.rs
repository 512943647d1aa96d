//! Commands that show files and cache of the server: list, stat, cache.

use indicatif::HumanBytes;
use quire_shared::protocol::{Attributes, Entry, EntryKind, List, Stat};
use serde_json::{Value, json};

use super::{CommandError, ErrorContext, json_kind, json_path, mode_text, time_text};
use crate::args::{CacheArgs, ListArgs, StatArgs};
use crate::exit::Exit;
use crate::hint::HintFlags;
use crate::operand::Remote;
use crate::progress;
use crate::session::CliSession;
use quire_client::ClientError;

/// Lists a directory.
///
/// # Errors
/// If it can't be listed.
pub(super) async fn list(session: &CliSession, args: &ListArgs) -> Result<Exit, CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let list = List {
        path: remote.path.clone(),
        after: None,
    };
    let mut listing = client.list(list).await.about(&remote.path)?;
    let output = &session.output;
    let is_long = args.long || output.is_for_people();
    while let Some(entry) = listing.next().await.about(&remote.path)? {
        output.result(
            || match is_long {
                true => long_line(&entry, output.is_for_people()),
                false => entry.name.to_string(),
            },
            || {
                let mut object = json_attributes(&entry.attributes);
                if let Value::Object(object) = &mut object {
                    object.insert("name".to_owned(), json!(entry.name.as_str()));
                }
                object
            },
        )?;
    }
    if listing.unnameable() > 0 {
        let error = ClientError::Unnameable(listing.unnameable());
        output.error(&remote.path.to_string(), &error, HintFlags::NONE);
    }
    Ok(Exit::Done)
}

/// Shows the metadata of a file or directory.
///
/// # Errors
/// If there is no such path, or it can't be read.
pub(super) async fn stat(session: &CliSession, args: &StatArgs) -> Result<Exit, CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let stat = Stat {
        path: remote.path.clone(),
    };
    let attributes = client.stat(stat).await.about(&remote.path)?;
    session.output.result(
        || {
            format!(
                "path      {}\nkind      {}\nsize      {}\nmodified  {}\nmode      {}\nversion   {}",
                remote.path,
                json_kind(attributes.kind),
                attributes.size,
                time_text(attributes.modified),
                mode_text(attributes.kind, attributes.mode),
                attributes.version,
            )
        },
        || {
            let mut object = json_attributes(&attributes);
            if let Value::Object(object) = &mut object {
                object.insert("path".to_owned(), json_path(&remote.path));
            }
            object
        },
    )?;
    Ok(Exit::Done)
}

/// Lists the files in the server's memory cache.
///
/// # Errors
/// If the server refuses, or there is no connection.
pub(super) async fn cache(session: &CliSession, args: &CacheArgs) -> Result<Exit, CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let mut listing = client.cache().await?;
    let output = &session.output;
    let is_for_people = output.is_for_people();
    let mut files = 0_u64;
    let mut bytes = 0_u64;
    while let Some(entry) = listing.next().await? {
        files += 1;
        bytes = bytes.saturating_add(entry.bytes);
        output.result(
            || {
                format!(
                    "{:>12} {:>8} hits {:>5} readers  {}",
                    size_text(entry.bytes, is_for_people),
                    entry.hits,
                    entry.readers,
                    entry.path
                )
            },
            || {
                json!({
                    "path": json_path(&entry.path),
                    "bytes": entry.bytes,
                    "hits": entry.hits,
                    "readers": entry.readers,
                })
            },
        )?;
    }
    output.note(&format!(
        "{}, {} of {}",
        progress::files_text(files),
        HumanBytes(bytes),
        HumanBytes(listing.limit())
    ));
    Ok(Exit::Done)
}

fn long_line(entry: &Entry, is_for_people: bool) -> String {
    let Entry { name, attributes } = entry;
    let (size, mark) = match attributes.kind {
        EntryKind::File => (size_text(attributes.size, is_for_people), ""),
        EntryKind::Directory => ("-".to_owned(), "/"),
        EntryKind::Symlink => ("-".to_owned(), "@"),
        EntryKind::Other => ("-".to_owned(), ""),
    };
    format!(
        "{} {size:>12} {} {name}{mark}",
        mode_text(attributes.kind, attributes.mode),
        time_text(attributes.modified),
    )
}

/// Formats a size for people, or in bytes for programs.
fn size_text(bytes: u64, is_for_people: bool) -> String {
    match is_for_people {
        true => HumanBytes(bytes).to_string(),
        false => bytes.to_string(),
    }
}

fn json_attributes(attributes: &Attributes) -> Value {
    json!({
        "kind": json_kind(attributes.kind),
        "size": attributes.size,
        "modified": {
            "seconds": attributes.modified.seconds,
            "nanoseconds": attributes.modified.nanoseconds,
        },
        "mode": attributes.mode,
        "version": attributes.version.to_string(),
    })
}
