//! Commands that show what is on the server: list, stat, cache, uploads.

use indicatif::HumanBytes;
use quire_shared::protocol::{Attributes, Entry, EntryKind, List, Stat, Time};
use quire_shared::{ErrorCode, EscapedBytes, RemotePath};

use super::{CommandError, ErrorContext, kind_text, mode_text, require_directory, time_text};
use crate::args::{CacheArgs, ListArgs, StatArgs, UploadsArgs};
use crate::event::{Event, EventKind};
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::operand::Remote;
use crate::progress;
use crate::session::CliSession;
use quire_client::{Client, ClientError};
use serde_json::{Value, json};

/// Lists a directory, or shows a single file as an entry.
///
/// # Errors
/// If it can't be listed.
pub(super) async fn list(session: &CliSession, args: &ListArgs) -> Result<(), CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let list = List {
        path: remote.path.clone(),
        after: None,
    };
    let mut listing = match client.list(list).await {
        Ok(listing) => listing,
        Err(error) => {
            let entry = no_directory(&client, &remote, error).await?;
            return Ok(print_entry(session, args, &entry)?);
        }
    };
    while let Some(entry) = listing.next().await.about(&remote.path)? {
        print_entry(session, args, &entry)?;
    }
    if listing.unnameable().count > 0 {
        let error = ClientError::Unnameable(listing.unnameable().clone());
        return Err(error).about(&remote.path);
    }
    Ok(())
}

/// The entry for a path that turned out to be no directory, unless only a directory was meant.
async fn no_directory(
    client: &Client,
    remote: &Remote,
    error: ClientError,
) -> Result<Entry, CommandError> {
    let path = &remote.path;
    let codes = [ErrorCode::NOT_DIRECTORY, ErrorCode::SPECIAL_FILE];
    let is_file = error.code().is_some_and(|code| codes.contains(&code));
    if let (true, false, Some(name)) = (is_file, remote.is_directory, path.name())
        && let Ok(attributes) = client.stat(Stat::of(path.clone())).await
    {
        return Ok(Entry {
            name: name.clone(),
            attributes,
        });
    }
    Err(explained(client, path, &error).await)
}

async fn explained(client: &Client, path: &RemotePath, error: &ClientError) -> CommandError {
    let failure = CommandFailure::new(Subject::Item(path.into()), error, HintFlags::NONE);
    CommandError::Failed(Box::new(failure.explain(client).await))
}

fn print_entry(session: &CliSession, args: &ListArgs, entry: &Entry) -> std::io::Result<()> {
    let output = &session.output;
    output.result(
        || match args.long || output.is_for_people() {
            true => long_line(entry, output.is_for_people()),
            false => entry.name.to_string(),
        },
        || {
            let event = Event::new(EventKind::Entry).with("name", entry.name.as_str());
            with_attributes(event, &entry.attributes)
        },
    )
}

/// Shows the metadata of a file or directory.
///
/// # Errors
/// If there is no such path, or it can't be read.
pub(super) async fn stat(session: &CliSession, args: &StatArgs) -> Result<(), CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let stat = Stat::of(remote.path.clone());
    let found = match require_directory(&client, &remote).await {
        Ok(()) => client.stat(stat).await,
        Err(error) => Err(error),
    };
    let attributes = match found {
        Ok(attributes) => attributes,
        Err(error) => return Err(explained(&client, &remote.path, &error).await),
    };
    session.output.result(
        || {
            format!(
                "path      {}\nkind      {}{}\nsize      {}\nmodified  {}\nmode      {}\nversion   {}",
                remote.path,
                kind_text(attributes.kind),
                target_text(&attributes)
                    .map_or_else(String::new, |target| format!("\ntarget    {target}")),
                attributes.size,
                time_text(attributes.modified),
                mode_text(attributes.kind, attributes.mode),
                attributes.version,
            )
        },
        || {
            let event = Event::new(EventKind::Attributes).remote("path", &remote.path);
            with_attributes(event, &attributes)
        },
    )?;
    Ok(())
}

