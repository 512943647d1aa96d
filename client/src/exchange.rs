//! Requests and replies over one connection, below [`Client`](crate::Client).
//!
//! Each request is a bidirectional stream of its own. This file opens it, sends the request, reads
//! the replies, and turns what QUIC reports into [`ClientError`]s.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, Endpoint, ReadError, WriteError};
use quire_certs::Fingerprint;
use quire_shared::protocol::{Failure, Message, Reply, Request, RequestMessage};
use quire_shared::{ErrorCode, Side};
use quire_transport::close;
use quire_transport::error_code::from_quic;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::windows::WindowBudget;
use quire_transport::stream::{ReceiveError, Receiver, SendError, Sender};

use crate::error::ClientError;
use crate::handshake::HandshakeState;

/// A connection to a server. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    endpoint: Endpoint,
    quic: quinn::Connection,
    flow: ConnectionFlow,
    /// This client's own key, which the server names when it refuses access.
    fingerprint: Fingerprint,
    handshake: Arc<HandshakeState>,
}

impl Connection {
    pub(crate) fn new(
        endpoint: Endpoint,
        quic: quinn::Connection,
        handshake: HandshakeState,
        fingerprint: Fingerprint,
    ) -> Self {
        let budget = WindowBudget::new(WINDOWS_BYTES);
        Self {
            flow: ConnectionFlow::new(quic.clone(), Side::Client, &budget),
            endpoint,
            quic,
            fingerprint,
            handshake: Arc::new(handshake),
        }
    }

    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    pub(crate) fn flow(&self) -> &ConnectionFlow {
        &self.flow
    }

    pub(crate) fn handshake(&self) -> &HandshakeState {
        &self.handshake
    }

    /// Closes the connection and waits, unless the server is far, until it has acknowledged that.
    pub(crate) async fn close(self) {
        // Code 0 is not an error code; it means that the client is done.
        close::close(&self.quic, 0_u8.into(), b"");
        let known = async {
            tokio::select! {
                () = close::answered(&self.quic) => {}
                () = self.endpoint.wait_idle() => {}
            }
        };
        let limit = match self.quic.rtt() <= CLOSE_ROUND_TRIP_MAX {
            true => CLOSE_TIMEOUT,
            false => CLOSE_TIMEOUT_FAR,
        };
        // A server that is gone never answers.
        let _ = tokio::time::timeout(limit, known).await;
    }

    /// Sends a request that is one message and receives an answer that is one message.
    pub(crate) async fn ask<M: RequestMessage>(
        &self,
        request: M,
    ) -> Result<M::Answer, ClientError> {
        let mut receiver = self.send(request).await?;
        let answer = self.answer(&mut receiver).await?;
        read_to_end(&mut receiver).await;
        Ok(answer)
    }

    /// Sends a request that is one message, as 0-RTT data if it changes nothing.
    pub(crate) async fn send(&self, request: impl Into<Request>) -> Result<Receiver, ClientError> {
        let request = request.into();
        if self.handshake.completed().is_none() && request.may_be_early() {
            let receiver = self.send_now(&request).await;
            // The reply arrives with the end of the handshake or later, so this wait is free.
            if self.handshake.complete().await?.early_accepted {
                return receiver;
            }
        }
        self.handshake.complete().await?;
        self.send_now(&request).await
    }

    async fn send_now(&self, request: &Request) -> Result<Receiver, ClientError> {
        let (mut sender, receiver) = self.open_now().await?;
        match sender.send(request).await {
            Ok(()) => {}
            // A server that sends STOP_SENDING has put the reason into its reply.
            Err(SendError::Write(WriteError::Stopped(_))) => return Ok(receiver),
            Err(error) => return Err(self.send_error(error)),
        }
        // Fails only for a stream that the server stopped meanwhile.
        let _ = sender.finish();
        Ok(receiver)
    }

    /// Opens the stream of a request once the handshake is complete, so that it can't be replayed.
    pub(crate) async fn open(&self) -> Result<(Sender, Receiver), ClientError> {
        self.handshake.complete().await?;
        self.open_now().await
    }

    async fn open_now(&self) -> Result<(Sender, Receiver), ClientError> {
        let opened = self.quic.open_bi().await;
        let (send, recv) = opened.map_err(|error| self.connection_error(error))?;
        let flow = &self.flow;
        Ok((Sender::new(send, flow), Receiver::new(recv, flow)))
    }

    /// Receives a reply: the answer, or the server's refusal as an error.
    pub(crate) async fn answer<M: Message>(
        &self,
        receiver: &mut Receiver,
    ) -> Result<M, ClientError> {
        let received = receiver.receive().await;
        let reply: Reply<M> = received.map_err(|error| self.receive_error(error))?;
        match reply.into_result() {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                read_to_end(receiver).await;
                Err(self.refusal(failure))
            }
        }
    }

    /// The error for the refusal of a whole request.
    pub(crate) fn refusal(&self, failure: Failure) -> ClientError {
        match failure.code() {
            ErrorCode::NOT_AUTHORIZED => ClientError::NoRight {
                fingerprint: self.fingerprint,
            },
            _ => ClientError::of_failure(failure),
        }
    }

    /// The error for the end of the connection.
    fn connection_error(&self, error: ConnectionError) -> ClientError {
        match error {
            ConnectionError::ApplicationClosed(close) => match from_quic(close.error_code) {
                ErrorCode::NOT_AUTHORIZED => ClientError::NotAuthorized {
                    fingerprint: self.fingerprint,
                },
                code => ClientError::Closed(code),
            },
            error => ClientError::Lost(error),
        }
    }

    pub(crate) fn receive_error(&self, error: ReceiveError) -> ClientError {
        match error {
            ReceiveError::Read(ReadError::Reset(code)) => ClientError::of_code(from_quic(code)),
            ReceiveError::Read(ReadError::ConnectionLost(error)) => self.connection_error(error),
            ReceiveError::Decode(error) => ClientError::Unexpected(error),
            // The rest are misuses of a stream, after which no data arrives either.
            _ => ClientError::Truncated,
        }
    }

    pub(crate) fn send_error(&self, error: SendError) -> ClientError {
        match error {
            SendError::Write(WriteError::Stopped(code)) => ClientError::of_code(from_quic(code)),
            SendError::Write(WriteError::ConnectionLost(error)) => self.connection_error(error),
            SendError::Message(error) => ClientError::Unexpected(error),
            _ => ClientError::Truncated,
        }
    }
}

/// Reads the end of a stream after its last message. Dropping the receiver earlier would send
/// `STOP_SENDING` to a server that did nothing wrong. The last message is valid even if the stream
/// ends with an error.
pub(crate) async fn read_to_end(receiver: &mut Receiver) {
    let _ = tokio::time::timeout(END_TIMEOUT, receiver.expect_end()).await;
}

/// Memory for the flow-control windows of a connection, in bytes: more than the
/// bandwidth-delay product of usual paths.
const WINDOWS_BYTES: u64 = 96 * 1024 * 1024;

/// Time limit for the acknowledgement of a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest round trip for which the acknowledgement is waited for. Nothing depends on it, and on a
/// longer path it would be felt at the end of every command.
const CLOSE_ROUND_TRIP_MAX: Duration = Duration::from_millis(100);

/// Time for the packet to be handed to the system, on such a path.
const CLOSE_TIMEOUT_FAR: Duration = Duration::from_millis(20);

/// Time limit for the end of a stream after its last message; both usually arrive together.
const END_TIMEOUT: Duration = Duration::from_secs(1);
