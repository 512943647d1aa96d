//! Settings of the terminal, restored at the end of the session.
//!
//! Line editing changes them. When a signal ends the session, the thread that edits can't restore
//! them, because the program doesn't wait for it.

/// Restores the settings of the terminal on drop.
#[derive(Debug)]
pub(super) struct Restored {
    #[cfg(unix)]
    settings: Option<rustix::termios::Termios>,
}

/// Saves the settings of the terminal on standard input, if it is one.
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
            // Fails if the terminal is gone, and then nothing has to be restored.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, settings);
        }
    }
}
