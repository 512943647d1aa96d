//! The log of one server, while several run in this process.
//!
//! Each server has a runtime and threads of its own, so the thread of a record tells its server. That
//! holds for panics as well, which a hook records before the runtime catches them.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tracing::dispatcher::{self, DefaultGuard, Dispatch};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The records of one server. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Log(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    lines: Vec<String>,
    errors: Vec<String>,
    panics: Vec<String>,
}

impl Log {
    /// Records what the current thread logs from now on.
    pub fn attach(&self) {
        static HOOK: Once = Once::new();
        HOOK.call_once(install_hook);
        let guard = dispatcher::set_default(&Dispatch::new(Recorder(self.clone())));
        ATTACHED.with_borrow_mut(|attached| *attached = Some((self.clone(), guard)));
    }

    /// Stops recording the current thread.
    pub fn detach() {
        ATTACHED.with_borrow_mut(Option::take);
    }

    /// Records at level ERROR.
    pub fn errors(&self) -> Vec<String> {
        self.with(|records| records.errors.clone())
    }

    /// Panics, each with its message and place.
    pub fn panics(&self) -> Vec<String> {
        self.with(|records| records.panics.clone())
    }

    /// Everything that was recorded.
    pub fn lines(&self) -> Vec<String> {
        self.with(|records| records.lines.clone())
    }

    /// The last records, for the message of a failed test.
    pub fn tail(&self) -> String {
        self.with(|records| {
            let from = records.lines.len().saturating_sub(TAIL_LINES);
            records.lines[from..].join("\n")
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Records) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

thread_local! {
    static ATTACHED: RefCell<Option<(Log, DefaultGuard)>> = const { RefCell::new(None) };
}

/// Records panics of attached threads, then runs the previous hook.
fn install_hook() {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let log = ATTACHED.try_with(|attached| {
            let attached = attached.try_borrow().ok()?;
            attached.as_ref().map(|(log, _)| log.clone())
        });
        if let Ok(Some(log)) = log {
            log.with(|records| records.panics.push(info.to_string()));
        }
        previous(info);
    }));
}

/// Records events in a [`Log`]; spans are ignored.
struct Recorder(Log);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
            || metadata.target().starts_with("quire") && *metadata.level() <= Level::DEBUG
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = RecordLine(format!("{} {}:", metadata.level(), metadata.target()));
        event.record(&mut line);
        self.0.with(|records| {
            if *metadata.level() == Level::ERROR {
                records.errors.push(line.0.clone());
            }
            records.lines.push(line.0);
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event as one line of text.
struct RecordLine(String);

impl Visit for RecordLine {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// Number of records shown when a test fails.
const TAIL_LINES: usize = 40;
