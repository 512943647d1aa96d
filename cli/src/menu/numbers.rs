//! The operations by number, for who doesn't want to type commands.
//!
//! A number stands for a command and what has to be asked for it; the answers become the words of
//! a line, so that from there on nothing differs from a typed command.

use super::reader::PromptKind;

/// An operation that has a number.
#[derive(Debug)]
pub(super) struct Choice {
    number: u8,
    title: &'static str,
    /// The command it stands for.
    pub(super) command: &'static str,
    /// What has to be asked, in the order of the operands.
    pub(super) questions: &'static [Question],
    /// Whether the command needs to be told that an operand is a directory, and which of them.
    pub(super) recursion: Recursion,
    /// Whether the command takes `--force`.
    pub(super) can_replace: bool,
}

/// Something to ask.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) text: &'static str,
    pub(super) kind: PromptKind,
}

/// Which operand decides whether a command works on a whole directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recursion {
    Never,
    /// The first operand, if it is a directory on the server.
    Remote,
    /// The first operand, if it is a directory here.
    Local,
}

impl Choice {
    /// The operation that a line consisting of a number asks for; nothing if the line is anything
    /// else.
    ///
    /// # Errors
    /// If no operation has that number.
    pub(super) fn find(line: &str) -> Option<Result<&'static Self, String>> {
        let line = line.trim();
        if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let found = CHOICES
            .iter()
            .find(|choice| line.parse() == Ok(choice.number));
        Some(found.ok_or_else(|| format!("no operation has the number {line}")))
    }

    /// The words of the command, `answers` being its operands.
    pub(super) fn words(&self, flags: &[&str], answers: &[String]) -> Vec<String> {
        let mut words = vec![self.command.to_owned()];
        words.extend(flags.iter().map(|&flag| flag.to_owned()));
        if !answers.is_empty() {
            // An answer is never a flag.
            words.push("--".to_owned());
        }
        words.extend(answers.iter().cloned());
        words
    }
}

/// The list of all operations, for people.
pub(super) fn overview() -> String {
    let lines: Vec<_> = CHOICES
        .iter()
        .map(|choice| format!("{:>4}  {}", choice.number, choice.title))
        .collect();
    lines.join("\n")
}

const FILE: Question = Question {
    text: "Which file or directory on the server",
    kind: PromptKind::Remote,
};

static CHOICES: &[Choice] = &[
    Choice {
        number: 1,
        title: "list the current directory",
        command: "list",
        questions: &[],
        recursion: Recursion::Never,
        can_replace: false,
    },
    Choice {
        number: 2,
        title: "get a file or directory",
        command: "get",
        questions: &[
            FILE,
            Question {
                text: "Where to, here (. is the local directory)",
                kind: PromptKind::Local,
            },
        ],
        recursion: Recursion::Remote,
        can_replace: true,
    },
    Choice {
        number: 3,
        title: "put a file or directory",
        command: "put",
        questions: &[
            Question {
                text: "Which local file or directory",
                kind: PromptKind::Local,
            },
            Question {
                text: "Where to, on the server (. is the current directory)",
                kind: PromptKind::Remote,
            },
        ],
        recursion: Recursion::Local,
        can_replace: true,
    },
    Choice {
        number: 4,
        title: "rename a file or directory",
        command: "rename",
        questions: &[
            FILE,
            Question {
                text: "Its new name",
                kind: PromptKind::Remote,
            },
        ],
        recursion: Recursion::Never,
        can_replace: true,
    },
    Choice {
        number: 5,
        title: "copy a file or directory, on the server",
        command: "copy",
        questions: &[
            FILE,
            Question {
                text: "The name of the copy",
                kind: PromptKind::Remote,
            },
        ],
        recursion: Recursion::Remote,
        can_replace: true,
    },
    Choice {
        number: 6,
        title: "delete a file or directory",
        command: DELETE,
        questions: &[FILE],
        recursion: Recursion::Remote,
        can_replace: false,
    },
    Choice {
        number: 7,
        title: "make a directory",
        command: "mkdir",
        questions: &[Question {
            text: "Its name",
            kind: PromptKind::Remote,
        }],
        recursion: Recursion::Never,
        can_replace: false,
    },
    Choice {
        number: 8,
        title: "show what is known of a file or directory",
        command: "stat",
        questions: &[FILE],
        recursion: Recursion::Never,
        can_replace: false,
    },
    Choice {
        number: 9,
        title: "show what the server holds in memory",
        command: "cache",
        questions: &[],
        recursion: Recursion::Never,
        can_replace: false,
    },
    Choice {
        number: 10,
        title: "change the current directory",
        command: "cd",
        questions: &[Question {
            text: "Which directory on the server (.. is the one above)",
            kind: PromptKind::Remote,
        }],
        recursion: Recursion::Never,
        can_replace: false,
    },
    Choice {
        number: 0,
        title: "quit",
        command: "quit",
        questions: &[],
        recursion: Recursion::Never,
        can_replace: false,
    },
];

/// The command that asks before it works.
pub(super) const DELETE: &str = "delete";

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
    fn every_choice_becomes_a_command_whatever_the_answers() {
        for choice in CHOICES {
            let answers = vec!["-r x'".to_owned(); choice.questions.len()];
            let mut flags = Vec::new();
            if choice.recursion != Recursion::Never {
                flags.push("--recursive");
            }
            if choice.can_replace {
                flags.push("--force");
            }
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
