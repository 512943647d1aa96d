//! Words that are probably mistyped commands.
//!
//! The first word may be a host, so that a mistyped command would be looked up as one. Only slips
//! of the fingers are taken for mistakes: a letter too many or too few, two letters swapped, and in
//! longer words another letter. Hosts with names so close to a command's are rare, and `quire menu
//! HOST` reaches them.

use clap::Command;

/// The command of `program` that was probably meant by `word`.
pub(crate) fn similar_command<'a>(program: &'a Command, word: &str) -> Option<&'a str> {
    let typed: Vec<char> = word.to_lowercase().chars().collect();
    let is_plain = typed.iter().all(char::is_ascii_alphabetic);
    if !is_plain || typed.len() < WORD_CHARS_MIN {
        return None;
    }
    let is_slip = |name: &&str| is_one_slip(&typed, &name.chars().collect::<Vec<_>>());
    program
        .get_subcommands()
        .map(Command::get_name)
        .chain(["help"])
        .find(is_slip)
}

/// Whether one slip makes `typed` of `meant`.
fn is_one_slip(typed: &[char], meant: &[char]) -> bool {
    let same_start = typed.iter().zip(meant).take_while(|(a, b)| a == b).count();
    let Some((typed, meant)) = typed.get(same_start..).zip(meant.get(same_start..)) else {
        return false;
    };
    match (typed, meant) {
        // Capitals alone.
        ([], []) => true,
        ([_, typed @ ..], _) if typed == meant => true,
        (_, [_, meant @ ..]) if typed == meant => true,
        ([a, b, typed @ ..], [c, d, meant @ ..]) if a == d && b == c && typed == meant => true,
        ([_, typed @ ..], [_, meant @ ..]) => {
            typed == meant && same_start + 1 + typed.len() >= SUBSTITUTION_CHARS_MIN
        }
        _ => false,
    }
}

/// Shortest word that is taken for a mistake: hosts with names of two letters, such as `pi`, are
/// common.
const WORD_CHARS_MIN: usize = 3;

/// Shortest command in which another letter counts as a slip: a host may well be called `bat`.
const SUBSTITUTION_CHARS_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::CliArgs;

    #[test]
    fn slips_are_found_and_hosts_are_left_alone() {
        let program = CliArgs::command();
        let similar = |word: &str| similar_command(&program, word);
        for (word, command) in [
            ("gett", "get"),
            ("lst", "list"),
            ("lsit", "list"),
            ("GET", "get"),
            ("delte", "delete"),
            ("renane", "rename"),
            ("mkdri", "mkdir"),
            ("copyy", "copy"),
            ("hepl", "help"),
        ] {
            assert_eq!(similar(word), Some(command), "{word}");
        }
        for host in [
            "pi",
            "bat",
            "pong",
            "nas",
            "server",
            "files.example",
            "get:1",
            "h4sh",
            "",
        ] {
            assert_eq!(similar(host), None, "{host}");
        }
    }
}