/// Lists the files in the server's memory cache.
///
/// # Errors
/// If the server refuses, or there is no connection.
pub(super) async fn cache(session: &CliSession, args: &CacheArgs) -> Result<(), CommandError> {
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
                Event::new(EventKind::Cached)
                    .remote("path", &entry.path)
                    .with("bytes", entry.bytes)
                    .with("hits", entry.hits)
                    .with("readers", entry.readers)
            },
        )?;
    }
    let limit = listing.limit();
    output.event(|| {
        Event::new(EventKind::Summary)
            .with("files", files)
            .with("bytes", bytes)
            .with("limit", limit)
    });
    if !output.is_json() {
        output.note(&format!(
            "{}, {} of {}",
            progress::count_text(files, "file", "files"),
            HumanBytes(bytes),
            HumanBytes(limit)
        ));
    }
    Ok(())
}

/// Lists what interrupted uploads have left on the server, or removes it.
///
/// # Errors
/// If the server refuses, or there is no connection.
pub(super) async fn uploads(session: &CliSession, args: &UploadsArgs) -> Result<(), CommandError> {
    let remote = Remote::parse(&args.operand)?;
    let client = session.client(&remote.server).await?;
    let found = client.unfinished_uploads(remote.path.clone(), args.remove);
    let found = found.await.about(&remote.path)?;
    let output = &session.output;
    let is_for_people = output.is_for_people();
    let size = |bytes| size_text(bytes, is_for_people);
    let mut bytes = 0_u64;
    for upload in &found {
        bytes = bytes.saturating_add(upload.received);
        let is_removed = args.remove && !upload.is_active;
        output.result(
            || {
                let state = match (is_removed, upload.is_active) {
                    (true, _) => "removed".to_owned(),
                    (false, true) => "being uploaded".to_owned(),
                    (false, false) => format!("until {}", time_text(upload.expires)),
                };
                format!(
                    "{:>12} of {:>12}  {state:<26} {}",
                    size(upload.received),
                    size(upload.size),
                    upload.path
                )
            },
            || {
                Event::new(EventKind::Unfinished)
                    .remote("path", &upload.path)
                    .with("bytes", upload.received)
                    .with("size", upload.size)
                    .with("last", time_json(upload.last))
                    .with("expires", time_json(upload.expires))
                    .with("active", upload.is_active)
                    .with("removed", is_removed)
            },
        )?;
    }
    let files = found.len() as u64;
    output.event(|| {
        Event::new(EventKind::Summary)
            .with("files", files)
            .with("bytes", bytes)
    });
    if !output.is_json() {
        output.note(&format!(
            "{}, {}",
            progress::count_text(files, "upload", "uploads"),
            HumanBytes(bytes)
        ));
    }
    Ok(())
}

fn long_line(entry: &Entry, is_for_people: bool) -> String {
    let Entry { name, attributes } = entry;
    let (size, mark) = match attributes.kind {
        EntryKind::File => (size_text(attributes.size, is_for_people), String::new()),
        EntryKind::Directory => ("-".to_owned(), "/".to_owned()),
        EntryKind::Symlink => match target_text(attributes) {
            Some(target) => ("-".to_owned(), format!(" -> {target}")),
            None => ("-".to_owned(), "@".to_owned()),
        },
        EntryKind::Other => ("-".to_owned(), String::new()),
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

/// The target of a symbolic link, safe to show, if the server tells it.
fn target_text(attributes: &Attributes) -> Option<String> {
    let target = attributes.target.as_ref()?;
    Some(EscapedBytes(target.as_bytes()).to_string())
}

fn time_json(time: Time) -> Value {
    json!({ "seconds": time.seconds, "nanoseconds": time.nanoseconds })
}

fn with_attributes(event: Event, attributes: &Attributes) -> Event {
    let event = match &attributes.target {
        Some(target) => event.bytes("target", target.as_bytes()),
        None => event,
    };
    event
        .with("kind", kind_text(attributes.kind))
        .with("size", attributes.size)
        .with("modified", time_json(attributes.modified))
        .with("mode", attributes.mode)
        .with("version", attributes.version.to_string())
}
