//! [`Client`]: one method per request, in the order of PROTOCOL.md.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quire_certs::Identity;
use quire_shared::pairing::{Pair, PairingCode};
use quire_shared::protocol::{
    Attributes, Changed, Chmod, Copied, Copy, Delete, DetailKinds, Done, Get, Hash, Hashed, List,
    MakeDirectory, MakeSymlink, Ping, Pong, Put, Rename, Stat, UnfinishedUpload, UploadPage,
    Uploads,
};
use quire_shared::{ErrorCode, RemotePath, Side};
use quire_transport::bottleneck::{Meter, Verdict};
use quire_transport::congestion::CongestionControl;
use quire_transport::flow::ConnectionFlow;

use crate::connect::Connector;
use crate::details::DetailsFailure;
use crate::download::{self, Download, DownloadRequest};
use crate::error::ClientError;
use crate::exchange::{Connection, read_to_end};
use crate::known_servers::ServerId;
use crate::listing::{CacheListing, DirectoryListing};
use crate::trust::ServerVerifier;
use crate::upload::{self, Stored, UploadBody, UploadRequest};

/// A connection to a server. Clones share it.
///
/// Each request is a stream of its own, so any number of requests may run at once. Where the server
/// allows no more streams, a request waits. [`download`](Self::download) and
/// [`upload`](Self::upload) are the convenient way to move one file; the other methods take the
/// protocol's own messages.
///
/// Dropping the last clone closes the connection; [`close`](Self::close) also waits until the server
/// knows.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Connection,
}

impl Connector {
    /// Connects to the first address of the server that answers.
    ///
    /// A later call resumes the session with the address that answered last. It returns before the
    /// handshake is complete, and an error may come with the first request only. Whether the server
    /// grants access to the identity also shows at the first request.
    ///
    /// # Errors
    /// [`ClientError::NotTrusted`] with a reason that may let the caller ask the user and try again;
    /// [`ClientError::CannotConnect`] with all that was tried.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        let connection = self.open().await?;
        Ok(Client { connection })
    }
}

impl Client {
    /// Connects once as `identity` to `server`, if `verifier` trusts what answers there.
    /// [`Client::builder`] is more convenient.
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

