//! Splitting of a line into words, with the quoting rules of shells.
//!
//! Blanks separate words; `'…'` is literal; a backslash protects `"` and `\` within `"…"`, and any
//! character elsewhere; `#` at the start of a word begins a comment. Nothing is expanded. Outside
//! `'…'`, the escapes that stand for control characters in printed names are read as those, so that
//! a name can be typed as it was printed. An unfinished line can be parsed as well, for completion.

use std::iter::Peekable;
use std::str::CharIndices;

use quire_shared::Escaped;

/// Splits `line` into words.
///
/// # Errors
/// If a quote isn't closed, or nothing follows the last backslash.
pub(super) fn split(line: &str) -> Result<Vec<String>, SplitError> {
    let scan = Scan::of(line);
    match scan.open {
        Some(LineEnd::Quote(quote)) => Err(SplitError::Unclosed(quote)),
        Some(LineEnd::Backslash) => Err(SplitError::Backslash),
        Some(LineEnd::Word | LineEnd::Comment) | None => {
            Ok(scan.words.into_iter().map(|word| word.text).collect())
        }
    }
}

/// Splits the part of a line before the cursor into the finished words and the one that is being
/// typed, which may be empty. Returns `None` within a comment.
pub(super) fn split_typed(line: &str) -> Option<(Vec<String>, Word)> {
    let mut scan = Scan::of(line);
    let typed = match scan.open {
        Some(LineEnd::Comment) => return None,
        Some(LineEnd::Word | LineEnd::Quote(_) | LineEnd::Backslash) => scan.words.pop(),
        None => None,
    };
    let typed = typed.unwrap_or(Word {
        start: line.len(),
        text: String::new(),
    });
    let finished = scan.words.into_iter().map(|word| word.text).collect();
    Some((finished, typed))
}

/// Quotes `text` so that [`split`] returns it as one word.
pub(super) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "''".to_owned();
    }
    let mut quoted = String::with_capacity(text.len());
    // Backslashes and control characters are escaped by this.
    for character in Escaped(text).to_string().chars() {
        if character.is_whitespace() || matches!(character, '\'' | '"' | '#') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

/// Reads the escapes of a name as it was printed, without quotes and without words. A backslash
/// before anything else stays.
pub(super) fn unescape(printed: &str) -> String {
    let mut name = String::with_capacity(printed.len());
    let mut characters = printed.char_indices().peekable();
    while let Some((_, character)) = characters.next() {
        name.push(match character {
            '\\' => match escaped(&mut characters) {
                Some(character) => character,
                None => {
                    characters.next_if(|(_, next)| *next == '\\');
                    '\\'
                }
            },
            character => character,
        });
    }
    name
}

/// Why a line can't be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum SplitError {
    /// A quote without its partner.
    #[error("the quote {0} isn't closed")]
    Unclosed(char),
    /// The line ends after a backslash.
    #[error("nothing follows the backslash at the end")]
    Backslash,
}

/// A word, and the byte of the line at which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) text: String,
}

/// State of the parser at the end of a line.
#[derive(Debug, Clone, Copy)]
enum LineEnd {
    Word,
    Quote(char),
    Backslash,
    Comment,
}

struct Scan {
    words: Vec<Word>,
    open: Option<LineEnd>,
}

impl Scan {
    fn of(line: &str) -> Self {
        let mut words = Vec::new();
        let mut word: Option<Word> = None;
        let mut quote = None;
        let mut open = None;
        let mut characters = line.char_indices().peekable();
        while let Some((start, character)) = characters.next() {
            match (quote, character) {
                (None, '#') if word.is_none() => {
                    open = Some(LineEnd::Comment);
                    break;
                }
                (None, blank) if blank.is_whitespace() => {
                    words.extend(word.take());
                    continue;
                }
                _ => {}
            }
            let text = &mut word
                .get_or_insert_with(|| Word {
                    start,
                    text: String::new(),
                })
                .text;
            match (quote, character) {
                (None, '\'' | '"') => quote = Some(character),
                (Some(closing), _) if character == closing => quote = None,
                (None | Some('"'), '\\') => match (escaped(&mut characters), characters.peek()) {
                    (Some(character), _) => text.push(character),
                    (None, Some((_, next))) if quote.is_none() || matches!(next, '"' | '\\') => {
                        text.push(*next);
                        characters.next();
                    }
                    (None, None) if quote.is_none() => open = Some(LineEnd::Backslash),
                    (None, _) => text.push('\\'),
                },
                _ => text.push(character),
            }
        }
        if let Some(quote) = quote {
            open = Some(LineEnd::Quote(quote));
        } else if word.is_some() {
            open = open.or(Some(LineEnd::Word));
        }
        words.extend(word);
        Self { words, open }
    }
}

