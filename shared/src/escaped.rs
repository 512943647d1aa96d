//! Names and texts made safe for a terminal, a log, or a line of output.
//!
//! A name is escaped so that different names never look alike, and so that what is printed can be
//! typed again: between `$'` and `'` in a shell, and in the interactive client as it is. A text in
//! which names are escaped already keeps its backslashes, or they would be doubled.

use std::fmt::{self, Write};
use std::path::Path;

/// A name, or text as a user typed it: control characters, characters that change the direction of
/// text, line separators and backslashes are shown as escapes. Different names look different.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '\\' => f.write_str("\\\\"),
            character => write_visible(f, character),
        })
    }
}

/// Text from the peer or the system, in which names are escaped already: as [`Escaped`], except
/// that a backslash stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        characters.try_for_each(|character| write_visible(f, character))
    }
}

/// A local path, as [`Escaped`]; a byte that isn't UTF-8 is shown as `\xff`.
#[derive(Debug, Clone, Copy)]
pub struct EscapedPath<'a>(pub &'a Path);

impl fmt::Display for EscapedPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EscapedBytes(self.0.as_os_str().as_encoded_bytes()).fmt(f)
    }
}

/// Bytes of a name or path that need not be UTF-8, as [`EscapedPath`].
#[derive(Debug, Clone, Copy)]
pub struct EscapedBytes<'a>(pub &'a [u8]);

impl fmt::Display for EscapedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            write!(f, "{}", Escaped(chunk.valid()))?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn write_visible(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        _ if is_invisible(character) => write!(f, "\\u{:04x}", u32::from(character)),
        _ => f.write_char(character),
    }
}

/// Whether a terminal would act on the character, or let it change the text around it. All of them
/// have four hexadecimal digits at most.
fn is_invisible(character: char) -> bool {
    match character {
        // Marks of direction, and the byte order mark.
        '\u{200E}' | '\u{200F}' | '\u{061C}' | '\u{FEFF}' => true,
        // Overrides and isolates of direction; line and paragraph separator.
        '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}' => true,
        _ => character.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn shown_text_can_not_command_a_terminal(text in any::<String>()) {
            let commands = |character: char| {
                character.is_control() || "\u{2028}\u{2029}\u{202e}\u{2066}".contains(character)
            };
            prop_assert!(!Escaped(&text).to_string().contains(commands));
            prop_assert!(!Printable(&text).to_string().contains(commands));
        }

        #[test]
        fn different_names_look_different(
            one in "[\\\\nu01b\n\u{1b}]{0,8}",
            other in "[\\\\nu01b\n\u{1b}]{0,8}",
        ) {
            let are_alike = Escaped(&one).to_string() == Escaped(&other).to_string();
            prop_assert_eq!(are_alike, one == other);
        }
    }

    #[test]
    fn a_newline_and_a_backslash_before_an_n_look_different() {
        assert_eq!(Escaped("a\nb").to_string(), "a\\nb");
        assert_eq!(Escaped("a\\nb").to_string(), "a\\\\nb");
        assert_eq!(Printable("a\\nb\n").to_string(), "a\\nb\\n");
    }

    // P35
    #[test]
    fn characters_that_turn_or_break_lines_are_escaped() {
        let text = "a\u{202e}b\u{2028}c\u{200f}d\u{feff}\r\u{7f}\u{85}é";
        let shown = Escaped(text).to_string();
        assert_eq!(shown, "a\\u202eb\\u2028c\\u200fd\\ufeff\\r\\u007f\\u0085é");
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_utf8_are_shown_one_by_one() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let shown = |bytes| EscapedPath(Path::new(OsStr::from_bytes(bytes))).to_string();
        assert_eq!(shown(b"d/a\xff\xfe.txt"), "d/a\\xff\\xfe.txt");
        assert_eq!(shown(b"a\\xff"), "a\\\\xff");
        assert_eq!(shown("\u{fffd}".as_bytes()), "\u{fffd}");
    }
}
