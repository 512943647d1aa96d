//! A server that does what a test tells it, to see how the client takes it.

use std::future::Future;
use std::sync::Arc;

use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use quire_certs::{Fingerprint, Identity};
use quire_client::Client;
use quire_client::known_servers::ServerId;
use quire_client::trust::ServerVerifier;
use quire_shared::codec;
use quire_shared::protocol::{Message, Request};
use quire_transport::congestion::CongestionControl;
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
        let identity = Identity::generate(&["localhost".to_owned()]).unwrap();
        let tls = quire_server::quic::tls::server_config(&identity).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        let any = (std::net::Ipv4Addr::LOCALHOST, 0).into();
        config.transport_config(quire_transport::config::server(
            any,
            CongestionControl::default(),
        ));
        let endpoint = Endpoint::server(config, any).unwrap();
        let address = endpoint.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let incoming = endpoint.accept().await.unwrap();
            let connection = incoming.await.unwrap();
            script(connection.clone()).await;
            // The client has seen what it had to see when it closes; until then nothing is cut.
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
        let verifier = ServerVerifier::pinned(self.id.clone(), self.fingerprint);
        let identity = Identity::generate(&[]).unwrap();
        Client::connect(&self.id, &identity, verifier)
            .await
            .unwrap()
    }

    /// Waits for the end of the script, once every client is gone.
    pub async fn stop(mut self) {
        within("the end of a script", self.script.join_next())
            .await
            .unwrap()
            .unwrap();
    }
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