/// Reads what follows a backslash if it is one of the escapes in printed names: `n`, `r`, `t`, or
/// `u` with four hexadecimal digits.
fn escaped(characters: &mut Peekable<CharIndices<'_>>) -> Option<char> {
    let mut ahead = characters.clone().map(|(_, character)| character);
    let (found, length) = match ahead.next()? {
        'n' => ('\n', 1),
        'r' => ('\r', 1),
        't' => ('\t', 1),
        'u' => {
            let digits: String = ahead.take(UNICODE_DIGITS).collect();
            let is_whole = digits.len() == UNICODE_DIGITS
                && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = u32::from_str_radix(&digits, 16).ok().filter(|_| is_whole)?;
            (char::from_u32(number)?, 1 + UNICODE_DIGITS)
        }
        _ => return None,
    };
    characters.by_ref().take(length).for_each(drop);
    Some(found)
}

/// Digits after `\u`, as [`Escaped`] prints them.
const UNICODE_DIGITS: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn words(line: &str, expected: &[&str]) {
        assert_eq!(split(line).unwrap(), expected, "{line}");
    }

    #[test]
    fn blanks_divide_and_quotes_and_backslashes_keep_together() {
        words("", &[]);
        words(" \t ", &[]);
        words("get a b", &["get", "a", "b"]);
        words("  get\ta  ", &["get", "a"]);
        words("get 'a  b' c", &["get", "a  b", "c"]);
        words(r#"get "a \"b\" \\ \m $x""#, &["get", r#"a "b" \ \m $x"#]);
        words(r"get 'a\b'", &["get", r"a\b"]);
        words(r"get a\ b\\c\'", &["get", r"a b\c'"]);
        words(r#"a'b'"c"d"#, &["abcd"]);
        words(r#"put '' """#, &["put", "", ""]);
        words("stat 'ä\u{2003}€'", &["stat", "ä\u{2003}€"]);
    }

    #[test]
    fn names_are_accepted_as_they_are_printed() {
        words(r"stat a\nb", &["stat", "a\nb"]);
        words(r"stat a\\nb", &["stat", r"a\nb"]);
        words(r#"stat "a b\tc\\n""#, &["stat", "a b\tc\\n"]);
        words(r"stat \u001b[2J\u202e", &["stat", "\u{1b}[2J\u{202e}"]);
        words(r"stat 'a\nb'", &["stat", r"a\nb"]);
        words(r"stat \u12 \ud800 \ux", &["stat", "u12", "ud800", "ux"]);
        for name in ["a\nb", "a\\nb", "\u{7}\u{feff}", "tab\t\\t"] {
            let printed = Escaped(name).to_string();
            words(&format!("stat {printed}"), &["stat", name]);
        }
    }

    #[test]
    fn comments_begin_with_a_word() {
        words("# all of it", &[]);
        words("ls # the rest", &["ls"]);
        words("ls a#b", &["ls", "a#b"]);
        words(r"ls \#a '#b'", &["ls", "#a", "#b"]);
        words("ls # 'not open", &["ls"]);
    }

    #[test]
    fn unclosed_quotes_and_a_last_backslash_are_errors() {
        assert_eq!(split("ls 'a b"), Err(SplitError::Unclosed('\'')));
        assert_eq!(split("ls \"a' b"), Err(SplitError::Unclosed('"')));
        assert_eq!(split("ls a\\"), Err(SplitError::Backslash));
    }

    #[test]
    fn the_word_being_typed_is_found_with_its_start() {
        let typed = |line: &str| {
            let (words, word) = split_typed(line).unwrap();
            (words.len(), word.start, word.text)
        };
        assert_eq!(typed(""), (0, 0, String::new()));
        assert_eq!(typed("ge"), (0, 0, "ge".to_owned()));
        assert_eq!(typed("get "), (1, 4, String::new()));
        assert_eq!(typed("get a\\ b"), (1, 4, "a b".to_owned()));
        assert_eq!(typed("get 'a b"), (1, 4, "a b".to_owned()));
        assert_eq!(typed("get x '"), (2, 6, String::new()));
        assert_eq!(typed("get a\\"), (1, 4, "a".to_owned()));
        assert!(split_typed("get # a").is_none());
    }

    proptest! {
        #[test]
        fn quoted_text_is_one_word(texts in proptest::collection::vec(".*", 0..4)) {
            let line: Vec<_> = texts.iter().map(|text| quote(text)).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), texts);
        }

        #[test]
        fn a_printed_name_is_read_as_the_name(name in ".*") {
            prop_assert_eq!(unescape(&Escaped(&name).to_string()), name);
        }

        #[test]
        fn any_line_is_read_up_to_any_place(line in ".*") {
            let _ = split(&line);
            if let Some((_, word)) = split_typed(&line) {
                prop_assert!(line.is_char_boundary(word.start));
            }
        }
    }
}
