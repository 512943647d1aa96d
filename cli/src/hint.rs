//! Hints in error messages: the flag or command that helps.

use quire_client::trust::Refusal;
use quire_client::{ClientError, ErrorCode};

/// The flags of a command that could have avoided an error of the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HintFlags {
    /// Whether it takes `--force`.
    pub(crate) force: bool,
    /// If it takes `-r`, the code with which the server refuses a directory without that.
    pub(crate) recursive: Option<ErrorCode>,
}

impl HintFlags {
    /// Commands without such flags.
    pub(crate) const NONE: Self = Self {
        force: false,
        recursive: None,
    };

    /// Commands that change the server's files.
    pub(crate) const CHANGE: Self = Self {
        force: true,
        recursive: Some(ErrorCode::NOT_EMPTY),
    };

    /// Downloads.
    pub(crate) const GET: Self = Self {
        force: true,
        recursive: Some(ErrorCode::IS_DIRECTORY),
    };
}

/// The message for `error` with the hint that fits, in one line.
pub(crate) fn with_hint(error: &ClientError, flags: HintFlags) -> String {
    match error {
        ClientError::LocalExists(_) => format!("{error} {FORCE}"),
        ClientError::LocalDirectory(_) => format!("{error} {RECURSIVE}"),
        ClientError::NotPaired => {
            format!("{error}; get a new one with `quire-server pair` on the server")
        }
        ClientError::NotTrusted(refusal) if matches!(**refusal, Refusal::Unknown { .. }) => {
            format!(
                "{error}; if the server printed that fingerprint at its start, connect once from \
                 a terminal and confirm it, or use --trust-on-first-use"
            )
        }
        error => match error.code() {
            Some(ErrorCode::EXISTS) if flags.force => format!("{error} {FORCE}"),
            // The server's phrase is about the protocol's recursive flag, not about `-r`.
            code if code.is_some() && code == flags.recursive => {
                format!("is a directory {RECURSIVE}")
            }
            _ => error.to_string(),
        },
    }
}

const FORCE: &str = "(--force replaces it)";

const RECURSIVE: &str = "(-r includes it with everything below it)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_named_only_where_the_command_takes_it() {
        let text = |code, flags| with_hint(&ClientError::of_code(code), flags);
        for flags in [HintFlags::GET, HintFlags::CHANGE] {
            assert_eq!(
                text(ErrorCode::EXISTS, flags),
                "already exists (--force replaces it)"
            );
        }
        assert_eq!(text(ErrorCode::EXISTS, HintFlags::NONE), "already exists");
        assert!(text(ErrorCode::NOT_EMPTY, HintFlags::CHANGE).contains("-r"));
        assert!(text(ErrorCode::IS_DIRECTORY, HintFlags::GET).contains("-r"));
        assert!(!text(ErrorCode::IS_DIRECTORY, HintFlags::CHANGE).contains("-r"));
        assert_eq!(text(ErrorCode::BUSY, HintFlags::NONE), {
            ClientError::of_code(ErrorCode::BUSY).to_string()
        });
        let exists = ClientError::LocalExists("f".into());
        assert!(with_hint(&exists, HintFlags::NONE).contains("--force"));
    }
}
