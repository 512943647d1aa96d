//! A real connection over loopback, for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::config;
use crate::congestion::CongestionControl;
use crate::flow::ConnectionFlow;
use crate::flow::windows::WindowBudget;
use crate::socket;
use crate::stream::{Receiver, Sender};
use quire_shared::Side;

/// Both ends of a connection.
#[derive(Debug)]
pub(crate) struct Loopback {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    pub(crate) client_flow: ConnectionFlow,
    pub(crate) server_flow: ConnectionFlow,
    /// Kept because dropping an endpoint closes its connections.
    _endpoints: [Endpoint; 2],
    /// Has the relay change the client's address.
    rebinding: Arc<Rebinding>,
    /// The relay, if there is one.
    _path: JoinSet<()>,
}

/// A change of the client's address.
#[derive(Debug, Default)]
struct Rebinding {
    wanted: Notify,
    done: Notify,
}

/// How datagrams travel between both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Direct,
    /// Through a relay.
    Relayed,
    /// Through a relay that loses some.
    Lossy,
}

impl Loopback {
    /// Connects a client with a server on an unused port, with quire's transport settings.
    pub(crate) async fn connect() -> Self {
        let ours = CongestionControl::default();
        Self::connect_with(ours, ours).await
    }

    /// Connects over a path that loses datagrams, with a budget of `budget` bytes for windows.
    pub(crate) async fn connect_lossy(budget: u64) -> Self {
        let ours = CongestionControl::default();
        Self::connect_over([ours, ours], Route::Lossy, budget).await
    }

    /// Connects over a relay that can change the client's address, without keep-alives.
    pub(crate) async fn connect_relayed() -> Self {
        let ours = CongestionControl::default();
        Self::connect_over([ours, ours], Route::Relayed, u64::MAX / 2).await
    }

    /// Changes the client's address, as a NAT does (RFC 9000, §9), once the path is quiet.
    pub(crate) async fn rebind(&self) {
        self.rebinding.wanted.notify_one();
        self.rebinding.done.notified().await;
    }

    /// Connects with the given congestion control at each end.
    pub(crate) async fn connect_with(
        client_control: CongestionControl,
        server_control: CongestionControl,
    ) -> Self {
        let control = [client_control, server_control];
        Self::connect_over(control, Route::Direct, u64::MAX / 2).await
    }

    async fn connect_over(control: [CongestionControl; 2], route: Route, budget: u64) -> Self {
        let [client_control, server_control] = control;
        let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = certified.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let server = bind();
        let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
        let client = bind();
        config.transport_config(config::server(client.local_addr().unwrap(), server_control));
        server.set_server_config(Some(config));
        let mut roots = RootCertStore::empty();
        roots.add(certificate).unwrap();
        let mut address = server.local_addr().unwrap();
        let mut path = JoinSet::new();
        let rebinding = Arc::<Rebinding>::default();
        if route != Route::Direct {
            let relay = LoopbackRelay {
                near: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
                client: client.local_addr().unwrap(),
                server: address,
                is_lossy: route == Route::Lossy,
            };
            address = relay.near.local_addr().unwrap();
            path.spawn(relay.run(Arc::clone(&rebinding)));
        }
        let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        let mut transport = config::client(address, client_control);
        if route == Route::Relayed {
            let transport = Arc::get_mut(&mut transport).unwrap();
            transport.keep_alive_interval(None);
        }
        config.transport_config(transport);
        let connecting = client.connect_with(config, address, "localhost").unwrap();
        let accepting = async { server.accept().await.unwrap().await };
        let (connected, accepted) = tokio::try_join!(connecting, accepting).unwrap();
        let budget = WindowBudget::new(budget);
        Self {
            client_flow: ConnectionFlow::new(connected.clone(), Side::Client, &budget),
            server_flow: ConnectionFlow::new(accepted.clone(), Side::Server, &budget),
            client: connected,
            server: accepted,
            _endpoints: [client, server],
            rebinding,
            _path: path,
        }
    }

    /// Runs both ends of a stream that the client opens. The server's end starts when the first
    /// packet from the client arrives.
    pub(crate) async fn talk<A, B>(
        &self,
        client: impl AsyncFnOnce(Sender, Receiver) -> A,
        server: impl AsyncFnOnce(Sender, Receiver) -> B,
    ) -> (A, B) {
        let opening = async {
            let (send, recv) = self.client.open_bi().await.unwrap();
            let flow = &self.client_flow;
            client(Sender::new(send, flow), Receiver::new(recv, flow)).await
        };
        let accepting = async {
            let (send, recv) = self.server.accept_bi().await.unwrap();
            let flow = &self.server_flow;
            server(Sender::new(send, flow), Receiver::new(recv, flow)).await
        };
        tokio::join!(opening, accepting)
    }
}

/// Relays datagrams between client and server. Drops those above the MTU of Ethernet, and one in
/// twenty if it is lossy.
struct LoopbackRelay {
    near: UdpSocket,
    client: SocketAddr,
    server: SocketAddr,
    is_lossy: bool,
}

impl LoopbackRelay {
    async fn run(self, rebinding: Arc<Rebinding>) {
        let mut far = self.connect().await;
        let mut there = vec![0; 65_536];
        let mut back = vec![0; 65_536];
        let mut is_rebinding = false;
        for count in 1_u64.. {
            // Pseudo-random, but the same in every run.
            let is_lost = count.wrapping_mul(0x9E37_79B9_7F4A_7C15) < u64::MAX / 20;
            let carries = |length: usize| !(is_lost && self.is_lossy) && length <= 1472;
            tokio::select! {
                Ok(length) = self.near.recv(&mut there) => if carries(length) {
                    let _ = far.send(&there[..length]).await;
                },
                Ok(length) = far.recv(&mut back) => if carries(length) {
                    let _ = self.near.send_to(&back[..length], self.client).await;
                },
                () = rebinding.wanted.notified() => is_rebinding = true,
                () = tokio::time::sleep(QUIET), if is_rebinding => {
                    is_rebinding = false;
                    far = self.connect().await;
                    rebinding.done.notify_one();
                }
            }
        }
    }

    async fn connect(&self) -> UdpSocket {
        let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        far.connect(self.server).await.unwrap();
        far
    }
}

/// Time without datagrams after which a path is quiet: longer than an acknowledgement is delayed.
const QUIET: Duration = Duration::from_millis(100);

fn bind() -> Endpoint {
    let socket = socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket::client(socket).unwrap()
}
