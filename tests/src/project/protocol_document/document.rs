//! Parser of PROTOCOL.md: its grammar, tables, examples and requirements.

use std::path::Path;

/// The parts of the document that the tests need.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
    /// All blocks of CDDL, one after another.
    pub(super) cddl: String,
    pub(super) examples: Vec<Example>,
    /// Whole streams, in the order of their lines.
    pub(super) exchanges: Vec<Vec<ExchangeLine>>,
}

/// A message with its length prefix.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) rule: String,
    pub(super) bytes: Vec<u8>,
    pub(super) diagnostic: String,
    pub(super) title: String,
}

/// What one end sends at one point of an exchange.
#[derive(Debug)]
pub(super) struct ExchangeLine {
    /// A CDDL rule, `body` or `piece`.
    pub(super) rule: String,
    pub(super) bytes: Vec<u8>,
}

/// Reads a file of the repository.
pub(super) fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Document {
    pub(super) fn read() -> Self {
        let text = read("docs/PROTOCOL.md");
        let examples = blocks(&text, "examples").concat();
        let exchanges = blocks(&text, "exchanges").concat();
        Self {
            cddl: blocks(&text, "cddl").concat(),
            examples: Example::parse_all(&examples),
            exchanges: exchanges
                .split("\n\n")
                .map(|exchange| exchange.lines().map(ExchangeLine::parse).collect())
                .collect(),
            text,
        }
    }

    /// The cells of the table whose heading begins with `heading`.
    pub(super) fn table(&self, heading: &str) -> Vec<Vec<String>> {
        let rows = self
            .text
            .lines()
            .skip_while(|line| !line.starts_with(heading));
        let rows: Vec<_> = rows
            .skip(2)
            .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
            .map(|row| row.split(" | ").map(str::to_owned).collect())
            .collect();
        assert_ne!(rows.len(), 0, "no table `{heading}`");
        rows
    }

    /// The text in backquotes right after `before`, which occurs once.
    pub(super) fn quoted_after(&self, before: &str) -> &str {
        let found: Vec<_> = self.text.match_indices(&format!("{before}`")).collect();
        assert_eq!(found.len(), 1, "`{before}`");
        let start = found[0].0 + before.len() + 1;
        self.text[start..].split('`').next().unwrap()
    }

    /// Every word in backquotes that is written like the name of an error code.
    pub(super) fn mentioned_codes(&self) -> Vec<String> {
        let is_code = |word: &&str| {
            word.len() > 3 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        };
        let words = self.text.split('`').skip(1).step_by(2).filter(is_code);
        words.map(str::to_owned).collect()
    }

    /// Number and digest length of each digest kind in the grammar.
    pub(super) fn digest_kinds(&self) -> Vec<(u64, u64)> {
        let rule = self.cddl.split("digest-kind = ").nth(1).unwrap();
        let lines = rule.lines().take_while(|line| !line.starts_with("digest"));
        let kind = |line: &str| {
            let (number, comment) = line.split_once(';').unwrap();
            let (_, bytes) = comment.rsplit_once(": ").unwrap();
            let bytes = bytes.strip_suffix(" bytes").unwrap().parse().unwrap();
            (
                number.trim().trim_start_matches("/ ").parse().unwrap(),
                bytes,
            )
        };
        lines.map(kind).collect()
    }

    /// The numbers of the requirements, in their order.
    pub(super) fn requirements(&self) -> Vec<usize> {
        let lines = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("**P"));
        lines
            .map(|line| line.split_once(".**").unwrap().0.parse().unwrap())
            .collect()
    }
}

impl Example {
    /// Two lines each: rule and bytes, then diagnostic notation and title.
    fn parse_all(text: &str) -> Vec<Self> {
        let lines: Vec<_> = text.lines().collect();
        let pairs = lines.chunks_exact(2);
        assert!(pairs.remainder().is_empty(), "an example has two lines");
        let parse = |pair: &[&str]| {
            let ExchangeLine { rule, bytes } = ExchangeLine::parse(&format!("C {}", pair[0]));
            let (diagnostic, title) = pair[1].split_once(" ; ").unwrap_or((pair[1], ""));
            let (diagnostic, title) = (diagnostic.trim().to_owned(), title.to_owned());
            Self {
                rule,
                bytes,
                diagnostic,
                title,
            }
        };
        pairs.map(parse).collect()
    }
}

impl ExchangeLine {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        assert!(matches!(words.next(), Some("C" | "S")), "{line}");
        let rule = words.next().unwrap().to_owned();
        Self {
            rule,
            bytes: words.flat_map(bytes).collect(),
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    let digits = (0..hex.len())
        .step_by(2)
        .map(|start| &hex[start..start + 2]);
    digits
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

/// The contents of the fenced blocks with this information string.
fn blocks(text: &str, info: &str) -> Vec<String> {
    let fence = format!("```{info}\n");
    let blocks: Vec<_> = text.split(&fence).skip(1).collect();
    assert_ne!(blocks.len(), 0, "no block of {info}");
    blocks
        .iter()
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}
