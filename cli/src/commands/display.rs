//! How a transfer is shown: its events, its progress, and its summary.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget};
use quire_shared::digest::DigestKind;
use quire_transport::bottleneck::Meter;
use tokio::sync::mpsc;

use crate::event::{Event, EventKind};
use crate::failure::{CommandFailure, HintFlags, Subject};
use crate::output::Output;
use crate::progress;
use crate::session::CliSession;
use quire_client::Client;
use quire_client::download::PartUse;
use quire_client::transfer::{LinkKind, Linked, Moved, Transfer, TransferEvent};

/// A transfer, how it is shown, and when it began.
pub(super) struct TransferDisplay<'a> {
    session: &'a CliSession,
    pub(super) transfer: Arc<Transfer>,
    bar: ProgressBar,
    unexplained: mpsc::UnboundedReceiver<CommandFailure>,
    started: Instant,
}

impl<'a> TransferDisplay<'a> {
    /// Starts the display of a transfer, each of whose files becomes a `moved` event.
    pub(super) fn start(session: &'a CliSession, moved: EventKind, flags: HintFlags) -> Self {
        let bar = progress::bar(&session.output);
        let (to_explain, unexplained) = mpsc::unbounded_channel();
        let observer = Observer {
            output: Arc::clone(&session.output),
            bar: bar.clone(),
            is_verbose: session.config.verdicts,
            moved,
            flags,
            to_explain,
            explained: AtomicUsize::new(0),
        };
        Self {
            session,
            transfer: Transfer::new(move |event| observer.observe(event)),
            bar,
            unexplained,
            started: Instant::now(),
        }
    }

    /// Shows no progress, because the content is typed where it would stand.
    pub(super) fn hide_progress(&self) {
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }

    /// Awaits `work` over `client`, and shows meanwhile how it goes on.
    pub(super) async fn watch(&mut self, client: &Client, work: impl Future<Output = ()>) {
        let output = &self.session.output;
        let unexplained = &mut self.unexplained;
        let work = progress::watch(output, &self.transfer, &self.bar, work);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                Some(failure) = unexplained.recv() => output.fail(&failure.explain(client).await),
                () = &mut work => break,
            }
        }
        // A loss that was noticed outside the passes over the files.
        self.transfer.give_up();
        while let Ok(failure) = unexplained.try_recv() {
            output.fail(&failure.explain(client).await);
        }
    }

    /// Prints what limited the transfer, if --verbose was given.
    pub(super) async fn judge(&self, client: &Client, meter: &Meter) {
        if self.session.config.verdicts && self.transfer.moved() > 0 {
            // A server that is gone by now is not worth another error.
            let verdict = client.judge(meter).await;
            let verdict = verdict.unwrap_or_else(|_| meter.judge(None));
            self.session.output.note(&format!("limited by {verdict}"));
        }
    }

    /// Prints the summary.
    pub(super) fn end(self, digest: DigestKind) {
        // Without a success there is nothing to sum up; each failure has been printed.
        let text = |transfer: &Transfer, elapsed| {
            let has_any = transfer.files() + transfer.directories() + transfer.links() > 0;
            has_any.then(|| progress::summary(transfer, digest.name(), elapsed))
        };
        self.end_with(text, |event| event);
    }

    /// Prints the summary that `text` makes, and `event` completes in JSON.
    pub(super) fn end_with(
        mut self,
        text: impl FnOnce(&Transfer, Duration) -> Option<String>,
        event: impl FnOnce(Event) -> Event,
    ) {
        let elapsed = self.started.elapsed();
        // Those from before there was a client that could explain them.
        while let Ok(failure) = self.unexplained.try_recv() {
            self.session.output.fail(&failure);
        }
        let transfer = &self.transfer;
        let output = &self.session.output;
        output.event(|| {
            event(
                Event::new(EventKind::Summary)
                    .with("files", transfer.files())
                    .with("directories", transfer.directories())
                    .with("links", transfer.links())
                    .with("bytes", transfer.arrived())
                    .with("present", transfer.present())
                    .with("skipped", transfer.skipped())
                    .with("failed", transfer.failed())
                    .with("seconds", elapsed.as_secs_f64()),
            )
        });
        if !output.is_json()
            && let Some(text) = text(transfer, elapsed)
        {
            output.note(&text);
        }
    }
}

