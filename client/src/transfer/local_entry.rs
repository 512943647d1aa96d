//! Names of a server as names of local files.

use std::path::{Path, PathBuf};

use quire_shared::Name;

use crate::error::ClientError;

/// The path of the entry `name` in the local directory `directory`.
///
/// # Errors
/// [`ClientError::ForeignName`] for a name that this system can't have.
pub fn local_entry(directory: &Path, name: &Name) -> Result<PathBuf, ClientError> {
    if cfg!(windows) && is_refused_by_windows(name.as_str()) {
        return Err(ClientError::ForeignName(name.as_str().to_owned()));
    }
    match directory == Path::new(".") {
        true => Ok(name.as_str().into()),
        false => Ok(directory.join(name.as_str())),
    }
}

/// Whether Windows would take `name` for something else than a file of that name in the directory
/// where it is asked for: a path, a stream, a device, or a name that it shortens.
fn is_refused_by_windows(name: &str) -> bool {
    let is_reserved =
        |character: char| character.is_control() || r#"\:*?"<>|/"#.contains(character);
    let stem = name.split('.').next().unwrap_or(name).trim_end();
    let is_device = match stem.to_ascii_uppercase().as_str() {
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$" => true,
        stem => stem
            .strip_prefix("COM")
            .or_else(|| stem.strip_prefix("LPT"))
            .is_some_and(|number| {
                let mut characters = number.chars();
                characters
                    .next()
                    .is_some_and(|c| "0123456789¹²³".contains(c))
                    && characters.next().is_none()
            }),
    };
    is_device || name.contains(is_reserved) || name.ends_with(['.', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_names_are_told_apart() {
        for name in [
            "a:b", "a\\b", "con", "CON.txt", "aux.rs", "lpt1", "COM¹.x", "nul ", "x.", "x ", "a?",
            "a\nb",
        ] {
            assert!(is_refused_by_windows(name), "{name:?}");
        }
        for name in [
            "a",
            "console",
            "com",
            "com10",
            ".git",
            "é",
            "a b",
            "auxiliary.c",
        ] {
            assert!(!is_refused_by_windows(name), "{name:?}");
        }
    }
}
