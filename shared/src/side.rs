//! The two ends of a connection.

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that opened the connection and sends requests.
    Client,
    /// The end that accepted the connection and answers requests.
    Server,
}

impl Side {
    /// Returns the end that this one is connected with.
    pub const fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}
