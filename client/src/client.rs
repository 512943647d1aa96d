//! One connection to a server, with one method per request, in the order of PROTOCOL.md.
//!
//! Each request is a stream of its own, so a [`Client`] may be cloned and asked many things at
//! once; where the server allows no more streams, a request waits for its turn. What a request
//! receives is checked here or in the handle that it returns.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, ReadError, WriteError};
use quire_certs::{Fingerprint, Identity};
use quire_shared::codec::DecodeError;
use quire_shared::pairing::{Pair, PairingCode};
use quire_shared::protocol::{
    Attributes, Changed, Copy, Delete, Done, EntryKind, Failure, Get, GetHeader, GetTree, Hash,
    Hashed, List, ListCache, MakeDirectory, Message, Ping, Pong, Put, Rename, Reply, Request,
    RequestMessage, Stat,
};
use quire_shared::{ErrorCode, Side};
use quire_transport::close;
use quire_transport::congestion::CongestionControl;
use quire_transport::error_code::from_quic;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::windows::WindowBudget;
use quire_transport::stream::{ReceiveError, Receiver, SendError, Sender};

use crate::connect::{Connected, Connector};
use crate::download::Download;
use crate::error::ClientError;
use crate::handshake::HandshakeState;
use crate::known_servers::ServerId;
use crate::listing::{CacheListing, DirectoryListing};
use crate::trust::ServerVerifier;
use crate::upload::{self, Stored, UploadBody};

/// A connection to a server. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    connection: Connection,
    flow: ConnectionFlow,
    fingerprint: Fingerprint,
    handshake: Arc<HandshakeState>,
}

