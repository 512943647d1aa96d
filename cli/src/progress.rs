//! What is shown while a command works, and the summary of a transfer at its end.

mod line;

use std::future::Future;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::output::Output;
use line::{BytesTotal, ProgressLine};
use quire_client::transfer::Transfer;

/// Awaits `work` while a line on standard error shows the progress of `transfer`, if that is a
/// terminal.
pub(crate) async fn watch<T>(
    output: &Output,
    transfer: &Transfer,
    bar: &ProgressBar,
    work: impl Future<Output = T>,
) -> T {
    redraw(output, bar, work, || {
        let (total, is_known) = transfer.total();
        let moved = transfer.moved();
        bar.set_position(moved);
        let line = ProgressLine {
            moved,
            total: match (total, is_known) {
                (0, _) => BytesTotal::Unknown,
                (total, true) => BytesTotal::Known(total.max(moved)),
                (total, false) => BytesTotal::AtLeast(total.max(moved)),
            },
            rate: bar.per_sec(),
            files: transfer.files(),
            name: bar.prefix(),
        };
        line.fit(width())
    })
    .await
}

/// Awaits `work`, in which the server does what `what` says, and shows how long that takes.
pub(crate) async fn wait<T>(output: &Output, what: &str, work: impl Future<Output = T>) -> T {
    let bar = bar(output);
    let started = Instant::now();
    let show = || match started.elapsed() {
        // What ends at once needs no line.
        elapsed if elapsed < LINE_DELAY => String::new(),
        elapsed => format!("{what}, {} s", elapsed.as_secs()),
    };
    redraw(output, &bar, work, show).await
}

/// Awaits `work`, and meanwhile draws what `show` returns, if anybody wants to see it.
async fn redraw<T>(
    output: &Output,
    bar: &ProgressBar,
    work: impl Future<Output = T>,
    show: impl Fn() -> String,
) -> T {
    if !output.shows_progress() {
        return work.await;
    }
    let _shown = output.show_bar(bar.clone());
    tokio::pin!(work);
    let mut ticks = tokio::time::interval(REDRAW_INTERVAL);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => bar.set_message(show()),
        }
    }
}

/// A line that is redrawn, which stays hidden where nobody wants to see it.
pub(crate) fn bar(output: &Output) -> ProgressBar {
    if !output.shows_progress() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    // The template is a constant, and a test checks it.
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style);
    }
    bar
}

/// Columns of the terminal on standard error.
#[cfg(unix)]
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| size.ws_col);
    if columns == 0 { WIDTH } else { columns.into() }
}

/// Columns of the terminal on standard error, on systems that aren't asked.
#[cfg(not(unix))]
fn width() -> usize {
    WIDTH
}

/// Summary of a finished transfer, in one line.
pub(crate) fn summary(transfer: &Transfer, digest: &str, elapsed: Duration) -> String {
    let mut text = format!(
        "{}, {} in {:.2} s ({}/s, {digest})",
        counts_text(transfer),
        HumanBytes(transfer.arrived()),
        elapsed.as_secs_f64(),
        HumanBytes(rate(transfer.arrived(), elapsed)),
    );
    for (count, what) in [
        (transfer.present(), "there already"),
        (transfer.skipped(), "skipped: neither file nor directory"),
        (transfer.failed(), "failed"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

/// The numbers of files, directories and links, in words.
fn counts_text(transfer: &Transfer) -> String {
    let mut text = count_text(transfer.files(), "file", "files");
    for (count, one, many) in [
        (transfer.directories(), "directory", "directories"),
        (transfer.links(), "link", "links"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {}", count_text(count, one, many)));
        }
    }
    text
}

/// A number of things, in words.
pub(crate) fn count_text(count: u64, one: &str, many: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Bytes per second.
fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / elapsed.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The line, cut off at the edge of the terminal.
const TEMPLATE: &str = "{wide_msg}";

/// Columns of a terminal that doesn't tell its size.
const WIDTH: usize = 80;

/// How long a command works before its duration is shown.
const LINE_DELAY: Duration = Duration::from_secs(1);

/// Interval of drawing: smooth for the eye, and cheap.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use quire_client::download::PartUse;
    use quire_client::transfer::Moved;
    use quire_shared::RemotePath;
    use quire_shared::digest::DigestKind;
    use quire_shared::protocol::Version;

    use super::*;

    #[test]
    fn the_template_is_valid() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn a_summary_has_bytes_time_rate_and_digest() {
        let transfer = Transfer::new(|_| {});
        // Bytes of a file that fails are moved, and don't arrive.
        transfer
            .counter()
            .fetch_add(5000, std::sync::atomic::Ordering::Relaxed);
        let moved = Moved {
            name: "f".to_owned(),
            local: "f".into(),
            remote: RemotePath::ROOT,
            bytes: 2048,
            digest: DigestKind::Xxh3.of(b""),
            digest_kind: DigestKind::Xxh3,
            version: Version::new(b"").unwrap(),
            grew: false,
            part: PartUse::None,
        };
        transfer.end("f".to_owned(), Ok(moved));
        let text = summary(&transfer, "xxh3", Duration::from_millis(500));
        assert_eq!(text, "1 file, 2.00 KiB in 0.50 s (4.00 KiB/s, xxh3)");
    }
}
