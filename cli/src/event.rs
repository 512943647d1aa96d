//! Objects that `--json` prints: one for each outcome, whose kind is in the field `event`.
//!
//! Names and fields are part of the program's interface. docs/JSON.md documents them, and a test
//! compares it with what the program prints.

use std::path::Path;

use quire_client::RemotePath;
use quire_client::transfer::ItemName;
use serde_json::{Map, Value};

/// Declares the kinds of events with their names.
macro_rules! event_kinds {
    ($($name:ident $text:literal;)*) => {
        /// What an object of `--json` is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum EventKind {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The value of the field `event`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

event_kinds! {
    Absent "absent";
    Attributes "attributes";
    Cached "cached";
    Chmod "chmod";
    Copied "copied";
    Deleted "deleted";
    Directory "directory";
    Downloaded "downloaded";
    Entry "entry";
    Failed "failed";
    Hashed "hashed";
    Help "help";
    Key "key";
    Linked "linked";
    LocalDirectory "local-directory";
    Made "made";
    Paired "paired";
    Ping "ping";
    Renamed "renamed";
    Skipped "skipped";
    Step "step";
    Summary "summary";
    Unfinished "unfinished";
    Uploaded "uploaded";
}

/// An object that is being put together.
#[derive(Debug, Clone)]
pub struct Event(Map<String, Value>);

impl Event {
    pub(crate) fn new(kind: EventKind) -> Self {
        Self(Map::new()).with("event", kind.name())
    }

    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.0.insert(field.to_owned(), value.into());
        self
    }

    /// Adds a path on the server: exact, with a leading slash.
    pub(crate) fn remote(self, field: &str, path: &RemotePath) -> Self {
        match path.is_root() {
            true => self.with(field, "/"),
            false => self.with(field, format!("/{}", path.to_relative())),
        }
    }

    /// Adds a local path. One that isn't UTF-8 has its exact bytes in a second field.
    pub(crate) fn local(self, field: &str, path: &Path) -> Self {
        self.bytes(field, path.as_os_str().as_encoded_bytes())
    }

    /// Adds bytes that are UTF-8 as a rule. If they aren't, a second field has them in hexadecimal.
    pub(crate) fn bytes(self, field: &str, bytes: &[u8]) -> Self {
        let event = self.with(field, String::from_utf8_lossy(bytes));
        match std::str::from_utf8(bytes) {
            Ok(_) => event,
            Err(_) => {
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                event.with(&format!("{field}_hex"), digits)
            }
        }
    }

    /// Adds what an event of a transfer is about.
    pub(crate) fn item(self, name: &ItemName) -> Self {
        match name {
            ItemName::Remote(path) => self.remote("path", path),
            ItemName::Local(path) => self.local("local", path),
            ItemName::Other(text) => self.with("name", text.as_str()),
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(fields) = self;
        match serde_json::to_string(fields) {
            Ok(line) => f.write_str(&line),
            // Strings and numbers can always be written.
            Err(_) => Err(std::fmt::Error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_not_utf8_keeps_its_bytes() {
        let event = Event::new(EventKind::Skipped).bytes("local", b"a\xff");
        let expected = r#"{"event":"skipped","local":"a�","local_hex":"61ff"}"#;
        assert_eq!(event.to_string(), expected);
        let event = Event::new(EventKind::Skipped).local("local", Path::new("a\nb"));
        assert_eq!(event.to_string(), r#"{"event":"skipped","local":"a\nb"}"#);
    }
}