impl Client {
    /// Connects once as `identity` to `server`, if `verifier` trusts what answers there.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect(
        server: &ServerId,
        identity: &Identity,
        verifier: ServerVerifier,
    ) -> Result<Self, ClientError> {
        let congestion = CongestionControl::default();
        Connector::new(server, identity, verifier, congestion)?
            .connect()
            .await
    }

    pub(crate) fn new(connected: Connected, fingerprint: Fingerprint) -> Self {
        let connection = connected.connection;
        let windows = WindowBudget::new(WINDOWS_BYTES);
        Self {
            flow: ConnectionFlow::new(connection.clone(), Side::Client, &windows),
            endpoint: connected.endpoint,
            connection,
            fingerprint,
            handshake: Arc::new(connected.handshake),
        }
    }

    /// The address that answered.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// How long the handshake took; `None` while it is under way.
    pub fn handshake(&self) -> Option<Duration> {
        self.handshake.over().map(|over| over.took)
    }

    /// Whether the connection still stands, as far as is known here.
    pub fn is_alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// What the streams of this connection share, for whoever measures it.
    pub fn flow(&self) -> &ConnectionFlow {
        &self.flow
    }

    /// What the path gives, as the transport sees it now.
    pub fn path(&self) -> quinn::PathStats {
        self.connection.stats().path
    }

    /// Asks whether the server is there and what it is.
    ///
    /// # Errors
    /// As every request: the server's refusal, or a broken connection.
    pub async fn ping(&self) -> Result<Pong, ClientError> {
        self.ask(Ping {}).await
    }

    /// Asks for a file's content, which the returned handle receives.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn get(&self, get: Get) -> Result<Download, ClientError> {
        let (offset, wanted, digest) = (get.offset, get.length, get.digest);
        let mut receiver = self.send(get).await?;
        let header: GetHeader = self.answer(&mut receiver).await?;
        let available = header.size.saturating_sub(offset);
        if header.length != wanted.map_or(available, |wanted| wanted.min(available)) {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        Ok(Download::new(self.clone(), receiver, header, digest))
    }

    /// Offers `content` as the new content of a file; `moved` counts the bytes that went out.
    ///
    /// # Errors
    /// The server's refusal, [`ClientError::Changed`] when a file changed while it was read, or a
    /// broken connection. Nothing is published then.
    pub async fn put<R: Read + Send + 'static>(
        &self,
        put: Put,
        content: UploadBody<R>,
        moved: &AtomicU64,
    ) -> Result<Stored, ClientError> {
        upload::put(self, put, content, moved).await
    }

    /// Asks for the entries of a directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn list(&self, list: List) -> Result<DirectoryListing, ClientError> {
        DirectoryListing::open(self.clone(), list).await
    }

    /// Asks what is known of a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn stat(&self, stat: Stat) -> Result<Attributes, ClientError> {
        self.ask(stat).await
    }

    /// Gives a file or directory a new name.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn rename(&self, rename: Rename) -> Result<Changed, ClientError> {
        self.ask(rename).await
    }

    /// Deletes a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn delete(&self, delete: Delete) -> Result<Done, ClientError> {
        self.ask(delete).await
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn make_directory(&self, make: MakeDirectory) -> Result<Changed, ClientError> {
        self.ask(make).await
    }

    /// Has the server copy a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn copy(&self, copy: Copy) -> Result<Changed, ClientError> {
        self.ask(copy).await
    }

    /// Has the server compute a file's digest.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn hash(&self, hash: Hash) -> Result<Hashed, ClientError> {
        self.ask(hash).await
    }

    /// Asks what the server's memory cache holds.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn cache(&self) -> Result<CacheListing, ClientError> {
        let receiver = self.send(ListCache {}).await?;
        CacheListing::open(self.clone(), receiver).await
    }

    /// Asks for a directory with all that is below it.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub(crate) async fn get_tree(
        &self,
        get: GetTree,
    ) -> Result<(Attributes, Receiver), ClientError> {
        let mut receiver = self.send(get).await?;
        let attributes: Attributes = self.answer(&mut receiver).await?;
        if attributes.kind != EntryKind::Directory {
            return Err(ClientError::Unexpected(DecodeError::Malformed));
        }
        Ok((attributes, receiver))
    }

    /// Asks to be let in with a code, and has the server prove that it knows the same.
    ///
    /// # Errors
    /// [`ClientError::NotPaired`] if the code is no good, or whoever answered doesn't know it.
    pub async fn pair(&self, code: &PairingCode) -> Result<(), ClientError> {
        // The proof is of this one connection, which has to stand.
        self.handshake.end().await?;
        let key = code.key();
        let proof = quire_transport::pairing::proof(&key, Side::Client, &self.connection);
        let proof = proof.map_err(|_| ClientError::NotPaired)?;
        let paired = match self.ask(Pair { proof }).await {
            Err(ClientError::NoRight { .. }) => return Err(ClientError::NotPaired),
            answer => answer?,
        };
        match quire_transport::pairing::proves(&key, Side::Server, &self.connection, paired.proof) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(ClientError::NotPaired),
        }
    }

    /// Ends the connection and waits until the server knows, or could have known.
    pub async fn close(self) {
        // Code 0 is none of the error codes: the client is done.
        close::close(&self.connection, 0_u8.into(), b"");
        let known = async {
            tokio::select! {
                () = close::answered(&self.connection) => {}
                () = self.endpoint.wait_idle() => {}
            }
        };
        // A server that has vanished needn't hear of it.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, known).await;
    }

    /// Sends a request that is one message and receives an answer that is one message.
    async fn ask<R: RequestMessage>(&self, request: R) -> Result<R::Answer, ClientError> {
        let mut receiver = self.send(request).await?;
        let answer = self.answer(&mut receiver).await?;
        read_to_end(&mut receiver).await;
        Ok(answer)
    }

    /// Sends a request that is one message.
    pub(crate) async fn send(&self, request: impl Into<Request>) -> Result<Receiver, ClientError> {
        let request = request.into();
        if self.handshake.over().is_none() && request.may_be_early() {
            let receiver = self.send_now(&request).await;
            // The reply comes along with the end of the handshake, so nothing is lost by waiting.
            if self.handshake.end().await?.early_accepted {
                return receiver;
            }
        }
        self.handshake.end().await?;
        self.send_now(&request).await
    }

    async fn send_now(&self, request: &Request) -> Result<Receiver, ClientError> {
        let (mut sender, receiver) = self.open_now().await?;
        match sender.send(request).await {
            Ok(()) => {}
            // A server that stops reading has said in a reply why.
            Err(SendError::Write(WriteError::Stopped(_))) => return Ok(receiver),
            Err(error) => return Err(self.send_error(error)),
        }
        // Fails only for a stream that the server stopped meanwhile.
        let _ = sender.finish();
        Ok(receiver)
    }

    /// Opens the stream of a request, once nobody can have it carried out a second time.
    pub(crate) async fn open(&self) -> Result<(Sender, Receiver), ClientError> {
        self.handshake.end().await?;
        self.open_now().await
    }

    async fn open_now(&self) -> Result<(Sender, Receiver), ClientError> {
        let (send, recv) = self
            .connection
            .open_bi()
            .await
            .map_err(|error| self.connection_error(error))?;
        let flow = &self.flow;
        Ok((Sender::new(send, flow), Receiver::new(recv, flow)))
    }

    /// Receives a reply, and what it was asked for if the server didn't refuse.
    pub(crate) async fn answer<R: Message>(
        &self,
        receiver: &mut Receiver,
    ) -> Result<R, ClientError> {
        let reply: Reply<R> = receiver
            .receive()
            .await
            .map_err(|error| self.receive_error(error))?;
        match reply.into_result() {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                read_to_end(receiver).await;
                Err(self.refusal(failure))
            }
        }
    }

    /// What the refusal of a whole request means to the user.
    pub(crate) fn refusal(&self, failure: Failure) -> ClientError {
        match failure.code() {
            ErrorCode::NOT_AUTHORIZED => ClientError::NoRight {
                fingerprint: self.fingerprint,
            },
            _ => ClientError::of_failure(failure),
        }
    }

    /// What a connection's end means to the user.
    pub(crate) fn connection_error(&self, error: ConnectionError) -> ClientError {
        match error {
            ConnectionError::ApplicationClosed(close) => match from_quic(close.error_code) {
                ErrorCode::NOT_AUTHORIZED => self.not_authorized(),
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
            // The rest are misuses of a stream, after which nothing comes either.
            _ => ClientError::Truncated,
        }
    }

    pub(crate) fn send_error(&self, error: SendError) -> ClientError {
        match error {
            SendError::Write(error) => self.write_error(error),
            SendError::Message(error) => ClientError::Unexpected(error),
            _ => ClientError::Truncated,
        }
    }

    fn write_error(&self, error: WriteError) -> ClientError {
        match error {
            WriteError::Stopped(code) => ClientError::of_code(from_quic(code)),
            WriteError::ConnectionLost(error) => self.connection_error(error),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => ClientError::Truncated,
        }
    }

    fn not_authorized(&self) -> ClientError {
        ClientError::NotAuthorized {
            fingerprint: self.fingerprint,
        }
    }
}

/// Reads the end of a stream whose last message has come, so that dropping it tells the server
/// nothing. That message stands whatever follows, so how the stream ends changes nothing.
pub(crate) async fn read_to_end(receiver: &mut Receiver) {
    let _ = tokio::time::timeout(END_TIMEOUT, receiver.expect_end()).await;
}

/// Memory for the windows of a connection, in bytes: as much as any path makes use of.
const WINDOWS_BYTES: u64 = 96 * 1024 * 1024;

/// How long the last packet may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end of a stream may come after its last message; it mostly comes along.
const END_TIMEOUT: Duration = Duration::from_secs(1);
