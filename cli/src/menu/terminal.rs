//! The settings of the terminal, given back however the session ends.
//!
//! While a line is edited they are altered, and a session that is told to end then doesn't wait
//! for the thread that edits.

/// Puts the terminal's settings back to what they are now when dropped.
#[derive(Debug)]
pub(super) struct Restored {
    #[cfg(unix)]
    settings: Option<rustix::termios::Termios>,
}

/// Remembers the settings of the terminal on standard input, if it is one.
pub(super) fn restored_when_dropped() -> Restored {
    Restored {
        #[cfg(unix)]
        settings: rustix::termios::tcgetattr(std::io::stdin()).ok(),
    }
}

#[cfg(unix)]
impl Drop for Restored {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        if let Some(settings) = &self.settings {
            // A terminal that is gone needs no settings.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, settings);
        }
    }
}