/// Prints events as they happen, from any thread.
struct Observer {
    output: Arc<Output>,
    bar: ProgressBar,
    is_verbose: bool,
    moved: EventKind,
    flags: HintFlags,
    to_explain: mpsc::UnboundedSender<CommandFailure>,
    /// How many failures were passed on to be explained.
    explained: AtomicUsize,
}

impl Observer {
    fn observe(&self, event: &TransferEvent) {
        match event {
            TransferEvent::Started { name } => {
                if !self.bar.is_hidden() {
                    self.bar.set_prefix(name.to_string());
                }
            }
            TransferEvent::Moved(moved) => self.moved(moved),
            TransferEvent::Failed { name, error } => {
                let subject = Subject::Item(name.clone());
                self.fail(CommandFailure::new(subject, error, self.flags));
            }
            TransferEvent::Linked(linked) => self.linked(linked),
            TransferEvent::LinksFull(most) => self.output.note(&format!(
                "more than {most} files with several names: the others become a file for each name"
            )),
            TransferEvent::Skipped { name, reason } => {
                self.output.event(|| {
                    Event::new(EventKind::Skipped)
                        .item(name)
                        .with("reason", reason.name())
                });
                if self.is_verbose {
                    self.output.note(&format!("{name}: skipped, {reason}"));
                }
            }
        }
    }

    fn linked(&self, linked: &Linked) {
        self.output.event(|| {
            let event = Event::new(EventKind::Linked)
                .local("local", &linked.local)
                .remote("path", &linked.remote);
            match &linked.kind {
                LinkKind::Symbolic(target) => event
                    .with("link", "symbolic")
                    .bytes("target", target.as_bytes()),
                LinkKind::Hard(first) => {
                    event.with("link", "hard").with("target", first.to_string())
                }
                LinkKind::Copy(first) => {
                    event.with("link", "copy").with("target", first.to_string())
                }
            }
        });
    }

    fn moved(&self, moved: &Moved) {
        self.output.event(|| {
            let event = Event::new(self.moved)
                .local("local", &moved.local)
                .remote("path", &moved.remote)
                .with("bytes", moved.bytes)
                .with("digest", moved.digest_kind.name())
                .with("value", moved.digest.to_string())
                .with("version", moved.version.to_string());
            let event = match moved.grew {
                true => event.with("grew", true),
                false => event,
            };
            match moved.part {
                PartUse::None => event,
                PartUse::Continued(bytes) => event.with("continued", bytes),
                PartUse::Discarded => event.with("continued", 0_u64),
                PartUse::Copied(bytes) => event.with("copied", bytes),
            }
        });
        match moved.part {
            PartUse::None => {}
            PartUse::Continued(bytes) => self.output.note(&format!(
                "{}: went on after {}, which an earlier transfer had left",
                moved.name,
                HumanBytes(bytes)
            )),
            PartUse::Copied(bytes) if self.is_verbose => self.output.note(&format!(
                "{}: {} of it were in the version that was replaced, and not sent",
                moved.name,
                HumanBytes(bytes)
            )),
            PartUse::Copied(_) => {}
            PartUse::Discarded => self.output.note(&format!(
                "{}: sent anew; what an earlier transfer had left was damaged, or of another version",
                moved.name
            )),
        }
        if moved.grew {
            self.output.note(&format!(
                "{}: grew while it was sent; these are its first {} bytes",
                moved.name, moved.bytes
            ));
        }
    }

    /// Prints a failure, or lets it be explained first, which takes requests and so has a bound.
    fn fail(&self, failure: CommandFailure) {
        self.output.note_failure(failure.exit);
        let goes_on = failure.may_be_explained()
            && self.explained.fetch_add(1, Ordering::Relaxed) < EXPLAINED_MAX;
        match goes_on {
            true => {
                if let Err(unsent) = self.to_explain.send(failure) {
                    self.output.fail(&unsent.0);
                }
            }
            false => self.output.fail(&failure),
        }
    }
}

/// Failures of a transfer that are looked into: as many as a person reads.
const EXPLAINED_MAX: usize = 8;