    /// The address that answered.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.quic().remote_address()
    }

    /// How long the handshake took; `None` while it is in progress.
    pub fn handshake(&self) -> Option<Duration> {
        let done = self.connection.handshake().completed();
        done.map(|done| done.took)
    }

    /// Whether the connection is open, as far as is known here.
    pub fn is_alive(&self) -> bool {
        self.connection.quic().close_reason().is_none()
    }

    /// The flow control that the streams of this connection share, for measurements.
    pub fn flow(&self) -> &ConnectionFlow {
        self.connection.flow()
    }

    /// Round-trip time, congestion window, MTU and losses of the path, as QUIC sees it now.
    pub fn path(&self) -> quinn::PathStats {
        self.connection.quic().stats().path
    }

    /// Prepares the download of a file.
    ///
    /// ```
    /// # use quire_test_harness::{TestServer, Tree};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let tree = Tree::new().file("report.txt", "all is well");
    /// # let test = TestServer::start(&tree).await;
    /// # let client = test.client().await;
    /// # let scratch = tempfile::tempdir()?;
    /// # let target = scratch.path().join("report.txt");
    /// use quire_client::RemotePath;
    ///
    /// let path = RemotePath::parse("report.txt")?;
    /// client.download(path.clone()).overwrite(true).to_file(&target).await?;
    /// let bytes = client.download(path).range(4..6).to_vec().await?;
    /// assert_eq!(bytes, b"is");
    /// # assert_eq!(std::fs::read(&target)?, b"all is well");
    /// # client.close().await;
    /// # test.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn download(&self, path: RemotePath) -> DownloadRequest<'_> {
        DownloadRequest::new(&self.connection, path)
    }

    /// Prepares the upload of a file.
    ///
    /// ```
    /// # use quire_test_harness::{TestServer, Tree};
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let tree = Tree::new();
    /// # let test = TestServer::start(&tree).await;
    /// # let client = test.client().await;
    /// use quire_client::{ErrorKind, RemotePath};
    ///
    /// let path = RemotePath::parse("notes/today.txt")?;
    /// let stored = client.upload(path.clone()).make_parents(true).from_bytes("milk").await?;
    /// println!("stored as version {}", stored.version);
    ///
    /// // Nothing is replaced unless asked for.
    /// let error = client.upload(path.clone()).from_bytes("bread").await.unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::Conflict);
    /// client.upload(path).overwrite(true).from_bytes("bread").await?;
    /// # assert_eq!(tree.read("notes/today.txt"), b"bread");
    /// # client.close().await;
    /// # test.stop().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn upload(&self, path: RemotePath) -> UploadRequest<'_> {
        UploadRequest::new(&self.connection, path)
    }

    /// Checks that the server answers, and returns its software and this client's rights.
    ///
    /// # Errors
    /// As every request: the server's refusal, or a broken connection.
    pub async fn ping(&self) -> Result<Pong, ClientError> {
        self.connection.ask(Ping::default()).await
    }

    /// Checks that the server knows these details of files, if there are some. One that doesn't, because
    /// it is of an earlier version, ignores them wherever it is asked for them or given them.
    ///
    /// # Errors
    /// [`ClientError::Details`], the server's refusal, or a broken connection.
    pub async fn require_details(&self, kinds: DetailKinds) -> Result<(), ClientError> {
        if kinds.is_empty() || kinds.and(self.ping().await?.details) == kinds {
            return Ok(());
        }
        Err(ClientError::Details(DetailsFailure::Unknown))
    }

    /// Returns what limited a transfer that has just ended, with what the server measured of it.
    ///
    /// # Errors
    /// As every request: the server's refusal, or a broken connection.
    pub async fn judge(&self, meter: &Meter) -> Result<Verdict, ClientError> {
        let transfer = Some(meter.question());
        let pong = self.connection.ask(Ping { transfer }).await?;
        Ok(meter.judge(pong.measured.as_ref()))
    }

    /// Requests a file's content, which the returned handle receives.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn get(&self, get: Get) -> Result<Download, ClientError> {
        download::get(&self.connection, get).await
    }

    /// Uploads `body` as the content of a file; `moved` counts the bytes that were sent.
    ///
    /// # Errors
    /// The server's refusal, [`ClientError::LocalChanged`] if a file changed while it was read, or a
    /// broken connection. Nothing is published then.
    pub async fn put<R: Read + Send + 'static>(
        &self,
        put: Put,
        body: UploadBody<R>,
        moved: &AtomicU64,
    ) -> Result<Stored, ClientError> {
        upload::put(&self.connection, put, body, moved).await
    }

    /// Lists the entries of a directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn list(&self, list: List) -> Result<DirectoryListing, ClientError> {
        DirectoryListing::open(self.connection.clone(), list).await
    }

    /// Requests size, times, mode and version of a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn stat(&self, stat: Stat) -> Result<Attributes, ClientError> {
        self.connection.ask(stat).await
    }

    /// Renames a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn rename(&self, rename: Rename) -> Result<Changed, ClientError> {
        self.connection.ask(rename).await
    }

    /// Deletes a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn delete(&self, delete: Delete) -> Result<Done, ClientError> {
        self.connection.ask(delete).await
    }

    /// Creates a directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn make_directory(&self, make: MakeDirectory) -> Result<Changed, ClientError> {
        self.connection.ask(make).await
    }

    /// Copies a file or directory on the server.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn copy(&self, copy: Copy) -> Result<Copied, ClientError> {
        self.connection.ask(copy).await
    }

    /// Computes a file's digest on the server.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn hash(&self, hash: Hash) -> Result<Hashed, ClientError> {
        self.connection.ask(hash).await
    }

    /// Lists the entries of the server's memory cache.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn cache(&self) -> Result<CacheListing, ClientError> {
        CacheListing::open(self.connection.clone()).await
    }

    /// Lists what interrupted uploads of this client's key have left at or below `path` on the
    /// server, and removes it if `remove` says so, unless it is being received.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn unfinished_uploads(
        &self,
        path: RemotePath,
        remove: bool,
    ) -> Result<Vec<UnfinishedUpload>, ClientError> {
        let mut receiver = self.connection.send(Uploads { path, remove }).await?;
        let mut uploads = Vec::new();
        loop {
            let page: UploadPage = self.connection.answer(&mut receiver).await?;
            uploads.extend(page.entries);
            if page.last {
                read_to_end(&mut receiver).await;
                return Ok(uploads);
            }
        }
    }

    /// Changes the permission bits of a file or directory.
    ///
    /// # Errors
    /// The server's refusal, or a broken connection.
    pub async fn chmod(&self, chmod: Chmod) -> Result<Changed, ClientError> {
        self.connection.ask(chmod).await
    }

    /// Makes a symbolic link, whose target must not lead out of the served directory. It takes the
    /// right `link` on the server.
    ///
    /// # Errors
    /// [`ClientError::NoLinkRight`], [`ClientError::LinkLeadsOut`], [`ClientError::LinksUnsupported`]
    /// for a server of an earlier version, another refusal, or a broken connection.
    pub async fn make_symlink(&self, link: MakeSymlink) -> Result<Changed, ClientError> {
        let target = link.target.clone();
        let made = self.connection.ask(link).await;
        made.map_err(|error| match (error.code(), error) {
            (_, ClientError::NoRight { fingerprint }) => ClientError::NoLinkRight { fingerprint },
            (Some(ErrorCode::UNSUPPORTED), _) => ClientError::LinksUnsupported,
            (Some(ErrorCode::INVALID_PATH), _) => ClientError::LinkLeadsOut {
                place: "the served directory",
                target,
            },
            (_, error) => error,
        })
    }

    /// Registers this client's key with the server by a pairing code, and verifies that the server
    /// knows the same code.
    ///
    /// # Errors
    /// [`ClientError::NotPaired`] if the server doesn't accept the code, or fails to prove that it
    /// knows the code.
    pub async fn pair(&self, code: &PairingCode) -> Result<(), ClientError> {
        // The proof is bound to keys that TLS exports only after the handshake. So a proof that an
        // attacker relays from another connection is worthless.
        self.connection.handshake().complete().await?;
        let key = code.key();
        let quic = self.connection.quic();
        let proof = quire_transport::pairing::proof(&key, Side::Client, quic);
        let proof = proof.map_err(|_| ClientError::NotPaired)?;
        let paired = match self.connection.ask(Pair { proof }).await {
            Err(ClientError::NoRight { .. }) => return Err(ClientError::NotPaired),
            answer => answer?,
        };
        match quire_transport::pairing::proves(&key, Side::Server, quic, paired.proof) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(ClientError::NotPaired),
        }
    }

    /// Closes the connection and waits, for at most a second, until the server has received that. If
    /// it is far, it doesn't wait.
    pub async fn close(self) {
        self.connection.close().await;
    }

    /// The connection, for transfers of many files.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }
}
