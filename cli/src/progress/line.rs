//! The line that shows the progress of a transfer, as much of it as the terminal has room for.

use std::time::Duration;

use indicatif::HumanBytes;

/// Progress of a transfer at one moment.
#[derive(Debug, Clone)]
pub(super) struct ProgressLine {
    pub(super) moved: u64,
    pub(super) total: BytesTotal,
    /// Bytes per second, as of late.
    pub(super) rate: f64,
    pub(super) files: u64,
    /// A file in transfer, safe to show.
    pub(super) name: String,
}

/// Bytes that are to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BytesTotal {
    /// All was found.
    Known(u64),
    /// Found so far.
    AtLeast(u64),
    /// The end can't be foreseen, as of a pipe.
    Unknown,
}

impl ProgressLine {
    /// The line for a terminal of so many columns. What matters less is left out first.
    pub(super) fn fit(&self, width: usize) -> String {
        let moved = HumanBytes(self.moved);
        let mut head = match self.total {
            BytesTotal::Known(total) => format!("{moved} of {}", HumanBytes(total)),
            BytesTotal::AtLeast(total) => format!("{moved} of at least {}", HumanBytes(total)),
            BytesTotal::Unknown => moved.to_string(),
        };
        if columns(&head) > width {
            head = self.percent().unwrap_or_else(|| moved.to_string());
        }
        let mut tail = String::new();
        for part in [self.rate_text(), self.time_left(), self.files_text()] {
            let Some(part) = part else { continue };
            if columns(&head) + columns(&tail) + SEPARATOR.len() + columns(&part) <= width {
                tail.push_str(SEPARATOR);
                tail.push_str(&part);
            }
        }
        let spare = width.saturating_sub(columns(&head) + columns(&tail));
        let bar = self.bar(spare);
        let spare = spare - columns(&bar);
        format!("{head}{bar}{tail}{}", self.name_text(spare))
    }

    fn percent(&self) -> Option<String> {
        match self.total {
            BytesTotal::Known(total) => Some(format!("{} %", hundredths(self.moved, total))),
            BytesTotal::AtLeast(_) | BytesTotal::Unknown => None,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is not negative, and the fraction of a byte says nothing"
    )]
    fn rate_text(&self) -> Option<String> {
        let rate = self.rate as u64;
        (rate > 0).then(|| format!("{}/s", HumanBytes(rate)))
    }

    fn time_left(&self) -> Option<String> {
        let BytesTotal::Known(total) = self.total else {
            return None;
        };
        let left = total.saturating_sub(self.moved) as f64 / self.rate;
        let left = Duration::try_from_secs_f64(left).ok()?.as_secs();
        let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
        match left {
            0..60 => Some(format!("{seconds} s left")),
            60..3600 => Some(format!("{minutes}:{seconds:02} left")),
            3600..360_000 => Some(format!("{hours}:{minutes:02}:{seconds:02} left")),
            _ => None,
        }
    }

    fn files_text(&self) -> Option<String> {
        (self.files > 0).then(|| super::count_text(self.files, "file", "files"))
    }

    /// A bar in some of `spare` columns, if the whole is known.
    fn bar(&self, spare: usize) -> String {
        let BytesTotal::Known(total) = self.total else {
            return String::new();
        };
        let inside = spare.saturating_sub(BAR_FRAME).min(BAR_MAX);
        if inside < BAR_MIN {
            return String::new();
        }
        let filled = hundredths(self.moved, total) * inside / 100;
        format!(" [{}{}]", "#".repeat(filled), "-".repeat(inside - filled))
    }

    /// The name in `spare` columns, of which the end tells most.
    fn name_text(&self, spare: usize) -> String {
        let room = spare.saturating_sub(NAME_GAP.len());
        let length = columns(&self.name);
        match length {
            0 => String::new(),
            _ if length <= room => format!("{NAME_GAP}{}", self.name),
            _ if room < NAME_MIN => String::new(),
            _ => {
                let end = self.name.chars().skip(length - room + 1);
                format!("{NAME_GAP}…{}", end.collect::<String>())
            }
        }
    }
}

/// How many hundredths of `total` are `part`.
fn hundredths(part: u64, total: u64) -> usize {
    let hundredths = u128::from(part) * 100 / u128::from(total.max(1));
    usize::try_from(hundredths.min(100)).unwrap_or(100)
}

/// Columns that `text` takes. Wide characters are cut off by the terminal's width at the end.
fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Between two parts.
const SEPARATOR: &str = ", ";

/// Before the name.
const NAME_GAP: &str = "  ";

/// Columns of the brackets around a bar, and of the blank before them.
const BAR_FRAME: usize = 3;

/// Columns within a bar: below that it shows nothing, and above it takes room from the name.
const BAR_MIN: usize = 8;
const BAR_MAX: usize = 20;

/// Columns of a name that is cut off, below which it says nothing.
const NAME_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(total: BytesTotal) -> ProgressLine {
        ProgressLine {
            moved: 3 << 20,
            total,
            rate: (1 << 20).into(),
            files: 2,
            name: "/photos/2026/summer/a.jpg".to_owned(),
        }
    }

    #[test]
    fn a_known_total_has_a_bar_and_the_time_left() {
        let line = line(BytesTotal::Known(12 << 20));
        assert_eq!(
            line.fit(100),
            "3.00 MiB of 12.00 MiB [#####---------------], 1.00 MiB/s, 9 s left, 2 files  \
             …otos/2026/summer/a.jpg"
        );
        assert_eq!(
            line.fit(60),
            "3.00 MiB of 12.00 MiB, 1.00 MiB/s, 9 s left, 2 files"
        );
        assert_eq!(line.fit(35), "3.00 MiB of 12.00 MiB, 1.00 MiB/s");
        assert_eq!(line.fit(20), "25 %, 1.00 MiB/s");
        assert_eq!(line.fit(4), "25 %");
    }

    #[test]
    fn a_total_that_is_not_known_is_not_pretended() {
        let found = line(BytesTotal::AtLeast(12 << 20)).fit(80);
        assert_eq!(
            found,
            "3.00 MiB of at least 12.00 MiB, 1.00 MiB/s, 2 files  /photos/2026/summer/a.jpg"
        );
        let unknown = line(BytesTotal::Unknown).fit(40);
        assert_eq!(unknown, "3.00 MiB, 1.00 MiB/s, 2 files  …er/a.jpg");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for moved in [0, 1, 1023, 5 << 30, u64::MAX] {
            for total in [
                BytesTotal::Known(u64::MAX),
                BytesTotal::Known(0),
                BytesTotal::AtLeast(moved),
                BytesTotal::Unknown,
            ] {
                let line = ProgressLine {
                    moved,
                    rate: 0.5,
                    ..line(total)
                };
                for width in 10..200 {
                    let text = line.fit(width);
                    assert!(columns(&text) <= width, "{width}: {text}");
                }
            }
        }
    }
}
