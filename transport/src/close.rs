//! Closing a connection so that the peer hears of it.
//!
//! quinn-proto up to 0.11.19 subjects the packet with `CONNECTION_CLOSE` to congestion control. A
//! closed connection processes no acknowledgements, so a full congestion window never drains: the
//! packet is never sent, and the peer waits for its idle timeout (quinn issue 2785; fixed after
//! 0.11.19). Every transfer that is cut off gets there, and on paths with a large MTU a single MTU
//! probe is enough. As a workaround [`close`] opens the window first.

use std::time::Duration;

use quinn::{Connection, VarInt};

use crate::controller::ControllerHandle;

/// Closes `connection` with `code`. Everything in progress on it fails.
pub fn close(connection: &Connection, code: VarInt, reason: &[u8]) {
    ControllerHandle::of(connection).open();
    connection.close(code, reason);
}

/// Waits until the peer has answered the close of `connection` with its own `CONNECTION_CLOSE`.
///
/// That takes a round trip. `Endpoint::wait_idle` waits for the closing state to end, three probe
/// timeouts (RFC 9000, §10.2): half a second on a path of 80 ms, which a program that ends need not
/// wait for. If the answer is lost this never returns, so callers bound it with `wait_idle`.
pub async fn answered(connection: &Connection) {
    // quinn has no event for this frame, so poll its counter.
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    while connection.stats().frame_rx.connection_close == 0 {
        poll.tick().await;
    }
}

/// Short compared with the round trip of any path on which the wait matters.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use quinn::ConnectionError;

    use super::*;
    use crate::loopback::Loopback;

    #[tokio::test]
    async fn an_answered_close_is_known_to_the_peer() {
        let both = Loopback::connect().await;
        close(&both.client, 7_u8.into(), b"");
        answered(&both.client).await;
        let reason = both.server.close_reason();
        let Some(ConnectionError::ApplicationClosed(close)) = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(close.error_code, 7_u8.into());
    }
}
