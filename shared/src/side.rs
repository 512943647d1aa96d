//! The two ends of a connection.

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that opened the connection and sends requests.
    Client,
    /// The end that accepted the connection and answers requests.
    Server,
}
