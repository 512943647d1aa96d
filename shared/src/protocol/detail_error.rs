//! Why details of a file are refused while they are decoded.

use thiserror::Error;

/// Why a detail of a file is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DetailError {
    /// An extended attribute of another namespace, such as `security`, or without a name besides.
    #[error("an extended attribute isn't one of the namespace `user`")]
    NotUser,
    /// A name that the system would end there.
    #[error("the name of an extended attribute holds NUL")]
    Nul,
    /// A name over its limit.
    #[error("the name of an extended attribute is over its limit")]
    NameTooLong,
    /// A second attribute of the same name.
    #[error("an extended attribute comes twice")]
    Twice,
    /// More attributes, or longer ones, than one file may have here.
    #[error("extended attributes are over their limit")]
    TooMany,
    /// A name that no user or group has.
    #[error("not the name of a user or group")]
    AccountName,
    /// A number that no user or group has.
    #[error("not the number of a user or group")]
    AccountNumber,
}
