//! A fake server that does what a test tells it, to see how the client takes it.
//!
//! [`FakeServer`] plays a script in a task of its own; with [`FakeConnection`] the test plays both
//! ends itself.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use quire_certs::{Fingerprint, Identity};
use quire_client::Client;
use quire_client::known_servers::ServerId;
use quire_client::trust::ServerVerifier;
use quire_shared::protocol::{Message, Reply, Request};
use quire_shared::{Side, codec};
use quire_transport::congestion::CongestionControl;
use quire_transport::flow::ConnectionFlow;
use quire_transport::flow::windows::WindowBudget;
use quire_transport::stream::{Receiver, Sender};
use tokio::task::JoinSet;

use super::raw::message;
use super::server::id_of;
use super::within;

/// A server that accepts one connection and plays a script on it.
#[derive(Debug)]
pub struct FakeServer {
    id: ServerId,
    fingerprint: Fingerprint,
    script: JoinSet<()>,
}

impl FakeServer {
    /// Starts one that plays `script` on the first connection.
    pub fn start<F>(script: impl FnOnce(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let (endpoint, identity) = listen();
        let address = endpoint.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = endpoint.accept().await.unwrap();
            let connection = incoming.await.unwrap();
            script(connection.clone()).await;
            // Only the client closes the connection, so nothing that it has still to read is cut off.
            connection.closed().await;
            endpoint.wait_idle().await;
        });
        Self {
            id: id_of(address),
            fingerprint: identity.fingerprint(),
            script: tasks,
        }
    }

    /// A client of it.
    pub async fn client(&self) -> Client {
        let identity = Identity::generate(&[]).unwrap();
        connect(&self.id, self.fingerprint, &identity).await
    }

    /// Waits for the end of the script, after every client has gone.
    pub async fn stop(mut self) {
        within("the end of a script", self.script.join_next())
            .await
            .unwrap()
            .unwrap();
    }
}

/// A client, and the server's end of its connection.
#[derive(Debug)]
pub struct FakeConnection {
    /// The client.
    pub client: Client,
    /// The fingerprint of the client's key.
    pub fingerprint: String,
    /// The server's end.
    pub server: Connection,
    // Kept because a connection ends with its endpoint.
    _endpoint: Endpoint,
}

impl FakeConnection {
    /// Connects a client to a new endpoint.
    pub async fn open() -> Self {
        let (endpoint, identity) = listen();
        let id = id_of(endpoint.local_addr().unwrap());
        let own = Identity::generate(&[]).unwrap();
        let accept = async { endpoint.accept().await.unwrap().await.unwrap() };
        let (client, server) = tokio::join!(connect(&id, identity.fingerprint(), &own), accept);
        Self {
            client,
            fingerprint: own.fingerprint().to_string(),
            server,
            _endpoint: endpoint,
        }
    }

    /// The next request, with its stream.
    pub async fn request(&self) -> (Request, Sender, Receiver) {
        let (send, recv) = self.server.accept_bi().await.unwrap();
        let flow = self.flow();
        let mut receiver = Receiver::new(recv, &flow);
        let request = receiver.receive().await.unwrap();
        (request, Sender::new(send, &flow), receiver)
    }

    /// The flow control of the server's end, without a shared budget.
    pub fn flow(&self) -> ConnectionFlow {
        ConnectionFlow::new(self.server.clone(), Side::Server, &WindowBudget::new(0))
    }

    /// Answers the next request with one message, and returns the request.
    pub async fn answer<R: Message>(&self, reply: Reply<R>) -> Request {
        let (request, mut sender, _receiver) = self.request().await;
        sender.send(&reply).await.unwrap();
        sender.finish_and_wait().await.unwrap();
        request
    }
}

/// An endpoint with a new identity, which is configured as the real server's.
fn listen() -> (Endpoint, Identity) {
    let identity = Identity::generate(&["localhost".to_owned()]).unwrap();
    let tls = quire_server::quic::tls::server_config(&identity).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.transport_config(quire_transport::config::server(
        address,
        CongestionControl::default(),
    ));
    let endpoint = Endpoint::server(config, address).unwrap();
    (endpoint, identity)
}

/// A client that trusts only a server with this fingerprint.
async fn connect(server: &ServerId, fingerprint: Fingerprint, own: &Identity) -> Client {
    let verifier = ServerVerifier::pinned(server.clone(), fingerprint);
    Client::connect(server, own, verifier).await.unwrap()
}

/// Accepts a stream and receives its request.
pub async fn request(connection: &Connection) -> (Request, SendStream, RecvStream) {
    let (send, mut recv) = connection.accept_bi().await.unwrap();
    (message(&mut recv).await.unwrap(), send, recv)
}

/// Sends one message.
pub async fn send<M: Message>(stream: &mut SendStream, message: &M) {
    stream
        .write_all(&codec::encode(message).unwrap())
        .await
        .unwrap();
}
