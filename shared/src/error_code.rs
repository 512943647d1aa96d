//! Error codes: the table of numbers, names and phrases.
//!
//! A code travels in a [`Failure`](crate::protocol::Failure) message, and as the application error
//! code of `RESET_STREAM`, `STOP_SENDING` and `CONNECTION_CLOSE` (RFC 9000, §19.4, §19.5, §19.19).
//! The peer gets the code and its fixed phrase; details stay in the log, because they may reveal
//! what the peer may not know. See PROTOCOL.md, "Error codes".

use std::fmt;

/// Generates constants, names and phrases from one table.
macro_rules! error_codes {
    ($($number:literal $name:ident $phrase:literal;)*) => {
        /// Why a request or a connection failed. Keeps numbers that this version doesn't know.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct ErrorCode(u16);

        #[expect(missing_docs, reason = "each constant's meaning is its phrase in the table")]
        impl ErrorCode {
            $(pub const $name: Self = Self($number);)*

            /// All codes of this version, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the name of the code in PROTOCOL.md, or `None` for an unknown code.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// Returns the meaning of the code as a clause that can follow a name and a colon.
            pub fn phrase(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($phrase),)*
                    _ => None,
                }
            }
        }
    };
}

error_codes! {
    1 INTERNAL "internal error";
    2 MALFORMED "malformed message";
    3 MESSAGE_TOO_LONG "message over its limit";
    4 UNSUPPORTED "not supported by the other side";
    5 INVALID_PATH "not a valid path";
    6 NOT_FOUND "not found";
    7 EXISTS "already exists";
    8 CONFLICT "changed since it was looked at";
    9 IS_DIRECTORY "is a directory";
    10 NOT_DIRECTORY "not a directory";
    11 SPECIAL_FILE "neither a file nor a directory";
    12 NOT_EMPTY "is a directory, which only a recursive request may touch";
    13 NOT_AUTHORIZED "not authorized";
    14 READ_ONLY "the server serves this read-only";
    15 DENIED "the server's system denies access";
    16 BUSY "busy with another request for the same path";
    17 NO_SPACE "no space left on the server";
    18 CHANGED "changed while it was being sent";
    19 DAMAGED "length or digest doesn't match what was sent";
    20 OTHER_FILE_SYSTEM "on another file system";
    21 RANGE "range outside the file";
    22 DISK "the server's disk reported an error";
    23 TIMEOUT "took too long";
    24 CANCELLED "cancelled";
    25 SHUTTING_DOWN "the server is shutting down";
    26 INTO_ITSELF "a directory can't go into itself";
    27 LIMIT "over a limit of the server";
    28 TOO_EARLY "came before the handshake was over";
    29 QUOTA "a quota of the server is used up for now";
    30 ROOT_REMOVED "the served directory was removed; restart the server";
}

impl ErrorCode {
    /// Returns the number on the wire.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Returns the code for a number from the wire, known or not.
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phrase() {
            Some(phrase) => f.write_str(phrase),
            None => write!(f, "error {}", self.0),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "ErrorCode({})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_have_names() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(
                usize::from(code.number()),
                index + 1,
                "numbers have no gaps"
            );
            assert_eq!(ErrorCode::from_number(code.number()), *code);
            assert!(code.name().is_some() && code.phrase().is_some());
        }
    }

    #[test]
    fn a_number_from_a_later_version_is_kept() {
        let code = ErrorCode::from_number(9000);
        assert_eq!(code.number(), 9000);
        assert_eq!(code.to_string(), "error 9000");
        assert_eq!(format!("{code:?}"), "ErrorCode(9000)");
    }
}
