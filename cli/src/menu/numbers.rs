//! Numbered menu of common operations, for users who don't know the commands yet.
//!
//! Each number is a command. The answers to its questions become the words of a command line.

use super::reader::PromptKind;

/// An operation. Its number is its index in [`CHOICES`].
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) command: &'static str,
    title: &'static str,
    /// Questions, in the order of the operands.
    pub(super) questions: &'static [(&'static str, PromptKind)],
    /// Where the first operand is, if the command needs `-r` for a directory.
    pub(super) recursive: Option<PromptKind>,
}

impl Choice {
    /// The operation for a line that is a number; `None` for any other line.
    ///
    /// # Errors
    /// If no operation has that number.
    pub(super) fn find(line: &str) -> Option<Result<&'static Self, String>> {
        let line = line.trim();
        if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let found = line
            .parse()
            .ok()
            .and_then(|number: usize| CHOICES.get(number));
        Some(found.ok_or_else(|| format!("no operation has the number {line}")))
    }

    /// The words of the command, with `answers` as its operands.
    pub(super) fn words(&self, flags: &[&str], answers: &[String]) -> Vec<String> {
        // After `--`, an answer is never a flag.
        let end = if answers.is_empty() { None } else { Some("--") };
        let own = [self.command].into_iter().chain(flags.iter().copied());
        let own = own.chain(end).map(str::to_owned);
        own.chain(answers.iter().cloned()).collect()
    }
}

/// A line for each operation.
pub(super) fn overview() -> String {
    let lines = CHOICES.iter().enumerate();
    let lines: Vec<_> = lines
        .map(|(number, choice)| format!("{number:>4}  {}", choice.title))
        .collect();
    lines.join("\n")
}

/// Declares the operations: command, title, questions, and where a directory needs `-r`.
macro_rules! choices {
    ($($command:literal $title:literal [$($text:literal $kind:ident),*] $recursive:expr;)*) => {
        static CHOICES: &[Choice] = &[$(Choice {
            command: $command,
            title: $title,
            questions: &[$(($text, PromptKind::$kind)),*],
            recursive: $recursive,
        }),*];
    };
}

choices! {
    "quit" "quit" [] None;
    "list" "list the current directory" [] None;
    "get" "download a file or directory" ["File or directory on the server" Remote, "Local target (. for the local directory)" Local] Some(PromptKind::Remote);
    "put" "upload a file or directory" ["Local file or directory" Local, "Target on the server (. for the current directory)" Remote] Some(PromptKind::Local);
    "rename" "rename a file or directory" ["File or directory on the server" Remote, "New name" Remote] None;
    "copy" "copy a file or directory on the server" ["File or directory on the server" Remote, "Name of the copy" Remote] Some(PromptKind::Remote);
    "delete" "delete a file or directory" ["File or directory on the server" Remote] Some(PromptKind::Remote);
    "mkdir" "create a directory" ["Name of the directory" Remote] None;
    "stat" "show size, time and version of a file or directory" ["File or directory on the server" Remote] None;
    "cache" "list the files in the server's memory cache" [] None;
    "cd" "change the current directory" ["Directory on the server (.. for the one above)" Remote] None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::menu::line::ParsedLine;

    #[test]
    fn numbers_are_found_and_nothing_else_is() {
        let command = |line| Choice::find(line).unwrap().unwrap().command;
        assert_eq!(command("0"), "quit");
        assert_eq!(command(" 2 "), "get");
        assert_eq!(command("10"), "cd");
        for line in ["", "ls", "2 a", "-1", "1x"] {
            assert!(Choice::find(line).is_none(), "{line}");
        }
        for line in ["11", "99999999999999999999"] {
            Choice::find(line).unwrap().unwrap_err();
        }
    }

    #[test]
    fn every_choice_becomes_a_command_for_any_answers() {
        for choice in CHOICES {
            let answers = vec!["-r x'".to_owned(); choice.questions.len()];
            let recursive = choice.recursive.map(|_| "--recursive");
            let flags: Vec<_> = recursive.into_iter().collect();
            let line = ParsedLine::parse(&choice.words(&flags, &answers));
            assert!(matches!(line, Ok(ParsedLine::Run(_, _))), "{choice:?}");
        }
    }

    #[test]
    fn the_overview_has_a_line_for_every_number() {
        let text = overview();
        assert_eq!(text.lines().count(), CHOICES.len());
        assert!(text.contains("   0  quit"), "{text}");
    }
}
